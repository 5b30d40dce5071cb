//! Listeners: each accepts in one task, and hands every socket to the worker with the fewest connections.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    data_path::{Shared, StartError},
    settings::{InboundProtocol, ServiceTarget},
    telemetry::{Direction, Open},
    worker::Handoff,
};

/// Sockets that wait for being accepted.
const BACKLOG: i32 = 1024;
/// How long nothing is accepted after the process ran out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// When a peer that says nothing is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// What a listener is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listener {
    /// The forward proxy of the own workload.
    Outbound,
    /// The own workload, on its way to one service.
    Service {
        /// Which.
        target: Arc<ServiceTarget>,
    },
    /// Peers, on behalf of the application at `app`.
    Inbound {
        /// Where the application listens.
        app: SocketAddr,
        /// What it speaks there.
        protocol: InboundProtocol,
    },
}

impl Listener {
    pub(crate) fn direction(&self) -> Direction {
        match self {
            Self::Outbound | Self::Service { .. } => Direction::Outbound,
            Self::Inbound { .. } => Direction::Inbound,
        }
    }

    /// The setting that asked for it.
    fn setting(&self) -> &'static str {
        match self {
            Self::Outbound => "outbound.listen",
            Self::Service { .. } => "outbound.services",
            Self::Inbound { .. } => "inbound",
        }
    }

    /// Whether only the own workload may reach it: whoever does speaks as this workload.
    fn is_local(&self) -> bool {
        self.direction() == Direction::Outbound
    }
}

/// A listener that is bound and accepts nothing yet.
#[derive(Debug)]
pub(crate) struct BoundListener {
    listener: Listener,
    socket: StdListener,
    address: SocketAddr,
}

impl BoundListener {
    pub(crate) fn bind(listener: Listener, address: SocketAddr) -> Result<Self, StartError> {
        let setting = listener.setting();
        if listener.is_local() && !address.ip().is_loopback() {
            return Err(StartError::NotLoopback { setting, address });
        }
        let failed = |source| StartError::Listen { setting, address, source };
        let socket = bind(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { listener, socket, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the data path stops.
    pub(crate) async fn accept(self, shared: Arc<Shared>, handoff: Handoff) {
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, address = %self.address, "listener could not be used");
                return;
            }
        };
        let permits = Arc::new(Semaphore::new(shared.limits.connections));
        let accepting = async {
            loop {
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                    return;
                };
                match socket.accept().await {
                    Ok((stream, peer)) => match stream.into_std() {
                        Ok(stream) => {
                            let open = shared.telemetry.metrics().accepted(self.listener.direction());
                            let connection = Connection { _permit: permit, _open: open };
                            let listener = self.listener.clone();
                            handoff.give(Accepted { listener, stream, peer, connection }).await;
                        }
                        Err(error) => tracing::debug!(%error, "accepted socket could not be handed on"),
                    },
                    Err(error) if is_of_the_connection(&error) => {}
                    Err(error) => {
                        if let Some(unsaid) = shared.telemetry.say(self.listener.direction()) {
                            tracing::warn!(%error, address = %self.address, unsaid, "cannot accept");
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shared.stopped.cancelled() => {}
        }
    }
}

/// A socket on its way to its worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) listener: Listener,
    pub(crate) stream: StdStream,
    pub(crate) peer: SocketAddr,
    pub(crate) connection: Connection,
}

/// What an accepted connection occupies while it is open.
#[derive(Debug)]
pub(crate) struct Connection {
    _permit: OwnedSemaphorePermit,
    _open: Open,
}

fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted proxy must not wait for the old one's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether it was this connection that failed, and the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// No delay for small writes, and an end for peers that vanished. Nothing is said of how long what is sent may stay
/// unacknowledged: to the kernel a reader that pauses is one that vanished, since a window that stays shut counts although its
/// probes are answered (Linux 5.11; RFC 9293 §3.8.6.1 would have it wait). How long he may pause, the idle timeouts say.
pub(crate) fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let tuned = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "socket options could not be set");
    }
}

/// When to ask a peer that says nothing for the first time, and from then on how often: so that the limit, of so many seconds, is one
/// of these moments, and none of them is further than [`KEEPALIVE`] from the one before.
fn asked_within(limit: u64) -> (Duration, Duration) {
    let most = KEEPALIVE.as_secs();
    let interval = (limit / 4).clamp(1, most);
    let times = limit.saturating_sub(most).div_ceil(interval).max(2);
    let first = limit.saturating_sub(times * interval).clamp(1, most);
    (Duration::from_secs(first), Duration::from_secs(interval))
}

/// A connection that many requests share is given up when its peer acknowledges nothing for `limit`: it always reads, however
/// slow what it reads for is. Where nothing is sent there is nothing to acknowledge, so that it is asked well before: the
/// kernel counts `limit` from the last that it heard, and looks when it asks. It counts whole seconds there, and of a `limit`
/// below two it needs two; the last question is at the limit.
pub(crate) fn tune_shared(stream: &TcpStream, limit: Duration) {
    let (first, then) = asked_within(limit.as_secs());
    let keepalive = TcpKeepalive::new().with_time(first).with_interval(then);
    let socket = SockRef::from(stream);
    let tuned = unacknowledged(&socket, limit).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "socket options could not be set");
    }
}

#[cfg(target_os = "linux")]
fn unacknowledged(socket: &SockRef<'_>, limit: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(limit))
}

#[cfg(not(target_os = "linux"))]
fn unacknowledged(_socket: &SockRef<'_>, _limit: Duration) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_judges_only_peers_that_always_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let limit = || SockRef::from(&stream).tcp_user_timeout().unwrap().filter(|limit| !limit.is_zero());
        tune(&stream);
        assert_eq!(limit(), None);
        tune_shared(&stream, Duration::from_secs(20));
        assert_eq!(limit(), Some(Duration::from_secs(20)));
    }

    #[tokio::test]
    async fn a_peer_that_is_sent_nothing_is_asked_within_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        for limit in 3..=600 {
            let (first, then) = asked_within(limit);
            let (first, then) = (first.as_secs(), then.as_secs());
            assert_eq!((limit - first) % then, 0, "{limit}: {first} {then}");
            assert!(first <= 20 && then <= 20 && limit - first >= 2 * then, "{limit}: {first} {then}");
        }
        for (limit, first, then) in [(1, 1, 1), (3, 1, 1), (20, 10, 5), (25, 13, 6), (600, 20, 20)] {
            tune_shared(&stream, Duration::from_secs(limit));
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            let asked = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
            assert_eq!(asked, (Duration::from_secs(first), Duration::from_secs(then)), "{limit}");
        }
    }
}
