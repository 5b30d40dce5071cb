//! One attempt: a request to one upstream, on a connection that was found or made, up to the head of its response. The
//! same for both directions; what differs is how a connection is made and how long an idle one is trusted.

mod waiting;

use std::{error::Error as StdError, pin::Pin, sync::Arc, task::Poll, time::Duration};

use h2::{RecvStream, client::ResponseFuture};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, response};
use hyper::{body::Incoming, ext};
use outrigger_core::reason::Reason;
use tokio::time::{Instant, sleep};

pub(super) use waiting::Waited;

use super::{Connect, Occupied, Upstream, UpstreamBody, body, http1::Lease};
use crate::{
    headers,
    http::{Gate, Limits, RequestBody, Upload, has_one_length, is_idempotent},
    telemetry::{Exchange, Telemetry},
};
use waiting::wait;

/// Longest body that is taken for written together with its head, bytes.
const SHORT: u64 = 16 * 1024;

/// What a request is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    /// A connection of its own for as long as it takes: all of HTTP/1.1 can be said there.
    Http1,
    /// A stream among others.
    Http2,
}

/// Bounds on getting a connection.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    /// One that was idle for longer is not used for this request.
    pub(crate) max_idle: Duration,
    /// How long one is kept that nobody uses.
    pub(crate) keep: Duration,
    /// TCP and TLS together.
    pub(crate) connect_timeout: Duration,
    /// How long to wait while the destination has no connection left.
    pub(crate) queue_timeout: Duration,
    /// How many the destination may have.
    pub(crate) connections: u32,
    /// How many requests may wait there.
    pub(crate) pending: u32,
}

/// A request's head, which may be sent more than once.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// `/path`, or absolute where an HTTP/2 upstream is told its authority.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

/// A response's head, and where the rest of it comes from.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    pub(crate) body: UpstreamBody,
    /// `None`: the rest is here already.
    pub(crate) occupied: Option<Occupied>,
    /// What a sidecar said in place of its application, and whether no application saw the request; whoever believes the
    /// upstream looks for it.
    pub(crate) refused: Option<(Reason, bool)>,
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) reason: Reason,
    /// No application saw the request, and any may be asked instead.
    pub(crate) unprocessed: bool,
}

impl Failed {
    pub(crate) fn before(reason: Reason) -> Self {
        Self { reason, unprocessed: true }
    }

    pub(crate) fn after(reason: Reason) -> Self {
        Self { reason, unprocessed: false }
    }

    /// `processed`: an application may have seen the request before it failed so.
    fn or_processed(self, processed: bool) -> Self {
        if processed { Self::after(Reason::UpstreamReset) } else { self }
    }
}

/// Where and how.
#[derive(Debug)]
pub(crate) struct Attempt<'a, C> {
    pub(crate) upstream: &'a Upstream<C>,
    pub(crate) leg: Leg,
    pub(crate) demand: Demand,
    pub(crate) limits: &'a Limits,
    pub(crate) telemetry: &'a Telemetry,
    /// Whether `1xx` answers that are not passed on are counted here.
    pub(crate) counts_informational: bool,
}

