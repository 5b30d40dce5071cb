//! Bodies on their way through: streamed frame by frame, pulled by whoever takes them, never held whole. A body that
//! breaks off is passed on as broken; a body that stands still for too long is broken off.

use std::{
    error::Error as _,
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderValue, Request, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::patience::Patience;
use crate::{headers, telemetry::Exchange};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection it came from.
    #[error("the connection that the body came from broke off")]
    Source(#[source] hyper::Error),
    /// Nothing came for too long.
    #[error("the body stood still for too long")]
    Stalled,
    /// Nobody wants it any more.
    #[error("the exchange was over before the body was")]
    Abandoned,
}

/// Whether a request's body may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gate {
    /// Yes.
    Open = 0,
    /// Not before the other side says `100 Continue`.
    Expecting = 1,
    /// No: it was answered without, and the answer is still on its way.
    Answered = 2,
    /// Never: the exchange is over.
    Abandoned = 3,
}

impl Gate {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Expecting,
            2 => Self::Answered,
            _ => Self::Abandoned,
        }
    }
}

/// What the rest of an exchange knows of its request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    gate: AtomicU8,
    waker: AtomicWaker,
    ended: OnceLock<Instant>,
    /// Why it broke off, if it did.
    failed: OnceLock<Reason>,
}

impl Upload {
    /// Of a body that begins behind `gate`.
    pub(crate) fn new(gate: Gate) -> Arc<Self> {
        Arc::new(Self {
            gate: AtomicU8::new(gate as u8),
            waker: AtomicWaker::new(),
            ended: OnceLock::new(),
            failed: OnceLock::new(),
        })
    }

    /// Of a request without a body, complete with its head.
    pub(crate) fn none(now: Instant) -> Arc<Self> {
        let upload = Self::new(Gate::Open);
        upload.end(now);
        upload
    }

    /// When its last byte was handed on.
    pub(crate) fn ended(&self) -> Option<Instant> {
        self.ended.get().copied()
    }

    /// Why it broke off, if it did: the client is gone, stood still, or sent what is no body.
    pub(crate) fn failure(&self) -> Option<Reason> {
        self.failed.get().copied()
    }

    /// Whether it still waits for `100 Continue`.
    pub(crate) fn is_expecting(&self) -> bool {
        self.gate() == Gate::Expecting
    }

    /// Moves the gate, unless the exchange is over.
    pub(crate) fn set_gate(&self, gate: Gate) {
        if self.gate() != Gate::Abandoned {
            self.gate.store(gate as u8, Ordering::Release);
            self.waker.wake();
        }
    }

    /// Opens the gate if it waited for `100 Continue`.
    pub(crate) fn continued(&self) {
        if self.gate() == Gate::Expecting {
            self.set_gate(Gate::Open);
        }
    }

    fn gate(&self) -> Gate {
        Gate::from_number(self.gate.load(Ordering::Acquire))
    }

    fn poll_gate(&self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let pass = |gate| match gate {
            Gate::Open => Poll::Ready(Ok(())),
            Gate::Abandoned => Poll::Ready(Err(BodyError::Abandoned)),
            Gate::Expecting | Gate::Answered => Poll::Pending,
        };
        if let Poll::Ready(passed) = pass(self.gate()) {
            return Poll::Ready(passed);
        }
        self.waker.register(cx.waker());
        // It may have moved between the look and the registration.
        pass(self.gate())
    }

    fn end(&self, now: Instant) {
        let _already = self.ended.set(now);
    }

    fn fail(&self, reason: Reason) {
        let _already = self.failed.set(reason);
    }
}

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// `None`: the request has none.
    inner: Option<Incoming>,
    upload: Arc<Upload>,
    patience: Patience,
}

