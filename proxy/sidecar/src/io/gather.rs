//! Writes of a connection that many streams share, gathered into one.
//!
//! The HTTP/2 library flushes after each frame of data, so that every answer would be a TLS record and a system call of its
//! own. Here a flush only says that there is something to be written: the connection's task is woken once more, behind all
//! tasks that are ready now, and what they have added by then goes out with it. It goes out at the begin of that turn, when
//! the library reads; nothing waits for a timer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::Transport;

/// So much is held back at most.
const HELD: usize = 32 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gather<T> {
    io: T,
    held: BytesMut,
    /// What is held is to be written in the next turn.
    due: bool,
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, held: BytesMut::new(), due: false }
    }

    /// Writes what is held.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        if self.held.capacity() > HELD {
            self.held = BytesMut::new();
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.due = false;
        Poll::Ready(Ok(()))
    }

    /// Makes room for `more` bytes; false: it would not be held in any case.
    fn poll_room(&mut self, cx: &mut Context<'_>, more: usize) -> Poll<io::Result<bool>> {
        if self.held.len() + more > HELD {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(more <= HELD))
    }
}

impl<T: Transport> Transport for Gather<T> {
    fn reset_on_close(&self) {
        self.io.reset_on_close();
    }

    fn holds_back(&self) -> bool {
        // Flushed is what the connection below has flushed, too.
        self.due || !self.held.is_empty()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.due
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if ready!(self.poll_room(cx, bytes.len()))? {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        if ready!(self.poll_room(cx, all))? {
            for slice in slices {
                self.held.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(all));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Pin::new(&mut self.io).poll_flush(cx);
        }
        if !self.due {
            self.due = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn read_once<T: AsyncRead + Unpin>(io: &mut T) -> Poll<usize> {
        let mut space = [0; 16];
        let mut buffer = ReadBuf::new(&mut space);
        let polled = Pin::new(io).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
        polled.map(|read| read.map(|()| buffer.filled().len()).unwrap())
    }

    #[tokio::test]
    async fn what_is_flushed_goes_out_together_with_what_comes_before_the_next_turn() {
        let (near, mut far) = duplex(1 << 20);
        let mut gather = Gather::new(near);
        for part in ["one ", "two ", "three"] {
            gather.write_all(part.as_bytes()).await.unwrap();
            gather.flush().await.unwrap();
        }
        assert_eq!(read_once(&mut far), Poll::Pending, "nothing was written yet");
        assert!(read_once(&mut gather).is_pending());
        let mut all = [0; 13];
        far.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"one two three");
        assert!(gather.held.is_empty() && !gather.due);
    }

    #[tokio::test]
    async fn more_than_is_held_is_written_at_once_and_in_order() {
        let (near, mut far) = duplex(1 << 20);
        let mut gather = Gather::new(near);
        let large = vec![b'x'; HELD + 1];
        gather.write_all(b"begin ").await.unwrap();
        gather.write_all(&large).await.unwrap();
        gather.write_all(b" end").await.unwrap();
        gather.shutdown().await.unwrap();
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [b"begin ".as_slice(), &large, b" end"].concat());
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_bounds_what_is_held() {
        let (near, _far) = duplex(16);
        let mut gather = Gather::new(near);
        let mut cx = Context::from_waker(Waker::noop());
        let part = [b'x'; 1024];
        let mut taken = 0;
        while let Poll::Ready(written) = Pin::new(&mut gather).poll_write(&mut cx, &part) {
            taken += written.unwrap();
        }
        assert!(taken <= HELD + 16, "{taken}");
    }
}