impl<C: Connect> Attempt<'_, C> {
    /// Sends a request; returns the response's head, with the connection that the rest of it comes on.
    ///
    /// A pooled connection may have been closed by the other side in the meantime. Then the request is sent once more,
    /// on a new one: any request of which nothing was written; else only one that is idempotent and whose body is
    /// still there. Cancel safe: dropped, the request is aborted upstream.
    pub(crate) async fn send(
        &self,
        head: Head,
        upload: &Arc<Upload>,
        exchange: &mut Exchange,
    ) -> Result<Answer, Failed> {
        let started = Instant::now().into_std();
        exchange.stamp(|stamps| stamps.begin_attempt(started));
        match self.leg {
            // Boxed: twice the other one.
            Leg::Http1 => Box::pin(self.send_http1(head, upload, exchange)).await,
            Leg::Http2 => self.send_http2(head, upload, exchange).await,
        }
    }

    /// `begin`: of the wait, which is also its end if there was none.
    fn waited(&self, waited: Waited, begin: Instant, exchange: &mut Exchange) {
        if waited.closed > 0 {
            self.telemetry.metrics().pool_replaced.inc_by(waited.closed);
        }
        let end = if waited.is_nothing() { begin } else { Instant::now() };
        exchange.stamp(|stamps| {
            stamps.queued += waited.queued;
            stamps.connecting += waited.connecting;
            stamps.handed_on = Some(end.into_std());
        });
    }

    async fn send_http1(
        &self,
        head: Head,
        upload: &Arc<Upload>,
        exchange: &mut Exchange,
    ) -> Result<Answer, Failed> {
        let repeatable = is_idempotent(&head.method);
        let mut request = head.request(upload);
        let mut demand = self.demand.clone();
        // Something was sent, on a connection that broke: whatever comes now, it may have been processed.
        let mut broke = false;
        loop {
            let pool = &self.upstream.http1;
            let acquired = wait(pool.acquire(&demand), || pool.is_connecting(), exchange).await;
            let ((mut lease, waited), begin) = acquired.map_err(|failed| failed.or_processed(broke))?;
            self.waited(waited, begin, exchange);
            let kept = (repeatable && !waited.fresh && upload.is_replayable()).then(|| Head {
                method: request.method().clone(),
                uri: request.uri().clone(),
                headers: request.headers().clone(),
            });
            let sent = self.send_on(&mut lease, request, upload).await;
            // What was sent meanwhile may have been too much to keep.
            let kept = kept.filter(|_| upload.is_replayable());
            match sent {
                Ok(response) => {
                    exchange.stamp(|stamps| stamps.response_head = Some(Instant::now().into_std()));
                    pause_upload(&response, upload);
                    let (head, body) = response.into_parts();
                    let body = UpstreamBody::Http1(body).with_begin(is_short(&head.headers)).await;
                    let occupied = Some(Occupied::Http1(lease));
                    return Ok(Answer { head, body, occupied, refused: None });
                }
                Err(NoAnswer::Unsent(unsent)) if !waited.fresh => request = *unsent,
                Err(NoAnswer::Unsent(_)) => {
                    return Err(Failed::before(Reason::ConnectFailed).or_processed(broke));
                }
                Err(NoAnswer::Broke) if let Some(head) = kept => {
                    broke = true;
                    upload.rewind();
                    request = head.request(upload);
                }
                // On a new connection it is our certificate that was refused, and nothing was served.
                Err(NoAnswer::Broke) if waited.fresh && lease.connection().is_refused() => {
                    return Err(Failed::before(Reason::PeerRejected).or_processed(broke));
                }
                Err(NoAnswer::Broke) => return Err(Failed::after(Reason::UpstreamReset)),
                Err(NoAnswer::For(reason)) => return Err(Failed::after(reason)),
            }
            // From now on only a new one.
            self.telemetry.metrics().pool_replaced.inc();
            demand.max_idle = Duration::ZERO;
            exchange.stamp(|stamps| stamps.begin_attempt(Instant::now().into_std()));
        }
    }

    async fn send_on(
        &self,
        lease: &mut Lease,
        mut request: Request<RequestBody>,
        upload: &Arc<Upload>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        self.on_informational(&mut request, upload);
        let asked = request.headers().get(header::UPGRADE).cloned();
        if asked.is_some() {
            lease.connection().may_switch();
        }
        let expects = upload.is_expecting();
        let answer = lease.connection().sender().try_send_request(request);
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
            Ok(response) => match check_response(&response, asked.as_ref()) {
                Ok(()) => Ok(response),
                Err(reason) => Err(NoAnswer::For(reason)),
            },
            Err(mut error) => {
                if let Some(request) = error.take_message() {
                    return Err(NoAnswer::Unsent(Box::new(request)));
                }
                let error = error.into_error();
                tracing::debug!(error = &error as &dyn StdError, "attempt failed");
                Err(why(&error, upload))
            }
        }
    }

    /// `100 Continue` opens the way for the body, which makes the parser on the other side say it there. Others cannot be
    /// passed on by the parser, and are counted.
    fn on_informational(&self, request: &mut Request<RequestBody>, upload: &Arc<Upload>) {
        if !self.counts_informational && !upload.is_expecting() {
            return;
        }
        let (upload, counted) =
            (Arc::clone(upload), self.counts_informational.then(|| self.telemetry.clone()));
        ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                upload.continued();
            } else if let Some(telemetry) = &counted {
                telemetry.metrics().informational_dropped.inc();
            }
        });
    }

    async fn send_http2(
        &self,
        head: Head,
        upload: &Arc<Upload>,
        exchange: &mut Exchange,
    ) -> Result<Answer, Failed> {
        let bodiless = upload.is_bodiless();
        let request = head.stream_request();
        loop {
            let pool = &self.upstream.http2;
            let ((mut sender, stream, waited), begin) =
                wait(pool.acquire(&self.demand), || pool.is_connecting(), exchange).await?;
            self.waited(waited, begin, exchange);
            if let Err(error) = std::future::poll_fn(|cx| Poll::Ready(open(sender.poll_ready(cx)))).await {
                tracing::debug!(%error, "connection takes no further request");
                stream.is_last();
                if waited.fresh {
                    return Err(Failed::before(not_sent(&stream)));
                }
                self.telemetry.metrics().pool_replaced.inc();
                continue;
            }
            let (response, send) = sender.send_request(request, bodiless).map_err(|error| {
                tracing::debug!(%error, "request could not be written");
                stream.is_last();
                Failed::before(not_sent(&stream))
            })?;
            drop(sender);
            if !bodiless {
                push_on(RequestBody::of(upload), send).await;
            }
            return match self.final_response(response).await {
                Ok(response) => {
                    exchange.stamp(|stamps| stamps.response_head = Some(Instant::now().into_std()));
                    if !has_one_length(response.headers()) {
                        return Err(Failed::after(Reason::BadResponse));
                    }
                    let (head, body) = response.into_parts();
                    let body = UpstreamBody::http2(body).with_begin(is_short(&head.headers)).await;
                    let occupied = Some(Occupied::Http2(stream));
                    Ok(Answer { head, body, occupied, refused: None })
                }
                Err(error) => {
                    tracing::debug!(%error, "attempt failed");
                    Err(no_response(&error, &stream, upload, waited.fresh))
                }
            };
        }
    }

    /// The answer that ends the wait, past those that only inform.
    async fn final_response(&self, mut response: ResponseFuture) -> Result<Response<RecvStream>, h2::Error> {
        std::future::poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(_))) = response.poll_informational(cx) {
                if self.counts_informational {
                    self.telemetry.metrics().informational_dropped.inc();
                }
            }
            Pin::new(&mut response).poll(cx)
        })
        .await
    }
}

