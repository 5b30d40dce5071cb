//! Inbound: from the mesh to the own application. Every connection is mutual TLS with a peer of the mesh; nothing else
//! passes. What comes on it was agreed on by ALPN, and is not detected again.

mod admission;
mod application;
mod forward;
mod tcp;

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use outrigger_core::{model::SpiffeId, overload::Concurrency, reason::Reason};
use outrigger_tls::{
    Evidence,
    mesh::{self, ALPN_H1, ALPN_H2, ALPN_TCP},
    peer_id,
};
use rustls::{ServerConfig, Side};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept,
    data_path::Shared,
    endpoint::DestinationState,
    headers::{self, Naming},
    http::{Clients, Closing, Guarded, Link, Overheard, ResponseBody, overhear, serve_http1, serve_http2},
    io::Ahead,
    overload::Line,
    settings::InboundProtocol,
    telemetry::{Direction, Party, Role},
    trust::{Trusted, Watch},
    upstream::{Protocol, Upstream},
};
use application::Application;

/// The way to one application, on one worker.
#[derive(Debug)]
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    protocol: InboundProtocol,
    tls: Arc<ServerConfig>,
    application: Upstream<Application>,
    /// The limit on it, if there is to be one.
    concurrency: Option<Arc<Concurrency>>,
    /// Its worker's.
    line: Option<Arc<Line>>,
}

/// A request that is being answered.
type Answering = Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>;

/// A peer of the mesh that proved who it is.
struct Peer {
    address: SocketAddr,
    identity: SpiffeId,
    stream: TlsStream<Ahead>,
    evidence: Evidence,
    speaks: Protocol,
}

/// The downstream of a request.
#[derive(Debug)]
struct Downstream {
    party: Arc<Party>,
    /// Who that is, for the application.
    client_cert: HeaderValue,
    link: Arc<Link>,
    /// Of the timing in its answers.
    naming: Naming,
    /// Connections that left HTTP: at most this one.
    switched: TaskTracker,
    /// Cuts it.
    cut: CancellationToken,
}

impl Inbound {
    pub(crate) fn new(
        shared: Arc<Shared>,
        app: SocketAddr,
        protocol: InboundProtocol,
        line: Option<Arc<Line>>,
    ) -> Arc<Self> {
        let concurrency = shared.applications.of(app);
        let (party, telemetry) = (Party::upstream(app, None), shared.telemetry.clone());
        let application = Application { address: app, party, telemetry };
        let destination = Arc::new(DestinationState::new(Instant::now().into_std()));
        let buffer = shared.limits.http1_application_buffer();
        let application = Upstream::new(application, &destination, &shared.limits, buffer);
        let tls = mesh::server_config(&shared.identity, carried(protocol));
        Arc::new(Self { shared, protocol, tls, application, concurrency, line })
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let watch = Watch::begin(&self.shared.identity);
        let Some(peer) = Box::pin(self.handshake(stream, address)).await else {
            return;
        };
        // No request more: for all connections when the data path drains, for this one when its peer is distrusted.
        let closing = Closing::new(&self.shared.draining_inbound);
        let (close, telemetry) = (closing.at_once(), self.shared.telemetry.clone());
        let trusted = watch.over(peer.evidence.clone(), &self.shared.limits, move |refusal| {
            close.give();
            telemetry.distrusted(Direction::Inbound, address, &refusal);
        });
        if peer.speaks == Protocol::Raw {
            return Box::pin(self.serve_tcp(peer, trusted)).await;
        }
        let identity = peer.identity.clone();
        if let Some(reason) = Box::pin(self.serve_http(peer, trusted, closing)).await {
            let peer = Party::downstream(address, Some(identity));
            self.shared.telemetry.refused_head(Direction::Inbound, peer, reason);
        }
    }

