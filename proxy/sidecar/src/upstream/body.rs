//! The two ways of a body with an HTTP/2 upstream: a response's, as a [`Body`]; a request's, pushed as far as the peer
//! has room for it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::http::{BodyError, Patience, RequestBody};
use bytes::Bytes;
use h2::{Reason as Code, RecvStream, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// A response's body, from either kind of upstream.
#[derive(Debug)]
pub(crate) enum UpstreamBody {
    /// From the parser.
    Http1(Incoming),
    /// From a stream, of which the data is over when `true`.
    Http2(RecvStream, bool),
    /// Read whole already.
    Kept(VecDeque<Bytes>, Option<HeaderMap>),
    /// Read in part.
    Begun(VecDeque<Bytes>, Box<Self>),
    /// Broken off before its first frame.
    Broken(Option<BodyError>),
}

/// What became of a body that was to be read whole.
#[derive(Debug)]
pub(crate) enum Kept {
    /// It is held now.
    Whole(UpstreamBody),
    /// It is too large; nothing of it is lost.
    Large(UpstreamBody),
    /// It broke off.
    Broken,
}

impl UpstreamBody {
    pub(super) fn http2(stream: RecvStream) -> Self {
        Self::Http2(stream, false)
    }

    /// Takes the first frame along if it is there, or comes in a moment: so a head and the begin of its body go into one
    /// write, and for most answers there is no other. `short`: whether the head says that there is little to come; then
    /// it is worth giving others a turn, among them whoever reads it.
    pub(crate) async fn begin(&mut self, short: bool) {
        let turns = if short { 2 } else { 0 };
        for turn in 0..=turns {
            let begun = poll_fn(|cx| Poll::Ready(self.has_begun(cx))).await;
            if begun || turn == turns {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Whether there is nothing to wait for: its first frame came, which is kept, or its end.
    fn has_begun(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_end_stream() {
            return true;
        }
        let Poll::Ready(polled) = Pin::new(&mut *self).poll_frame(cx) else {
            return false;
        };
        let none = Self::Kept(VecDeque::new(), None);
        *self = match polled.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => Self::Begun(VecDeque::from([data]), Box::new(mem::replace(self, none))),
            Some(Ok(Err(frame))) => Self::Kept(VecDeque::new(), frame.into_trailers().ok()),
            Some(Err(error)) => Self::Broken(Some(error)),
            None => none,
        };
        true
    }

    /// Reads it whole, if it is at most `limit` bytes.
    pub(crate) async fn keep(mut self, limit: usize) -> Kept {
        let (mut frames, mut bytes) = (VecDeque::new(), 0_usize);
        let mut trailers = None;
        while let Some(frame) = self.frame().await {
            let Ok(frame) = frame else {
                return Kept::Broken;
            };
            match frame.into_data() {
                Ok(data) => {
                    bytes = bytes.saturating_add(data.len());
                    // One that is empty, as the last of a stream may be, is never asked for once the length is known.
                    if !data.is_empty() {
                        frames.push_back(data);
                    }
                    if bytes > limit {
                        return Kept::Large(Self::Begun(frames, Box::new(self)));
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Kept::Whole(Self::Kept(frames, trailers))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (stream, data_over) = match self.get_mut() {
            Self::Broken(error) => return Poll::Ready(error.take().map(Err)),
            Self::Begun(frames, rest) => {
                return match frames.pop_front() {
                    Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                    None => Pin::new(&mut **rest).poll_frame(cx),
                };
            }
            Self::Kept(frames, trailers) => {
                let frame = frames.pop_front().map(Frame::data);
                return Poll::Ready(frame.or_else(|| trailers.take().map(Frame::trailers)).map(Ok));
            }
            Self::Http1(body) => {
                return Pin::new(body)
                    .poll_frame(cx)
                    .map(|frame| frame.map(|frame| frame.map_err(BodyError::Source)));
            }
            Self::Http2(stream, data_over) => (stream, data_over),
        };
        if !*data_over {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Room for as much again: whoever polls has taken it.
                    return Poll::Ready(Some(match stream.flow_control().release_capacity(data.len()) {
                        Ok(()) => Ok(Frame::data(data)),
                        Err(error) => Err(error.into()),
                    }));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => *data_over = true,
            }
        }
        let trailers = ready!(stream.poll_trailers(cx));
        Poll::Ready(match trailers {
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => None,
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(stream, _) => stream.is_end_stream(),
            Self::Kept(frames, trailers) => frames.is_empty() && trailers.is_none(),
            Self::Begun(frames, rest) => frames.is_empty() && rest.is_end_stream(),
            // Never an end: whoever asks is told that it broke.
            Self::Broken(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            // Where it has a length, the head says so.
            Self::Http2(stream, _) if stream.is_end_stream() => SizeHint::with_exact(0),
            // Trailers need a body whose length is not told first.
            Self::Http2(..) | Self::Begun(..) | Self::Broken(_) | Self::Kept(_, Some(_)) => {
                SizeHint::default()
            }
            Self::Kept(frames, None) => {
                SizeHint::with_exact(frames.iter().map(|frame| u64::try_from(frame.len()).unwrap_or(0)).sum())
            }
        }
    }
}

/// Sends a request's body, frame by frame, each as far as the peer has room; ends with the body, or with the stream.
pub(super) async fn push(mut body: RequestBody, mut stream: SendStream<Bytes>) {
    if let Err(code) = try_push(&mut body, &mut stream).await {
        stream.send_reset(code);
    }
}

/// Returns what the stream has to be reset with.
async fn try_push(body: &mut RequestBody, stream: &mut SendStream<Bytes>) -> Result<(), Code> {
    loop {
        let frame = tokio::select! {
            biased;
            // Whoever waits for the response hears of it, too.
            _reset = poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
            frame = body.frame() => frame,
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    if !send(stream, body, data, last).await? || last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        stream.send_trailers(trailers).map_err(|_over| Code::INTERNAL_ERROR)?;
                        return Ok(());
                    }
                }
            },
            Some(Err(error)) => return Err(error.code()),
            None => {
                stream.send_data(Bytes::new(), true).map_err(|_over| Code::INTERNAL_ERROR)?;
                return Ok(());
            }
        }
    }
}

/// Sends `data` of `body` in pieces that fit the windows; `false` when the stream is over.
async fn send(
    stream: &mut SendStream<Bytes>,
    body: &RequestBody,
    mut data: Bytes,
    last: bool,
) -> Result<bool, Code> {
    if data.is_empty() {
        return stream.send_data(data, last).map(|()| true).map_err(|_over| Code::INTERNAL_ERROR);
    }
    let mut patience = Patience::new(None);
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = poll_fn(|cx| {
            if let Poll::Ready(_reset) = stream.poll_reset(cx) {
                return Poll::Ready(Ok(None));
            }
            // A peer that makes no room would hold what nobody wants for ever.
            if let Poll::Ready(error) = body.poll_abandoned(cx) {
                return Poll::Ready(Err(error.code()));
            }
            match stream.poll_capacity(cx) {
                Poll::Ready(room) => Poll::Ready(Ok(room)),
                Poll::Pending => patience.poll_idle(cx, body.idle()).map(|()| Err(Code::CANCEL)),
            }
        });
        let Some(Ok(room)) = room.await? else {
            return Ok(false);
        };
        patience.reset();
        let part = data.split_to(room.min(data.len()));
        if !part.is_empty() {
            let last = last && data.is_empty();
            stream.send_data(part, last).map_err(|_over| Code::INTERNAL_ERROR)?;
        }
    }
    Ok(true)
}