/// Whether a connection is open at all: a sender of its own never waits.
fn open(ready: Poll<Result<(), h2::Error>>) -> Result<(), h2::Error> {
    match ready {
        Poll::Ready(ready) => ready,
        Poll::Pending => Ok(()),
    }
}

/// Sends what is there of the body now; the rest by a task of its own, which ends with the stream.
async fn push_on(body: RequestBody, stream: h2::SendStream<bytes::Bytes>) {
    let mut pushing = Box::pin(body::push(body, stream));
    let done = std::future::poll_fn(|cx| Poll::Ready(pushing.as_mut().poll(cx).is_ready())).await;
    if !done {
        tokio::spawn(pushing);
    }
}

enum NoAnswer {
    /// Nothing was written: the request is as good as new.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke before the first byte of a response.
    Broke,
    /// Everything else.
    For(Reason),
}

fn why(error: &hyper::Error, upload: &Upload) -> NoAnswer {
    if let Some(reason) = upload.failure() {
        return NoAnswer::For(reason);
    }
    if error.is_parse() {
        return NoAnswer::For(Reason::BadResponse);
    }
    NoAnswer::Broke
}

/// Why a stream ended without a response.
fn no_response(error: &h2::Error, stream: &super::Stream, upload: &Upload, fresh: bool) -> Failed {
    // What the peer says that it did not begin with (RFC 9113 §6.8, §8.7).
    if error.is_go_away() && error.is_remote() {
        stream.is_last();
        return Failed::before(Reason::ConnectFailed);
    }
    if error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        return Failed::before(Reason::ConnectFailed);
    }
    if let Some(reason) = upload.failure() {
        return Failed::after(reason);
    }
    if error.is_io() || error.is_go_away() {
        stream.is_last();
        // On a new connection it is our certificate that was refused, and nothing was served.
        if fresh && stream.is_refused() {
            return Failed::before(Reason::PeerRejected);
        }
    }
    if error.is_library() && !error.is_io() {
        return Failed::after(Reason::BadResponse);
    }
    Failed::after(Reason::UpstreamReset)
}

fn not_sent(stream: &super::Stream) -> Reason {
    if stream.is_refused() { Reason::PeerRejected } else { Reason::ConnectFailed }
}

/// A response that could be understood in two ways, or that leaves HTTP although nobody asked for it.
fn check_response(response: &Response<Incoming>, asked: Option<&HeaderValue>) -> Result<(), Reason> {
    let headers = response.headers();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !headers.contains_key(header::CONTENT_LENGTH)
        }
        _ => false,
    };
    let switched = match (response.status(), asked) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(asked)) => headers::agrees(asked, headers),
        (StatusCode::SWITCHING_PROTOCOLS, None) => false,
        _ => true,
    };
    if coding && switched && has_one_length(headers) { Ok(()) } else { Err(Reason::BadResponse) }
}

/// Whether the body is one that a server writes together with its head.
fn is_short(headers: &HeaderMap) -> bool {
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length <= SHORT)
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

impl Head {
    /// Takes it, and leaves nothing of it.
    pub(crate) fn take(&mut self) -> Self {
        let Self { method, uri, headers } = self;
        Self { method: std::mem::take(method), uri: std::mem::take(uri), headers: std::mem::take(headers) }
    }

    fn request(self, upload: &Arc<Upload>) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::of(upload));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        if !upload.is_bodiless() && upload.length().is_none() {
            // Said explicitly: the parser takes a GET whose length is unknown for one without a body, and drops it.
            let chunked = HeaderValue::from_static("chunked");
            request.headers_mut().insert(header::TRANSFER_ENCODING, chunked);
        }
        request
    }

    /// Without an authority in its target the request is written as one that came as HTTP/1: its `Host` goes as it is.
    fn stream_request(self) -> Request<()> {
        let mut request = Request::new(());
        let absolute = self.uri.authority().is_some();
        *request.version_mut() = if absolute { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}
