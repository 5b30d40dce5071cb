//! Accepting gRPC connections: handshakes run beside each other, each under a deadline, all under a cap.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use outrigger_core::model::SpiffeId;
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::transport::server::Connected;

use crate::{PeerRejected, Refusal, peer_id, refusal};

/// After an accept that failed for want of descriptors or memory, the next one waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much is taken on at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; one more is closed at once.
    pub connections: usize,
    /// Handshakes under way; further ones wait in the listener's queue.
    pub handshakes: usize,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    /// 4 096 connections, 128 handshakes, 10 s.
    fn default() -> Self {
        Self { connections: 4096, handshakes: 128, handshake_timeout: Duration::from_secs(10) }
    }
}

/// A connection that did not come about.
#[derive(Debug)]
pub struct Refused {
    /// From where.
    pub address: SocketAddr,
    /// Why.
    pub cause: RefusedCause,
}

/// Why a connection did not come about.
#[derive(Debug)]
pub enum RefusedCause {
    /// We refused the client's certificate.
    Peer(Refusal),
    /// The handshake failed otherwise: another protocol, a version we do not speak, the client hung up or refused us.
    Handshake(io::Error),
    /// It took too long.
    Timeout,
    /// Too many are open.
    TooMany,
}

impl RefusedCause {
    /// The stable name, for metrics and logs: a [`PeerRejected`], `handshake`, `timeout` or `too_many`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Peer(refusal) => PeerRejected::as_str(refusal.reason),
            Self::Handshake(_) => "handshake",
            Self::Timeout => "timeout",
            Self::TooMany => "too_many",
        }
    }
}

/// Who calls: in the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// As whom, proven; `None` without a certificate.
    pub id: Option<SpiffeId>,
    /// The certificate that proves it.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Accepts from `listener` until the stream is dropped; to be given to tonic's `serve_with_incoming_shutdown`.
/// `refused` is told of every connection that did not come about: it counts and logs, and must not block.
pub fn incoming(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: Limits,
    refused: impl Fn(Refused) + Send + Sync + 'static,
) -> impl Stream<Item = io::Result<Connection>> + Send + Unpin + 'static {
    let (ready, stream) = mpsc::channel(16);
    let acceptor = Acceptor {
        tls: TlsAcceptor::from(config),
        timeout: limits.handshake_timeout,
        ready,
        refused: Arc::new(refused),
    };
    tokio::spawn(acceptor.run(listener, limits));
    ReceiverStream::new(stream)
}

#[derive(Clone)]
struct Acceptor {
    tls: TlsAcceptor,
    timeout: Duration,
    ready: mpsc::Sender<io::Result<Connection>>,
    refused: Arc<dyn Fn(Refused) + Send + Sync>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener, limits: Limits) {
        let handshakes = Arc::new(Semaphore::new(limits.handshakes));
        let connections = Arc::new(Semaphore::new(limits.connections));
        loop {
            let next = async {
                let slot = Arc::clone(&handshakes).acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                next = next => next,
                () = self.ready.closed() => return,
            };
            match (slot, accepted) {
                (Ok(slot), Ok((tcp, address))) => match Arc::clone(&connections).try_acquire_owned() {
                    Ok(permit) => {
                        let acceptor = self.clone();
                        // Boxed: two buffers of TLS make it large.
                        tokio::spawn(Box::pin(acceptor.shake(tcp, address, permit, slot)));
                    }
                    Err(_none_left) => self.refuse(address, RefusedCause::TooMany),
                },
                (_, Err(error)) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                // Nobody closes the semaphore.
                (Err(_), _) => return,
            }
        }
    }

    async fn shake(
        self,
        tcp: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
        slot: OwnedSemaphorePermit,
    ) {
        let handshake = async {
            tcp.set_nodelay(true)?;
            self.tls.accept(tcp).await
        };
        let tls = tokio::select! {
            outcome = tokio::time::timeout(self.timeout, handshake) => outcome,
            () = self.ready.closed() => return,
        };
        drop(slot);
        match tls {
            Ok(Ok(tls)) => {
                let connection = tls.get_ref().1;
                let leaf = connection.peer_certificates().and_then(|chain| chain.first());
                let certificate = leaf.map(|leaf| leaf.clone().into_owned());
                let peer = Peer { address, id: peer_id(connection), certificate };
                let connection = Connection { tls, peer, _permit: permit };
                // Fails only if nobody accepts any more.
                let _gone = self.ready.send(Ok(connection)).await.is_err();
            }
            Ok(Err(error)) => self.refuse(
                address,
                match refusal(&error) {
                    Some(refusal) => RefusedCause::Peer(refusal),
                    None => RefusedCause::Handshake(error),
                },
            ),
            Err(_elapsed) => self.refuse(address, RefusedCause::Timeout),
        }
    }

    fn refuse(&self, address: SocketAddr, cause: RefusedCause) {
        (self.refused)(Refused { address, cause });
    }
}

/// An accepted connection, handshake complete. Its place among the open ones is free again when it is dropped.
pub struct Connection {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
