//! Making a connection, up to where its protocol begins.

use std::{
    io,
    pin::{Pin, pin},
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
    sync::Notify,
};
use tokio_rustls::client::TlsStream;

use super::ending::{End, Ending, is_reset};
use crate::{
    endpoint::OpenConnection,
    http::{Overheard, Transport},
    io::{Ahead, whole},
    trust::Trusted,
};

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

    /// The parser refused what the upstream sent.
    fn refused(&self, refused: &Overheard);
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
    /// What it says first.
    pub(crate) first: Arc<FirstWord>,
    /// Counts it at its endpoint.
    pub(crate) _open: OpenConnection,
}

/// What a peer says first. With TLS 1.3 it may refuse *our* certificate only after the handshake is over on our side; it
/// has served nothing then.
#[derive(Debug, Default)]
pub(crate) struct FirstWord {
    /// What it means if there is none; nothing said: that TLS failed.
    silence: Option<Reason>,
    heard: AtomicBool,
    refused: AtomicBool,
    over: AtomicBool,
    said: Notify,
    /// And last.
    ending: Ending,
}

impl FirstWord {
    /// Of a peer without TLS.
    pub(crate) fn plain() -> Self {
        Self { silence: Some(Reason::ConnectFailed), ..Self::default() }
    }

    fn note(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            _ if self.heard.load(Ordering::Relaxed) => return,
            Poll::Pending => return,
            Poll::Ready(Ok(0)) => self.over.store(true, Ordering::Relaxed),
            Poll::Ready(Ok(_)) => self.heard.store(true, Ordering::Relaxed),
            Poll::Ready(Err(error)) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
                let alert = matches!(inner, Some(rustls::Error::AlertReceived(_)));
                self.refused.store(alert, Ordering::Relaxed);
                self.over.store(true, Ordering::Relaxed);
            }
        }
        self.said.notify_waiters();
    }

    /// It will say nothing any more.
    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.said.notify_waiters();
    }

    /// Whether it refused us.
    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits for it. Somebody else has to read.
    async fn wait(&self) -> Result<(), Reason> {
        loop {
            let mut said = pin!(self.said.notified());
            said.as_mut().enable();
            if self.heard.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.over.load(Ordering::Relaxed) {
                let silence = self.silence.unwrap_or(Reason::TlsFailed);
                return Err(if self.is_refused() { Reason::PeerRejected } else { silence });
            }
            said.await;
        }
    }
}

impl Connected {
    /// Takes it apart: the socket, the sign that it may take nothing new, and the moment at which it is cut.
    pub(crate) fn split(self) -> (Io, Standing, impl Future<Output = ()> + Send + use<>) {
        let standing = match &self.trust {
            Some(trust) => Standing {
                retired: Arc::clone(&trust.retired),
                first: Arc::clone(&trust.first),
                proven: true,
            },
            None => self.io.standing(),
        };
        let cut = async move {
            match self.trust {
                Some(mut trust) => trust.trusted.cut().await,
                None => std::future::pending().await,
            }
        };
        (self.io, standing, cut)
    }
}

/// What became known of a connection's peer since the handshake. Nothing ever does of one that proved nothing.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    retired: Arc<AtomicBool>,
    first: Arc<FirstWord>,
    proven: bool,
}

impl Standing {
    /// Whether it may take nothing new, since its peer is no longer believed.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether its peer did not believe us.
    pub(super) fn is_refused(&self) -> bool {
        self.first.is_refused()
    }

    /// Whether its peer proved to be a sidecar of the mesh.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// How the connection ended.
    pub(super) fn ending(&self) -> &Ending {
        &self.first.ending
    }

    /// The connection is over: nobody reads any more.
    pub(super) fn end(&self) {
        self.first.end();
    }

    /// Waits until its peer has said something: until then it may still refuse us. Somebody else has to read.
    pub(super) async fn heard(&self) -> Result<(), Reason> {
        self.first.wait().await
    }
}

/// A socket to an upstream.
#[derive(Debug)]
pub(crate) enum Io {
    /// To an application on the same machine.
    Plain(TcpStream, Arc<FirstWord>),
    /// To a peer of the mesh. Boxed: the other kind is a tenth of it.
    Tls(Box<TlsStream<Ahead>>, Arc<FirstWord>),
}

impl Io {
    /// Of a peer that proved nothing.
    fn standing(&self) -> Standing {
        Standing { retired: Arc::default(), first: Arc::clone(self.first()), proven: false }
    }

    fn first(&self) -> &Arc<FirstWord> {
        match self {
            Self::Plain(_, first) | Self::Tls(_, first) => first,
        }
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        let polled = match self {
            Self::Plain(stream, _) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        };
        polled.map_ok(|()| buffer.filled().len() - before)
    }

    /// Takes the end of a write. One that failed while a peer is waited for does not end: what the peer said before, that
    /// it had closed the connection or believes us not, is still there to be read, and whoever reads hears of the end.
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let ending = &self.first().ending;
        ending.wrote(&polled);
        if let Poll::Ready(Err(error)) = &polled {
            if matches!(self, Self::Tls(..)) && ending.is_waited_for() && is_reset(error) {
                return Poll::Pending;
            }
            ending.set(End::Broken);
        }
        polled
    }
}

impl Transport for Io {
    fn reset_on_close(&self) {
        match self {
            Self::Plain(stream, _) => stream.reset_on_close(),
            Self::Tls(stream, _) => stream.reset_on_close(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = this.poll_socket(cx, buffer);
        this.first().note(&polled);
        this.first().ending.read(&polled);
        polled.map_ok(|_read| ())
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match this {
            Self::Plain(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        };
        this.wrote(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match this {
            Self::Plain(stream, _) => whole::poll_write(Pin::new(stream), cx, slices),
            Self::Tls(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        this.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream, _) => stream.is_write_vectored(),
            Self::Tls(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match this {
            Self::Plain(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        };
        let polled = polled.map_ok(|()| 0);
        this.wrote(polled).map_ok(|_none| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
