//! The socket of an HTTP/1 connection to an upstream. The parser waits for room without an end, and asks for no further
//! piece of a body meanwhile, so neither it nor the body notices an upstream that takes nothing; this does.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;
use crate::http::{Idle, Patience, Transport as _};

/// How long the exchange that has the connection may be idle.
pub(super) type Governing = Arc<Mutex<Option<Arc<Idle>>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Patient {
    io: Io,
    governing: Governing,
    patience: Patience,
}

impl Patient {
    pub(super) fn new(io: Io, governing: Governing) -> Self {
        Self { io, governing, patience: Patience::new(None) }
    }

    /// The socket itself, when the connection left HTTP.
    pub(crate) fn into_inner(self) -> Io {
        self.io
    }

    /// Passes the result of a write on, unless the peer took nothing for too long.
    fn poll_progress<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.patience.reset();
            return result;
        }
        let Some(idle) = self.governing.lock().clone() else {
            return Poll::Pending;
        };
        ready!(self.patience.poll_idle(cx, &idle));
        self.io.reset_on_close();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.poll_progress(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.poll_progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.poll_progress(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
