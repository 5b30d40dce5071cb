//! A request's body on its way to the upstream: streamed frame by frame, pulled by whoever takes it, and kept as long as
//! it is small and the request may still have to be sent again.

use std::{
    error::Error as _,
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use outrigger_core::{grpc::Messages, reason::Reason};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{BodyError, Idle, Patience};
use crate::headers;

/// As much of a body is kept for another attempt (SEMANTICS H).
const REPLAY: usize = 64 * 1024;

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

/// A request's body, and what the rest of an exchange knows of it.
#[derive(Debug)]
pub(crate) struct Upload {
    gate: AtomicU8,
    /// Where it was at first.
    first_gate: Gate,
    waker: AtomicWaker,
    ended: OnceLock<Instant>,
    /// Why it broke off, if it did.
    failed: OnceLock<Reason>,
    /// The attempt whose turn it is.
    attempt: AtomicU32,
    /// How long the exchange may.
    idle: Arc<Idle>,
    /// `None`: it may be of any length, or there is none.
    length: Option<u64>,
    /// `None`: there is none, as with most requests; for whose sake it is boxed.
    source: Option<Box<Mutex<Source>>>,
}

#[derive(Debug)]
struct Source {
    body: Incoming,
    /// Of HTTP/2.
    is_stream: bool,
    patience: Patience,
    /// Frames that came out of `body`.
    taken: usize,
    replay: Option<Replay>,
    /// Of gRPC, counted as they pass.
    messages: Option<Messages>,
}

/// What was sent so far.
#[derive(Debug, Default)]
struct Replay {
    frames: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
}

impl Upload {
    /// `body`, of a request of `version` whose head was read at `begun`, behind `gate`; neither it nor the response's may stand
    /// still for `timeout` (zero: for ever) while the other one does. `grpc`: its messages are counted.
    pub(crate) fn new(
        body: Incoming,
        begun: Instant,
        version: Version,
        gate: Gate,
        timeout: Duration,
        grpc: bool,
    ) -> Arc<Self> {
        if body.is_end_stream() {
            return Self::none(Idle::since(begun, timeout));
        }
        let length = body.size_hint().exact();
        let source = Source {
            body,
            is_stream: version == Version::HTTP_2,
            patience: Patience::new(None),
            taken: 0,
            replay: Some(Replay::default()),
            messages: grpc.then(Messages::new),
        };
        Arc::new(Self {
            gate: AtomicU8::new(gate as u8),
            first_gate: gate,
            waker: AtomicWaker::new(),
            ended: OnceLock::new(),
            failed: OnceLock::new(),
            attempt: AtomicU32::new(0),
            idle: Idle::since(begun, timeout),
            length,
            source: Some(Box::new(Mutex::new(source))),
        })
    }

    /// Of a request without a body, complete with its head.
    pub(crate) fn none(idle: Arc<Idle>) -> Arc<Self> {
        let begun = idle.born();
        let upload = Self {
            gate: AtomicU8::new(Gate::Open as u8),
            first_gate: Gate::Open,
            waker: AtomicWaker::new(),
            ended: OnceLock::new(),
            failed: OnceLock::new(),
            attempt: AtomicU32::new(0),
            idle,
            length: None,
            source: None,
        };
        upload.end(begun);
        Arc::new(upload)
    }

    /// Whether the request has no body.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.source.is_none()
    }

    /// Its length, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// How long the exchange may be without a byte in either direction.
    pub(crate) fn idle(&self) -> &Arc<Idle> {
        &self.idle
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

    /// Whether another attempt could send all of it.
    pub(crate) fn is_replayable(&self) -> bool {
        self.failure().is_none() && self.source.as_ref().is_none_or(|source| source.lock().replay.is_some())
    }

    /// How many messages of gRPC it carried so far; 0 where they are not counted.
    pub(crate) fn messages(&self) -> u64 {
        let source = self.source.as_ref().map(|source| source.lock());
        source.and_then(|source| source.messages.as_ref()?.count()).unwrap_or(0)
    }

    /// Nothing is kept any more: there will be no other attempt.
    pub(crate) fn settle(&self) {
        if let Some(source) = &self.source {
            source.lock().replay = None;
        }
    }

    /// Takes the body away from the attempt that has it; the next one gets it from its begin.
    pub(crate) fn rewind(&self) {
        self.attempt.fetch_add(1, Ordering::AcqRel);
        if self.gate() == Gate::Answered {
            // A client that was not told to continue is not told by a refusal.
            let begun = self.source.as_ref().is_some_and(|source| source.lock().taken > 0);
            let gate = if begun { Gate::Open } else { self.first_gate };
            self.gate.store(gate as u8, Ordering::Release);
        }
        self.waker.wake();
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

    /// Whether `attempt` may go on.
    fn poll_turn(&self, attempt: u32, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let pass = || match self.gate() {
            _ if self.attempt.load(Ordering::Acquire) != attempt => Poll::Ready(Err(BodyError::Abandoned)),
            Gate::Open => Poll::Ready(Ok(())),
            Gate::Abandoned => Poll::Ready(Err(BodyError::Abandoned)),
            Gate::Expecting | Gate::Answered => Poll::Pending,
        };
        if let Poll::Ready(passed) = pass() {
            return Poll::Ready(passed);
        }
        self.waker.register(cx.waker());
        // It may have moved between the look and the registration.
        pass()
    }

    fn end(&self, now: Instant) {
        let _already = self.ended.set(now);
    }

    fn fail(&self, reason: Reason) {
        let _already = self.failed.set(reason);
    }
}

impl Source {
    /// The frame at `place`, from what is kept or from the client.
    fn poll(
        &mut self,
        place: &mut usize,
        upload: &Upload,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(replay) = &self.replay {
            if let Some(data) = replay.frames.get(*place) {
                *place += 1;
                return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
            }
            if let Some(trailers) = replay.trailers.clone()
                && *place == replay.frames.len()
            {
                *place += 1;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        // What is gone cannot be sent, and what comes after it is not the whole.
        if *place < self.taken {
            return Poll::Ready(Some(Err(BodyError::Abandoned)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.patience.reset();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::request_trailers(trailers);
                }
                if let (Some(messages), Some(data)) = (&mut self.messages, frame.data_ref()) {
                    messages.push(data);
                }
                self.remember(&frame);
                self.taken += 1;
                *place += 1;
                if frame.is_trailers() || self.body.is_end_stream() {
                    upload.end(Instant::now());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                upload.fail(why_broken(&error));
                Poll::Ready(Some(Err(BodyError::Source(error))))
            }
            // The parser takes a stream that is reset as if all were well (`NO_ERROR`) for one that ended.
            Poll::Ready(None) if self.is_stream && !self.body.is_end_stream() => {
                upload.fail(Reason::ClientClosed);
                Poll::Ready(Some(Err(BodyError::GivenUp)))
            }
            Poll::Ready(None) => {
                upload.end(Instant::now());
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.patience.poll_idle(cx, &upload.idle));
                upload.fail(Reason::BodyTimeout);
                Poll::Ready(Some(Err(BodyError::Stalled)))
            }
        }
    }

    fn remember(&mut self, frame: &Frame<Bytes>) {
        let Some(replay) = &mut self.replay else {
            return;
        };
        if let Some(data) = frame.data_ref() {
            replay.bytes += data.len();
            if replay.bytes > REPLAY {
                self.replay = None;
            } else {
                replay.frames.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            replay.trailers = Some(trailers.clone());
        }
    }

    fn is_over(&self, place: usize) -> bool {
        let replayed = self.replay.as_ref().is_none_or(|replay| {
            place >= replay.frames.len().saturating_add(usize::from(replay.trailers.is_some()))
        });
        replayed && self.body.is_end_stream()
    }
}

/// The body as one attempt sends it. Once another attempt has begun, this one is broken.
#[derive(Debug)]
pub(crate) struct RequestBody {
    upload: Arc<Upload>,
    attempt: u32,
    place: usize,
}

impl RequestBody {
    /// For the attempt whose turn it is.
    pub(crate) fn of(upload: &Arc<Upload>) -> Self {
        let attempt = upload.attempt.load(Ordering::Acquire);
        Self { upload: Arc::clone(upload), attempt, place: 0 }
    }

    /// How long a piece of it may wait for room.
    pub(crate) fn idle(&self) -> &Idle {
        &self.upload.idle
    }

    /// Ready when nobody wants any more of it: what was taken of it last need not find room either.
    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let upload = &self.upload;
        let abandoned =
            || upload.gate() == Gate::Abandoned || upload.attempt.load(Ordering::Acquire) != self.attempt;
        if !abandoned() {
            upload.waker.register(cx.waker());
            if !abandoned() {
                return Poll::Pending;
            }
        }
        Poll::Ready(BodyError::Abandoned)
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
        let Some(source) = &this.upload.source else {
            return Poll::Ready(None);
        };
        // The gate may close again between two frames: an answer that came early pauses what is still to be sent.
        if let Err(error) = ready!(this.upload.poll_turn(this.attempt, cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = source.lock().poll(&mut this.place, &this.upload, cx);
        if polled.is_pending() {
            // Whoever takes the turn away wakes this one.
            this.upload.waker.register(cx.waker());
            if let Poll::Ready(Err(error)) = this.upload.poll_turn(this.attempt, cx) {
                return Poll::Ready(Some(Err(error)));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.upload.source.as_ref().is_none_or(|source| source.lock().is_over(self.place))
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.upload.source, self.upload.length) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(length)) => SizeHint::with_exact(length),
            (Some(_), None) => SizeHint::default(),
        }
    }
}

/// Whether a request's body was malformed or its client went away. The parser gives framing that it does not understand
/// out as invalid input or data, but so does TLS its alerts and broken records.
fn why_broken(error: &hyper::Error) -> Reason {
    let Some(source) = error.source() else {
        return Reason::ClientClosed;
    };
    if let Some(stream) = source.downcast_ref::<h2::Error>() {
        // What the parser of frames itself found wrong; the rest is the client's own doing.
        let malformed = stream.is_library() && !stream.is_io();
        return if malformed { Reason::BadRequest } else { Reason::ClientClosed };
    }
    let malformed = source.downcast_ref::<io::Error>().is_some_and(|source| {
        matches!(source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
            && !source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
    });
    if malformed { Reason::BadRequest } else { Reason::ClientClosed }
}
