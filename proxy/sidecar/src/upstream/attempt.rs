//! One attempt: a request to one upstream, on a connection that was found or made, up to the head of its response. The
//! same for both directions; what differs is how a connection is made and how long an idle one is trusted.

mod stream;
mod waiting;

use std::{
    error::Error as StdError,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, response};
use hyper::{body::Incoming, client::conn::TrySendError, ext};
use outrigger_core::{
    deadline::{self, Deadline},
    reason::Reason,
};
use tokio::time::{Instant, sleep};

pub(super) use waiting::Waited;

use super::{
    Connect, Failed, Occupied, Upstream, UpstreamBody,
    failure::{NoAnswer, no_answer, no_response, not_sent},
    http1::Lease,
};
use crate::{
    headers::{self, Field, Fields},
    http::{Gate, InvalidLength, Limits, RequestBody, Upload, is_idempotent, length},
    telemetry::{Exchange, Telemetry},
};
use waiting::wait;

/// Longest body that is taken for written together with its head, bytes.
const SHORT: u64 = 16 * 1024;

/// What becomes of a request that is given to the parser.
type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

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
    /// Whether the other side may close one that is shared without a word, which a sidecar never does: then a request that
    /// may be repeated is kept until it is answered.
    pub(crate) closes_silently: bool,
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

/// What the head of an HTTP/1.1 response says of what comes after it.
struct Said {
    /// Whether the body is one that a server writes together with its head.
    short: bool,
    /// Whether the connection is closed after it.
    closes: bool,
}

/// Where and how.
#[derive(Debug)]
pub(crate) struct Attempt<'a, C> {
    pub(crate) upstream: &'a Upstream<C>,
    pub(crate) leg: Leg,
    pub(crate) demand: Demand,
    /// When its answer has to be there: whoever gets the request is told how long there is from then on.
    pub(crate) deadline: Deadline,
    /// Whether that is told in gRPC's words.
    pub(crate) grpc: bool,
    pub(crate) limits: &'a Limits,
    pub(crate) telemetry: &'a Telemetry,
    /// Whether the request may ask for an upgrade.
    pub(crate) may_switch: bool,
    /// Whether `1xx` answers that are not passed on are counted here.
    pub(crate) counts_informational: bool,
}