impl RequestBody {
    /// Wraps the body of `request`, which may stand still for `timeout`. With `Expect: 100-continue` it is not asked for
    /// before the upstream says `100`.
    pub(crate) fn wrap(request: Request<Incoming>, timeout: Duration) -> (Request<Self>, Arc<Upload>) {
        let (mut head, body) = request.into_parts();
        // The version is the hop's own; the client's is answered to the client (RFC 9110 §2.5).
        head.version = Version::HTTP_11;
        if body.is_end_stream() {
            let upload = Upload::none(Instant::now());
            return (Request::from_parts(head, Self::none(Arc::clone(&upload))), upload);
        }
        let expects = head
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let upload = Upload::new(if expects { Gate::Expecting } else { Gate::Open });
        if body.size_hint().exact().is_none() {
            // Said explicitly: the parser takes a GET whose length is unknown for one without a body, and drops it.
            head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let patience = Patience::new(timeout, None);
        let body = Self { inner: Some(body), upload: Arc::clone(&upload), patience };
        (Request::from_parts(head, body), upload)
    }

    /// The body of a request that has none.
    pub(crate) fn none(upload: Arc<Upload>) -> Self {
        Self { inner: None, upload, patience: Patience::new(Duration::ZERO, None) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(inner) = this.inner.as_mut() else {
            return Poll::Ready(None);
        };
        // The gate may close again between two frames: an answer that came early pauses what is still to be sent.
        if let Err(error) = ready!(this.upload.poll_gate(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                this.patience.reset();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::request_trailers(trailers);
                }
                if frame.is_trailers() || inner.is_end_stream() {
                    this.upload.end(Instant::now());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.upload.fail(why_broken(&error));
                Poll::Ready(Some(Err(BodyError::Source(error))))
            }
            Poll::Ready(None) => {
                this.upload.end(Instant::now());
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(this.patience.poll(cx));
                this.upload.fail(Reason::BodyTimeout);
                Poll::Ready(Some(Err(BodyError::Stalled)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Whether a request's body was malformed or its client went away. The parser gives framing that it does not understand
/// out as invalid input or data, but so does TLS its alerts and broken records.
fn why_broken(error: &hyper::Error) -> Reason {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let malformed = source.is_some_and(|source| {
        matches!(source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
            && !source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
    });
    if malformed { Reason::BadRequest } else { Reason::ClientClosed }
}

/// A response's body on its way to the downstream. It holds the exchange, which ends with it, in whatever way.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    inner: Source,
    /// The last frame was given out; chunked bodies do not say so themselves.
    ended: bool,
    exchange: Option<Exchange>,
}

#[derive(Debug)]
enum Source {
    /// Made here.
    Own(Bytes),
    /// From the upstream.
    Upstream { body: Incoming, patience: Patience },
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub(crate) fn own(text: Bytes, exchange: Option<Exchange>) -> Self {
        Self { inner: Source::Own(text), ended: false, exchange }
    }

    /// Passes `body` on, which may stand still for `timeout` and take until `deadline`.
    pub(crate) fn upstream(
        body: Incoming,
        timeout: Duration,
        deadline: Option<Instant>,
        exchange: Exchange,
    ) -> Self {
        let patience = Patience::new(timeout, deadline);
        Self { inner: Source::Upstream { body, patience }, ended: false, exchange: Some(exchange) }
    }

    fn broke(&mut self, reason: Reason, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(exchange) = self.exchange.take() {
            exchange.broke(reason);
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let (body, patience) = match &mut this.inner {
            Source::Own(text) if text.is_empty() => return Poll::Ready(None),
            Source::Own(text) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Source::Upstream { body, patience } => (body, patience),
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(_))) if patience.is_over() => {
                this.broke(Reason::StreamTimeout, BodyError::Stalled)
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                patience.reset();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::response_trailers(trailers);
                    this.ended = true;
                }
                if let (Some(exchange), Some(data)) = (&mut this.exchange, frame.data_ref()) {
                    exchange.delivered(data.len());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.broke(Reason::ResponseTruncated, BodyError::Source(error)),
            Poll::Ready(None) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(patience.poll(cx));
                this.broke(Reason::StreamTimeout, BodyError::Stalled)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
            || match &self.inner {
                Source::Own(text) => text.is_empty(),
                Source::Upstream { body, .. } => body.is_end_stream(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Source::Own(text) => SizeHint::with_exact(text.len() as u64),
            Source::Upstream { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // The parser drops a body as soon as it knows that it is at its end, without asking for the end itself.
        let complete = self.is_end_stream();
        if let Some(exchange) = self.exchange.take() {
            if complete { exchange.complete() } else { exchange.cancelled() }
        }
    }
}
