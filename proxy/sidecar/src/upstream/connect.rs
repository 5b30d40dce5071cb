//! Making a connection, up to where its protocol begins.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use outrigger_core::reason::Reason;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{http::Transport, trust::Trusted};

/// What is to be spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Raw,
}

/// Makes connections to one upstream.
pub(crate) trait Connect: std::fmt::Debug + Send + Sync + 'static {
    /// Makes one; bounded in time.
    fn connect(&self, protocol: Protocol) -> impl Future<Output = Result<Connected, Reason>> + Send;
}

/// A connection on which nothing was said yet.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) io: Io,
    /// Whether its peer is still to be believed; `None`: nobody proved anything.
    pub(crate) trust: Option<Trust>,
}

/// The watch over a peer that proved its identity.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) trusted: Trusted,
    /// Set when the peer is no longer believed: what is under way may finish, and nothing new begins.
    pub(crate) retired: Arc<AtomicBool>,
}

impl Connected {
    /// Takes it apart: the socket, the sign that it may take nothing new, and the moment at which it is cut.
    pub(crate) fn split(self) -> (Io, Retired, impl Future<Output = ()> + Send + use<>) {
        let retired = Retired(self.trust.as_ref().map(|trust| Arc::clone(&trust.retired)));
        let cut = async move {
            match self.trust {
                Some(mut trust) => trust.trusted.cut().await,
                None => std::future::pending().await,
            }
        };
        (self.io, retired, cut)
    }
}

/// Whether a connection may take nothing new because its peer is no longer believed.
#[derive(Debug, Clone)]
pub(crate) struct Retired(Option<Arc<AtomicBool>>);

impl Retired {
    pub(super) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|retired| retired.load(Ordering::Relaxed))
    }
}

/// A socket to an upstream.
#[derive(Debug)]
pub(crate) enum Io {
    /// To an application on the same machine.
    Plain(TcpStream),
    /// To a peer of the mesh. Boxed: the other kind is a tenth of it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport for Io {
    fn reset_on_close(&self) {
        match self {
            Self::Plain(stream) => stream.reset_on_close(),
            Self::Tls(stream) => stream.get_ref().0.reset_on_close(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
