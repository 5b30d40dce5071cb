//! Reads of a socket under TLS, ahead of what is asked for.
//!
//! The TLS library asks for 4 KiB at a time. One read takes what is there, up to a record and more, and hands it out from
//! memory; the memory is held only while there is something in it, and goes from one connection of a thread to the next.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

/// As much is read at once: four of the largest records. Twice as much did not make large bodies cheaper.
const AT_ONCE: usize = 64 * 1024;

thread_local! {
    /// What the last read of this thread used: so much at once is dear to allocate for each read.
    static SPARE: Cell<BytesMut> = Cell::default();
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ahead {
    socket: TcpStream,
    read: BytesMut,
}

impl Ahead {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, read: BytesMut::new() }
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Gives the memory back.
    fn release(&mut self) {
        let mut read = std::mem::take(&mut self.read);
        read.clear();
        SPARE.set(read);
    }
}

impl AsyncRead for Ahead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read.is_empty() {
            // More is asked for than a read ahead would bring.
            if buffer.remaining() >= AT_ONCE {
                return Pin::new(&mut this.socket).poll_read(cx, buffer);
            }
            // Most reads find nothing, and need no memory for that.
            ready!(this.socket.poll_read_ready(cx))?;
            this.read = SPARE.take();
            this.read.reserve(AT_ONCE);
            let read = poll_read_buf(Pin::new(&mut this.socket), cx, &mut this.read);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                this.release();
            }
            ready!(read)?;
        }
        let taken = this.read.len().min(buffer.remaining());
        buffer.put_slice(this.read.get(..taken).unwrap_or_default());
        this.read.advance(taken);
        if this.read.is_empty() {
            this.release();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn everything_arrives_in_order_and_nothing_is_held_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Ahead::new(listener.accept().await.unwrap().0);
        let sent: Vec<u8> = (0..300_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
        let mut got = Vec::new();
        let sending = async {
            far.write_all(&sent).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let reading = async {
            let mut part = [0; 4096];
            loop {
                match near.read(&mut part).await.unwrap() {
                    0 => break,
                    read => got.extend_from_slice(&part[..read]),
                }
            }
        };
        tokio::join!(sending, reading);
        assert!(got == sent);
        assert_eq!(near.read.capacity(), 0);
    }
}
