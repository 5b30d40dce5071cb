//! Connections to other sidecars: mutual TLS 1.3 with exactly the identity that the endpoint set names, kept apart by
//! (endpoint and its identity, generation of our own credential).

use std::{
    collections::HashMap,
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use outrigger_core::{model::SpiffeId, reason::Reason};
use outrigger_tls::{
    Evidence, Identity, Refusal,
    mesh::{self, ALPN_H1},
};
use parking_lot::Mutex;
use rustls::{ClientConfig, Side};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    accept,
    attempt::{Connect, handshake},
    data_path::Shared,
    endpoint::EndpointState,
    http::Limits,
    pool::{Pool, Upstream},
    telemetry::{Direction, Telemetry},
    trust::{Trusted, Watch},
};

/// The address of the state (which stands for address and identity, and is held by the pool), and the generation.
type Key = (usize, u64);

/// One worker's pools.
#[derive(Debug, Default)]
pub(super) struct MeshPools(Mutex<HashMap<Key, Arc<Peer>>>);

impl MeshPools {
    /// The connections to the endpoint of `state`, with the credential in force.
    pub(super) fn of(&self, state: &Arc<EndpointState>, shared: &Shared) -> Arc<Peer> {
        let key = (Arc::as_ptr(state).addr(), shared.identity.credential_generation());
        let mut pools = self.0.lock();
        if let Some(peer) = pools.get(&key) {
            return Arc::clone(peer);
        }
        // Endpoints that are gone, and old credentials: nobody uses them, and their connections have run out.
        pools.retain(|_, peer| Arc::strong_count(peer) > 1 || !peer.pool.is_unused());
        let peer = Arc::new(Peer {
            pool: Pool::new(&shared.limits),
            tls: mesh::client_config(&shared.identity, [state.key().identity.clone()], &[ALPN_H1]),
            identity: shared.identity.clone(),
            state: Arc::clone(state),
            telemetry: shared.telemetry.clone(),
            limits: shared.limits.clone(),
        });
        pools.insert(key, Arc::clone(&peer));
        peer
    }
}

/// One sidecar as an upstream.
#[derive(Debug)]
pub(super) struct Peer {
    pool: Arc<Pool>,
    tls: Arc<ClientConfig>,
    identity: Identity,
    state: Arc<EndpointState>,
    telemetry: Telemetry,
    limits: Limits,
}

impl Peer {
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn refused(&self, error: &std::io::Error) -> Reason {
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
    async fn connect(&self) -> Result<Upstream, Reason> {
        let address = self.state.key().address;
        let stream = TcpStream::connect(address).await.map_err(|error| {
            tracing::debug!(%error, upstream.addr = %address, "connection refused");
            Reason::ConnectFailed
        })?;
        accept::tune(&stream);
        let watch = Watch::begin(&self.identity);
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let connected = Box::pin(connector.connect(mesh::server_name(), stream)).await;
        let stream = connected.map_err(|error| self.refused(&error))?;
        let connection = stream.get_ref().1;
        let evidence = Evidence::of(connection, Side::Server);
        let Some(evidence) = evidence.filter(|_| connection.alpn_protocol() == Some(ALPN_H1)) else {
            self.telemetry.metrics().handshake_failed(Direction::Outbound);
            if let Some(unsaid) = self.telemetry.say(Direction::Outbound) {
                tracing::warn!(upstream.addr = %address, unsaid, "peer speaks no protocol of the mesh");
            }
            return Err(Reason::TlsFailed);
        };
        self.telemetry.metrics().opened(Direction::Outbound);
        let retired = Arc::new(AtomicBool::new(false));
        let mut trusted = self.watch(watch, evidence, &retired);
        let cut = async move { trusted.cut().await };
        Ok(handshake(stream, &self.limits, cut).await?.until(retired))
    }
}

/// Whether the peer ended the handshake because of *our* certificate. With TLS 1.3 this is learnt only when the answer
/// is awaited; the peer served nothing then.
pub(crate) fn refused_us(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    let inner = io.and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| matches!(inner.downcast_ref(), Some(rustls::Error::AlertReceived(_))))
}
