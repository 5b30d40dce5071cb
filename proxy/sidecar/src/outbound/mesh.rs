//! Connections to other sidecars: mutual TLS 1.3 with exactly the identity that the endpoint set names, kept apart by
//! (endpoint and its identity, generation of our own credential). What goes through them is agreed on by ALPN: one
//! protocol is offered, and nothing is detected again on the other side.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use outrigger_core::{model::SpiffeId, reason::Reason};
use outrigger_tls::{
    Evidence, Identity, Refusal,
    mesh::{self, ALPN_H1, ALPN_H2, ALPN_TCP},
};
use parking_lot::Mutex;
use rustls::{ClientConfig, Side};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    accept,
    data_path::Shared,
    endpoint::{DestinationState, EndpointState},
    http::{Limits, Overheard},
    io::Ahead,
    telemetry::{Direction, Role, Telemetry},
    trust::{Trusted, Watch},
    upstream::{Connect, Connected, FirstWord, Io, Protocol, Trust, Upstream},
};

/// The addresses of the states of the endpoint (which stands for address and identity) and of the destination, both held by
/// the connections, and the generation.
type Key = (usize, usize, u64);

/// One worker's connections to all peers.
#[derive(Debug, Default)]
pub(super) struct MeshPools(Mutex<BTreeMap<Key, Arc<Upstream<Peer>>>>);

impl MeshPools {
    /// The connections to the endpoint of `state`, with the credential in force; new ones are counted at `destination`.
    pub(super) fn of(
        &self,
        state: &Arc<EndpointState>,
        destination: &Arc<DestinationState>,
        shared: &Shared,
    ) -> Arc<Upstream<Peer>> {
        let (endpoint, counted) = (Arc::as_ptr(state).addr(), Arc::as_ptr(destination).addr());
        let key = (endpoint, counted, shared.identity.credential_generation());
        let mut pools = self.0.lock();
        if let Some(upstream) = pools.get(&key) {
            return Arc::clone(upstream);
        }
        // Endpoints that are gone, and old credentials: nobody uses them, and their connections have run out.
        pools.retain(|_, upstream| Arc::strong_count(upstream) > 1 || !upstream.is_unused());
        let peer = Peer {
            tls: Default::default(),
            identity: shared.identity.clone(),
            state: Arc::clone(state),
            telemetry: shared.telemetry.clone(),
            limits: shared.limits.clone(),
        };
        let upstream =
            Arc::new(Upstream::new(peer, destination, &shared.limits, shared.limits.http1_buffer()));
        pools.insert(key, Arc::clone(&upstream));
        upstream
    }
}

/// One sidecar as an upstream.
#[derive(Debug)]
pub(super) struct Peer {
    /// By what is spoken; made when it is first.
    tls: [OnceLock<Arc<ClientConfig>>; 3],
    identity: Identity,
    state: Arc<EndpointState>,
    telemetry: Telemetry,
    limits: Limits,
}

fn alpn(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Http1 => ALPN_H1,
        Protocol::Http2 => ALPN_H2,
        Protocol::Raw => ALPN_TCP,
    }
}

impl Peer {
    fn tls(&self, protocol: Protocol) -> Arc<ClientConfig> {
        let make =
            || mesh::client_config(&self.identity, [self.state.key().identity.clone()], &[alpn(protocol)]);
        let [http1, http2, raw] = &self.tls;
        let made = match protocol {
            Protocol::Http1 => http1,
            Protocol::Http2 => http2,
            Protocol::Raw => raw,
        };
        Arc::clone(made.get_or_init(make))
    }

    fn handshake_failed(&self, error: &std::io::Error) -> Reason {
        let key = self.state.key();
        let metrics = self.telemetry.metrics();
        if let Some(refusal) = outrigger_tls::refusal(error) {
            metrics.rejected(Direction::Outbound, refusal.reason);
            if let Some(unsaid) = self.telemetry.say(Direction::Outbound) {
                let presented = refusal.presented.as_ref().map(SpiffeId::as_str);
                let reason = refusal.reason.as_str();
                let expected = key.identity.as_str();
                tracing::warn!(upstream.addr = %key.address, expected, presented, reason, unsaid, "peer rejected");
            }
            return Reason::PeerRejected;
        }
        metrics.handshake_failed(Direction::Outbound);
        if let Some(unsaid) = self.telemetry.say(Direction::Outbound) {
            tracing::warn!(upstream.addr = %key.address, %error, unsaid, "handshake failed");
        }
        Reason::TlsFailed
    }

    /// Keeps an eye on the peer that proved itself with `evidence`; `retired` is set when it is no longer trusted.
    fn watch(&self, watch: Watch, evidence: Evidence, retired: &Arc<AtomicBool>) -> Trusted {
        let (retired, telemetry) = (Arc::clone(retired), self.telemetry.clone());
        let address = self.state.key().address;
        watch.over(evidence, &self.limits, move |refusal: Refusal| {
            retired.store(true, Ordering::Relaxed);
            telemetry.distrusted(Direction::Outbound, address, &refusal);
        })
    }
}

impl Connect for Peer {
    async fn connect(&self, protocol: Protocol) -> Result<Connected, Reason> {
        let address = self.state.key().address;
        let stream = TcpStream::connect(address).await.map_err(|error| {
            tracing::debug!(%error, upstream.addr = %address, "connection refused");
            Reason::ConnectFailed
        })?;
        accept::tune(&stream);
        if protocol == Protocol::Http2 {
            accept::tune_shared(&stream, self.limits.peer_timeout);
        }
        let watch = Watch::begin(&self.identity);
        let connector = TlsConnector::from(self.tls(protocol));
        let connected = Box::pin(connector.connect(mesh::server_name(), Ahead::new(stream))).await;
        let mut stream = connected.map_err(|error| self.handshake_failed(&error))?;
        if protocol == Protocol::Http2 {
            stream.get_mut().1.set_buffer_limit(Some(self.limits.tls_buffer()));
        }
        let connection = stream.get_ref().1;
        let evidence = Evidence::of(connection, Side::Server);
        let Some(evidence) = evidence.filter(|_| connection.alpn_protocol() == Some(alpn(protocol))) else {
            self.telemetry.metrics().handshake_failed(Direction::Outbound);
            if let Some(unsaid) = self.telemetry.say(Direction::Outbound) {
                tracing::warn!(upstream.addr = %address, unsaid, "peer speaks no protocol of the mesh");
            }
            return Err(Reason::TlsFailed);
        };
        self.telemetry.metrics().opened(Direction::Outbound);
        let retired = Arc::new(AtomicBool::new(false));
        let trusted = self.watch(watch, evidence, &retired);
        let first = Arc::new(FirstWord::default());
        let io = Io::Tls(Box::new(stream), Arc::clone(&first));
        Ok(Connected { io, trust: Some(Trust { trusted, retired, first, _open: self.state.connected() }) })
    }

    fn refused(&self, refused: &Overheard) {
        self.telemetry.refused(Direction::Outbound, Role::Upstream, self.state.key().address, refused);
    }
}