    async fn serve_http(
        self: &Arc<Self>,
        peer: Peer,
        mut trusted: Trusted,
        closing: Closing,
    ) -> Option<Reason> {
        let shared = Arc::clone(&self.shared);
        let Peer { address, identity, stream, speaks, .. } = peer;
        let own = shared.identity.id();
        let mut downstream = Downstream {
            client_cert: headers::client_cert(&identity, own.as_ref()),
            party: Party::downstream(address, Some(identity)),
            link: Arc::default(),
            naming: Naming::new(),
            switched: TaskTracker::new(),
            cut: CancellationToken::new(),
        };
        let (switched, cut) = (downstream.switched.clone(), downstream.cut.clone());
        let limits = &shared.limits;
        let (link, served): (_, Pin<Box<dyn Future<Output = Option<Reason>> + Send>>) = match speaks {
            Protocol::Http2 => {
                let io = Guarded::http2(stream, Bytes::new(), limits);
                downstream.link = Arc::clone(io.link());
                let link = Arc::clone(io.link());
                let served = serve_http2(io, Clients::Many, limits, &closing, self.service(downstream));
                let telemetry = shared.telemetry.clone();
                let tell = move |refused: &Overheard| {
                    telemetry.refused(Direction::Inbound, Role::Downstream, address, refused);
                };
                (link, Box::pin(overhear(served, tell)))
            }
            Protocol::Http1 | Protocol::Raw => {
                let io = Guarded::mesh_http1(stream, limits);
                downstream.link = Arc::clone(io.link());
                let link = Arc::clone(io.link());
                (link, Box::pin(serve_http1(io, limits, &closing, self.service(downstream))))
            }
        };
        let served = async {
            let refused = served.await;
            switched.close();
            switched.wait().await;
            refused
        };
        tokio::select! {
            biased;
            refused = served => refused,
            () = trusted.cut() => {
                // Whatever is on its way ends here, and must not look whole.
                link.reset();
                cut.cancel();
                None
            }
        }
    }

    fn service(
        self: &Arc<Self>,
        downstream: Downstream,
    ) -> impl Fn(Request<Incoming>) -> Answering + Send + use<> {
        // One count for all of it, and not one for each part.
        let both = Arc::new((Arc::clone(self), downstream));
        move |request| Self::answer(&both, request)
    }

    async fn handshake(&self, stream: TcpStream, address: SocketAddr) -> Option<Peer> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls));
        let metrics = self.shared.telemetry.metrics();
        let limits = &self.shared.limits;
        let accepted = timeout(limits.handshake_timeout, acceptor.accept(Ahead::new(stream))).await;
        let mut stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                match outrigger_tls::refusal(&error) {
                    Some(refusal) => {
                        metrics.rejected(Direction::Inbound, refusal.reason);
                        if let Some(unsaid) = self.shared.telemetry.say(Direction::Inbound) {
                            let presented = refusal.presented.as_ref().map(SpiffeId::as_str);
                            let reason = refusal.reason.as_str();
                            tracing::warn!(downstream.addr = %address, presented, reason, unsaid, "peer rejected");
                        }
                    }
                    None => {
                        metrics.handshake_failed(Direction::Inbound);
                        tracing::debug!(downstream.addr = %address, %error, "handshake failed");
                    }
                }
                return None;
            }
            Err(_elapsed) => {
                metrics.handshake_failed(Direction::Inbound);
                tracing::debug!(downstream.addr = %address, "handshake timed out");
                return None;
            }
        };
        let (ahead, connection) = stream.get_mut();
        let speaks = match connection.alpn_protocol() {
            Some(ALPN_H1) => Some(Protocol::Http1),
            Some(ALPN_H2) => {
                accept::tune_shared(ahead.socket(), limits.peer_timeout);
                connection.set_buffer_limit(Some(limits.tls_buffer()));
                Some(Protocol::Http2)
            }
            Some(ALPN_TCP) => Some(Protocol::Raw),
            _ => None,
        };
        let connection = stream.get_ref().1;
        match (peer_id(connection), Evidence::of(connection, Side::Client), speaks) {
            (Some(identity), Some(evidence), Some(speaks)) => {
                Some(Peer { address, identity, stream, evidence, speaks })
            }
            _ => {
                metrics.handshake_failed(Direction::Inbound);
                tracing::debug!(downstream.addr = %address, "peer offered no protocol of the mesh");
                None
            }
        }
    }
}

/// What a peer may bring to an application that speaks `protocol`.
fn carried(protocol: InboundProtocol) -> &'static [&'static [u8]] {
    match protocol {
        InboundProtocol::Http1 | InboundProtocol::Http2 | InboundProtocol::Grpc => &[ALPN_H2, ALPN_H1],
        InboundProtocol::Tcp => &[ALPN_TCP],
        InboundProtocol::Detect => &[ALPN_H2, ALPN_H1, ALPN_TCP],
    }
}
