//! One attempt: a request to one endpoint, on a pooled connection or a new one, up to the head of its response. The
//! same for both directions; what differs is how a connection is made and how long an idle one is trusted.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use outrigger_core::reason::Reason;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, timeout},
};

use crate::{
    headers,
    http::{Gate, Limits, RequestBody, Upload, is_idempotent},
    outbound::refused_us,
    pool::{Lease, Pool, Slot, Upstream},
    telemetry::{Exchange, Telemetry},
};

/// Makes connections to one endpoint.
pub(crate) trait Connect: Sync {
    /// Makes one. Bounded in time by the caller.
    fn connect(&self) -> impl Future<Output = Result<Upstream, Reason>> + Send;
}

/// Begins HTTP/1 on a connection to an upstream. Its task ends with it, or when it has to be `cut`.
pub(crate) async fn handshake<T, C>(io: T, limits: &Limits, cut: C) -> Result<Upstream, Reason>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Future<Output = ()> + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_header_size(limits.head_bytes).max_buf_size(limits.head_bytes.saturating_add(8 * 1024));
    if limits.head_fields != 100 {
        builder.max_headers(limits.head_fields);
    }
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(|error| {
        tracing::debug!(%error, "connection could not be used");
        Reason::ConnectFailed
    })?;
    tokio::spawn(async move {
        tokio::select! {
            biased;
            ended = connection => if let Err(error) = ended {
                tracing::debug!(error = &error as &dyn std::error::Error, "upstream connection ended");
            },
            () = cut => {}
        }
    });
    Ok(Upstream::new(sender))
}

/// Where and how.
#[derive(Debug)]
pub(crate) struct Attempt<'a, C> {
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) connect: &'a C,
    pub(crate) connect_timeout: Duration,
    /// A connection that was idle for longer is not used for this request.
    pub(crate) max_idle: Duration,
    pub(crate) limits: &'a Limits,
    pub(crate) telemetry: &'a Telemetry,
}

/// A request's head, kept to send it again.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

enum Failed {
    /// Nothing was written: the request is as good as new.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke before the first byte of a response.
    Broke,
    /// The same, with an alert that ended it.
    Refused,
    /// Everything else.
    For(Reason),
}