impl<C: Connect> Attempt<'_, C> {
    /// Sends a request, since `begin`; returns the response's head, with the connection that the rest of it comes on.
    ///
    /// A pooled connection may have been closed by the other side in the meantime. Then the request is sent once more,
    /// on a new one: any request of which nothing was written, or of which a peer says by its close that it looked at
    /// nothing; else only one that is idempotent; and only while the body is still there. Cancel safe: dropped, the request is
    /// aborted upstream. Takes `head` when it is polled first.
    pub(crate) async fn send(
        &self,
        head: &mut Head,
        upload: &Arc<Upload>,
        (begin, exchange): (Instant, &mut Exchange),
    ) -> Result<Answer, Failed> {
        exchange.stamp(|stamps| stamps.begin_attempt(begin.into_std()));
        match self.leg {
            // Boxed: larger than the other one.
            Leg::Http1 => Box::pin(self.send_http1(head, upload, (begin, exchange))).await,
            Leg::Http2 => {
                let mut request = head.take().stream_request();
                self.send_http2(&mut request, (&self.demand, false), upload, (begin, exchange)).await
            }
        }
    }

    /// `begin`: of the wait, which is also its end if there was none. The request goes on now: `headers` say how long there is, less
    /// the wait.
    fn waited(&self, waited: Waited, headers: &mut HeaderMap, (begin, exchange): (Instant, &mut Exchange)) {
        if waited.closed > 0 {
            self.telemetry.metrics().pool_replaced.inc_by(waited.closed);
        }
        let end = if waited.is_nothing() { begin } else { Instant::now() };
        exchange.stamp(|stamps| {
            stamps.queued += waited.queued;
            stamps.connecting += waited.connecting;
            stamps.handed_on = Some(end.into_std());
        });
        if let Some(left) = self.deadline.remaining(end.into_std()) {
            deadline::header::write(headers, self.grpc, Some(left));
        }
    }

    async fn send_http1(
        &self,
        head: &mut Head,
        upload: &Arc<Upload>,
        (mut begin, exchange): (Instant, &mut Exchange),
    ) -> Result<Answer, Failed> {
        let repeatable = is_idempotent(&head.method);
        let mut request = head.take().request(upload);
        let mut demand = self.demand.clone();
        // Something was sent, on a connection that broke: whatever comes now, it may have been processed.
        let mut broke = false;
        loop {
            let pool = &self.upstream.http1;
            let acquired = {
                let acquiring = pin!(pool.acquire(&demand, begin));
                wait(acquiring, || pool.is_connecting(), (begin, &mut *exchange)).await
            };
            let (mut lease, waited) = acquired.map_err(|failed| failed.or_processed(broke))?;
            self.waited(waited, request.headers_mut(), (begin, &mut *exchange));
            let again = repeatable || lease.connection().is_of_a_peer();
            let kept = (again && !waited.fresh && !broke && upload.is_replayable()).then(|| Head {
                method: request.method().clone(),
                uri: request.uri().clone(),
                headers: request.headers().clone(),
            });
            let asked = self.may_switch.then(|| request.headers().get(header::UPGRADE).cloned()).flatten();
            self.make_ready((&mut lease, asked.is_some()), &mut request, upload);
            let how = (asked.as_ref(), upload.is_expecting());
            let sent = {
                let sending = pin!(lease.connection().sender().try_send_request(request));
                self.answered(sending, how, upload, &mut lease).await
            };
            // What was sent meanwhile may have been too much to keep.
            let kept = kept.filter(|_| upload.is_replayable());
            match sent {
                Ok((response, said)) => {
                    exchange.stamp(|stamps| stamps.response_head = Some(Instant::now().into_std()));
                    pause_upload(response.status(), said.closes, upload);
                    let (head, body) = response.into_parts();
                    let mut body = UpstreamBody::Http1(body);
                    body.begin(said.short).await;
                    let occupied = Some(Occupied::Http1(lease));
                    return Ok(Answer { head, body, occupied, refused: None });
                }
                Err(NoAnswer::Unsent(unsent)) if !waited.fresh => request = *unsent,
                Err(NoAnswer::Unsent(_)) => {
                    return Err(Failed::before(Reason::ConnectFailed).or_processed(broke));
                }
                Err(NoAnswer::For(reason)) => return Err(Failed::after(reason)),
                // On a new connection it is our certificate that was refused, and nothing was served.
                Err(NoAnswer::Broke) if waited.fresh && lease.connection().is_refused() => {
                    return Err(Failed::before(Reason::PeerRejected).or_processed(broke));
                }
                Err(unanswered) => {
                    let harmless = repeatable || matches!(unanswered, NoAnswer::Closed);
                    let Some(head) = kept.filter(|_| harmless) else {
                        let failed = match unanswered {
                            NoAnswer::Closed => Failed::before(Reason::ConnectFailed),
                            _ => Failed::after(Reason::UpstreamReset),
                        };
                        return Err(failed.or_processed(broke));
                    };
                    broke |= matches!(unanswered, NoAnswer::Broke);
                    upload.rewind();
                    request = head.request(upload);
                }
            }
            // From now on only a new one.
            self.telemetry.metrics().pool_replaced.inc();
            demand.max_idle = Duration::ZERO;
            begin = Instant::now();
            exchange.stamp(|stamps| stamps.begin_attempt(begin.into_std()));
        }
    }

    /// Makes everything ready for the next request of `lease`; `switches`: which asks for an upgrade.
    fn make_ready(
        &self,
        (lease, switches): (&mut Lease, bool),
        request: &mut Request<RequestBody>,
        upload: &Arc<Upload>,
    ) {
        self.on_informational(request, upload);
        if switches {
            lease.connection().may_switch();
        }
        lease.connection().may_be(upload.idle());
        lease.connection().begin();
    }

    /// Waits for the answer to a request that was sent.
    async fn answered(
        &self,
        mut answer: Pin<&mut impl Future<Output = Sent>>,
        (asked, expects): (Option<&HeaderValue>, bool),
        upload: &Arc<Upload>,
        lease: &mut Lease,
    ) -> Result<(Response<Incoming>, Said), NoAnswer> {
        let answer = tokio::select! {
            biased;
            answer = answer.as_mut() => answer,
            // Made only where it is waited for: a timer looks at the clock.
            () = async { sleep(self.limits.continue_timeout).await }, if expects => {
                upload.continued();
                answer.await
            }
        };
        let mut error = match answer {
            Ok(response) => {
                let said = check_response(&response, asked).map_err(NoAnswer::For)?;
                return Ok((response, said));
            }
            Err(error) => error,
        };
        if let Some(request) = error.take_message() {
            return Err(NoAnswer::Unsent(Box::new(request)));
        }
        let error = error.into_error();
        tracing::debug!(error = &error as &dyn StdError, "attempt failed");
        Err(no_answer(&error, upload, lease.connection()))
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
}

/// Reads the head of a response. Refuses one that could be understood in two ways, or that leaves HTTP although nobody asked
/// for it.
fn check_response(response: &Response<Incoming>, asked: Option<&HeaderValue>) -> Result<Said, Reason> {
    let fields = Fields::of(response.headers());
    let mut codings = fields.all(Field::TransferEncoding);
    let coding = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && !fields.has(Field::ContentLength)
        }
        _ => false,
    };
    let switched = match (response.status(), asked) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(asked)) => headers::agrees(asked, response.headers()),
        (StatusCode::SWITCHING_PROTOCOLS, None) => false,
        _ => true,
    };
    match length(fields.all(Field::ContentLength)) {
        Ok(length) if coding && switched => {
            Ok(Said { short: is_short(length), closes: headers::says_close(fields) })
        }
        Ok(_) | Err(InvalidLength) => Err(Reason::BadResponse),
    }
}

/// Whether a body of this length is one that a server writes together with its head.
fn is_short(length: Option<&HeaderValue>) -> bool {
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length <= SHORT)
}

/// An answer that came before the request's end, from an upstream that wants no more of it. What is still sent would
/// meet a closed connection, and the reset could overtake the answer.
fn pause_upload(status: StatusCode, closes: bool, upload: &Upload) {
    let refuses = status.is_client_error() || status.is_server_error();
    if upload.ended().is_none() && (upload.is_expecting() || refuses || closes) {
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
