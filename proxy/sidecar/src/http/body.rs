//! A response's body on its way to the downstream: streamed frame by frame, pulled by whoever takes it, never held
//! whole. A body that breaks off is passed on as broken; a body that stands still for too long is broken off.

use std::{
    error::Error as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::Reason as Code;
use http_body::{Body, Frame, SizeHint};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::{Idle, Patience, stall};
use crate::{headers, telemetry::Exchange, upstream::UpstreamBody};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection it came from.
    #[error("the connection that the body came from broke off")]
    Source(#[source] hyper::Error),
    /// The stream it came from.
    #[error("the stream that the body came from broke off")]
    Stream(#[source] h2::Error),
    /// Its stream, which was reset as if all were well (`NO_ERROR`): whoever is told so takes it for whole.
    #[error("the stream that the body came from was given up")]
    GivenUp,
    /// Nothing came for too long.
    #[error("the body stood still for too long")]
    Stalled,
    /// Nobody wants it any more.
    #[error("the exchange was over before the body was")]
    Abandoned,
}

impl From<h2::Error> for BodyError {
    /// A stream that ends well ends without an error.
    fn from(error: h2::Error) -> Self {
        if error.reason() == Some(Code::NO_ERROR) { Self::GivenUp } else { Self::Stream(error) }
    }
}

impl BodyError {
    /// What a stream that carries the body is reset with: what its source was reset with, where that is known.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Source(error) => {
                let stream = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
                stream.and_then(h2::Error::reason).unwrap_or(Code::CANCEL)
            }
            Self::Stream(error) => error.reason().unwrap_or(Code::INTERNAL_ERROR),
            Self::GivenUp => Code::INTERNAL_ERROR,
            Self::Stalled | Self::Abandoned => Code::CANCEL,
        }
    }

    /// As the reason why a response was cut short.
    fn reason(&self) -> Reason {
        match self {
            // What breaks off at the other sidecar it resets as a failure of its own.
            Self::Stream(error)
                if error.is_reset() && error.is_remote() && error.reason() != Some(Code::INTERNAL_ERROR) =>
            {
                Reason::StreamReset
            }
            Self::GivenUp => Reason::StreamReset,
            Self::Source(_) | Self::Stream(_) | Self::Abandoned => Reason::ResponseTruncated,
            Self::Stalled => Reason::StreamTimeout,
        }
    }
}

/// A response's body on its way to the downstream. It holds the exchange, which ends with it, in whatever way.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    inner: Source,
    /// The last frame was given out; chunked bodies do not say so themselves.
    ended: bool,
    /// The last byte, where that is given out by itself.
    last: Option<Bytes>,
    exchange: Option<Exchange>,
}

#[derive(Debug)]
enum Source {
    /// Made here.
    Own(Bytes),
    /// From the upstream.
    Upstream { body: UpstreamBody, idle: Arc<Idle>, patience: Patience },
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub(crate) fn own(text: Bytes, exchange: Option<Exchange>) -> Self {
        Self { inner: Source::Own(text), ended: false, last: None, exchange }
    }

    /// Passes `body` on, which may be `idle` together with the request's, and take until `deadline`.
    pub(crate) fn upstream(
        body: UpstreamBody,
        idle: Arc<Idle>,
        deadline: Option<Instant>,
        exchange: Exchange,
    ) -> Self {
        let patience = Patience::new(deadline);
        let inner = Source::Upstream { body, idle, patience };
        Self { inner, ended: false, last: None, exchange: Some(exchange) }
    }

    /// Keeps the last byte of the last frame for a frame of its own, where the parser would take the whole of a frame as
    /// soon as there is room for a part of it: the last byte it takes when all others are sent, and so the end is told
    /// when it is there.
    fn keep_last(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let (Some(exchange), Source::Upstream { body, .. }) = (&self.exchange, &self.inner) else {
            return frame;
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length < 2 || !exchange.outgrows_window(length) || !body.is_end_stream() {
            return frame;
        }
        frame.map_data(|mut data| {
            self.last = Some(data.split_off(length - 1));
            data
        })
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
        stall::asked();
        if let Some(last) = this.last.take() {
            if let Some(exchange) = &mut this.exchange {
                exchange.delivered(&last);
            }
            stall::gave();
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        let (body, idle, patience) = match &mut this.inner {
            Source::Own(text) if text.is_empty() => return Poll::Ready(None),
            Source::Own(text) => {
                let text = std::mem::take(text);
                if let Some(exchange) = &mut this.exchange {
                    exchange.delivered(&text);
                }
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            Source::Upstream { body, idle, patience } => (body, idle, patience),
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
                    if let Some(exchange) = &mut this.exchange {
                        exchange.trailed(trailers);
                    }
                }
                let frame = this.keep_last(frame);
                if let (Some(exchange), Some(data)) = (&mut this.exchange, frame.data_ref()) {
                    exchange.delivered(data);
                }
                stall::gave();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.broke(error.reason(), error),
            Poll::Ready(None) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(patience.poll_idle(cx, idle));
                this.broke(Reason::StreamTimeout, BodyError::Stalled)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
            || self.last.is_none()
                && match &self.inner {
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
            if stall::is_given_up() {
                exchange.broke(Reason::StreamTimeout);
            } else if complete {
                exchange.complete();
            } else {
                exchange.cancelled();
            }
        }
    }
}