impl<C: Connect> Attempt<'_, C> {
    /// Sends `request`; returns the response's head, with the connection that the rest of it comes on.
    ///
    /// A pooled connection may have been closed by the other side in the meantime. Then the request is sent once more,
    /// on a new one: any request of which nothing was written; else only one that is idempotent and has no body.
    /// Cancel safe: dropped, the request is aborted upstream.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
        upload: &Arc<Upload>,
        exchange: &mut Exchange,
    ) -> Result<(Response<Incoming>, Lease), Reason> {
        let started = Instant::now();
        exchange.stamp(|stamps| {
            stamps.first_attempt = Some(started.into_std());
            stamps.attempt = Some(started.into_std());
        });
        let slot = self.pool.permit().await?;
        let (pooled, closed) = slot.reuse(self.max_idle).await;
        self.telemetry.metrics().pool_replaced.inc_by(closed);
        exchange.stamp(|stamps| stamps.queued = started.elapsed());
        let Some(upstream) = pooled else {
            // Boxed: most requests find a connection, and need not carry the making of one.
            return Box::pin(self.send_fresh(slot, request, upload, exchange)).await;
        };
        let head = repeatable(&request, upload);
        let (slot, request) = match self.send_on(slot, upstream, request, upload, exchange).await {
            Ok(answered) => return Ok(answered),
            Err((slot, Failed::Unsent(request))) => (slot, *request),
            Err((slot, Failed::Broke | Failed::Refused)) => match head {
                Some(head) => (slot, head.into_request(upload)),
                None => return Err(Reason::UpstreamReset),
            },
            Err((_, Failed::For(reason))) => return Err(reason),
        };
        self.telemetry.metrics().pool_replaced.inc();
        let again = Instant::now();
        exchange.stamp(|stamps| {
            stamps.attempt = Some(again.into_std());
            stamps.queued = Duration::ZERO;
        });
        Box::pin(self.send_fresh(slot, request, upload, exchange)).await
    }

    async fn send_fresh(
        &self,
        slot: Slot,
        request: Request<RequestBody>,
        upload: &Arc<Upload>,
        exchange: &mut Exchange,
    ) -> Result<(Response<Incoming>, Lease), Reason> {
        let started = Instant::now();
        let connected = timeout(self.connect_timeout, self.connect.connect()).await;
        exchange.stamp(|stamps| stamps.connecting = started.elapsed());
        let upstream = connected.map_err(|_elapsed| Reason::ConnectTimeout)??;
        match self.send_on(slot, upstream, request, upload, exchange).await {
            Ok(answered) => Ok(answered),
            Err((_, Failed::Unsent(_))) => Err(Reason::ConnectFailed),
            Err((_, Failed::Broke)) => Err(Reason::UpstreamReset),
            // On a new connection it is our certificate that was refused, and nothing was served.
            Err((_, Failed::Refused)) => Err(Reason::PeerRejected),
            Err((_, Failed::For(reason))) => Err(reason),
        }
    }

    async fn send_on(
        &self,
        slot: Slot,
        mut upstream: Upstream,
        request: Request<RequestBody>,
        upload: &Arc<Upload>,
        exchange: &mut Exchange,
    ) -> Result<(Response<Incoming>, Lease), (Slot, Failed)> {
        let expects = upload.is_expecting();
        exchange.stamp(|stamps| stamps.handed_on = Some(Instant::now().into_std()));
        let answer = upstream.sender().try_send_request(request);
        tokio::pin!(answer);
        let answer = tokio::select! {
            biased;
            answer = answer.as_mut() => answer,
            () = sleep(self.limits.continue_timeout), if expects => {
                upload.continued();
                answer.await
            }
        };
        match answer {
            Ok(response) => {
                exchange.stamp(|stamps| stamps.response_head = Some(Instant::now().into_std()));
                if let Err(reason) = check_response(&response) {
                    return Err((slot, Failed::For(reason)));
                }
                pause_upload(&response, upload);
                Ok((response, slot.lease(upstream)))
            }
            Err(mut error) => {
                if let Some(request) = error.take_message() {
                    return Err((slot, Failed::Unsent(Box::new(request))));
                }
                let error = error.into_error();
                tracing::debug!(error = &error as &dyn std::error::Error, "attempt failed");
                Err((slot, why(&error, upload)))
            }
        }
    }
}

fn why(error: &hyper::Error, upload: &Upload) -> Failed {
    if let Some(reason) = upload.failure() {
        return Failed::For(reason);
    }
    if refused_us(error) {
        return Failed::Refused;
    }
    if error.is_parse() {
        return Failed::For(Reason::BadResponse);
    }
    Failed::Broke
}

/// A response that could be understood in two ways, or that leaves HTTP although nobody asked for it.
fn check_response(response: &Response<Incoming>) -> Result<(), Reason> {
    let headers = response.headers();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let one_length = match (lengths.next(), lengths.next()) {
        (None, _) => true,
        (Some(length), None) => length.as_bytes().iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !headers.contains_key(header::CONTENT_LENGTH)
        }
        _ => false,
    };
    if one_length && coding && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        Ok(())
    } else {
        Err(Reason::BadResponse)
    }
}

/// An answer that came before the request's end, from an upstream that wants no more of it. What is still sent would
/// meet a closed connection, and the reset could overtake the answer.
fn pause_upload(response: &Response<Incoming>, upload: &Upload) {
    let refuses = response.status().is_client_error() || response.status().is_server_error();
    if upload.ended().is_none()
        && (upload.is_expecting() || refuses || headers::says_close(response.headers()))
    {
        upload.set_gate(Gate::Answered);
    }
}

fn repeatable(request: &Request<RequestBody>, upload: &Upload) -> Option<Head> {
    // Without a body the upload ended before it began.
    (upload.ended().is_some() && is_idempotent(request.method())).then(|| Head {
        method: request.method().clone(),
        uri: request.uri().clone(),
        headers: request.headers().clone(),
    })
}

impl Head {
    fn into_request(self, upload: &Arc<Upload>) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::none(Arc::clone(upload)));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}
