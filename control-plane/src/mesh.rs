//! The mesh's side of the control plane, put together: registry, compile, discovery, status and telemetry, from the
//! store and the operators' objects to the services of both ports.

mod metrics;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_core::{
    model::{ServiceName, TrustDomain},
    rotation,
};
use outrigger_proto::{
    envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    registry::v1alpha1::registry_service_server::RegistryServiceServer,
    status::v1alpha1::{
        proxy_status_service_server::ProxyStatusServiceServer, status_service_server::StatusServiceServer,
    },
    telemetry::v1alpha1::telemetry_service_server::TelemetryServiceServer,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;

use crate::{
    api::{Progress, refusals::Refusals},
    clock::Clock,
    compile::{self, Miss},
    discovery::{self, Trust, World},
    registry::{self, AddressRules, LoadError, Registration, Registry, service::ServiceSettings},
    status::{Absence, Absences, Board, Keeper, ReportService, service::StatusApi, unreachable},
    store::{Store, StoreError, objects::Objects},
    telemetry::{self, Edges, Endpoints},
};

/// What the mesh's side is made of.
#[derive(Debug)]
pub struct Parts {
    /// Holds the registrations.
    pub store: Store,
    /// The operators' objects, as they change.
    pub objects: watch::Receiver<Arc<Objects>>,
    /// Whom the mesh trusts, as it changes.
    pub trust: watch::Receiver<Trust>,
    /// The mesh's.
    pub trust_domain: TrustDomain,
    /// The file that says who was connected to the process before, and will say so of this one.
    pub known: PathBuf,
    /// The wall clock.
    pub clock: Clock,
    /// Whether workloads may register loopback addresses.
    pub allow_loopback: bool,
    /// Ends every stream.
    pub stop: CancellationToken,
}

/// Open streams of each kind; one more is refused.
const STREAMS: usize = 10_000;

/// Whom a rotation has to reckon with.
#[derive(Debug, Clone)]
pub struct Attendance {
    /// Who is connected, was so a moment ago, or is registered.
    pub proxies: Vec<rotation::Proxy>,
    /// Who broke off earlier.
    pub absent: Vec<rotation::Absent>,
    /// Until when others may be running that broke off earlier.
    pub unnamed_until: Option<SystemTime>,
}

/// The running mesh side. Cheap to clone; each call of a service's function makes one to be served.
#[derive(Debug, Clone)]
pub struct Mesh {
    store: Store,
    registry: Registry,
    worlds: watch::Receiver<Arc<World>>,
    board: Arc<Board>,
    edges: Arc<Edges>,
    endpoints: Endpoints,
    metrics: Metrics,
    clock: Clock,
    allow_loopback: bool,
    /// Whether proxies are told anything.
    settled: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Mesh {
    /// Loads the registry, builds the first world and starts what keeps both true. Nothing can be asked before.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn start(parts: Parts) -> Result<Self, LoadError> {
        let limits = registry::Limits::default();
        let registry = Registry::start(parts.store.clone(), parts.clock.clone(), limits).await?;
        let inputs = discovery::Inputs {
            progress: parts.store.progress(),
            objects: parts.objects,
            registry: registry.watch(),
            trust: parts.trust,
        };
        let worlds = discovery::start(inputs);
        let settled = settle(&parts.store, limits.lease, parts.stop.clone()).await?;
        let board = Arc::new(Board::default());
        let keeper = Keeper {
            path: parts.known,
            trust_domain: parts.trust_domain,
            board: Arc::clone(&board),
            clock: parts.clock.clone(),
            stop: parts.stop.clone(),
        };
        keeper.start().await;
        Ok(Self {
            store: parts.store,
            registry,
            worlds,
            board,
            edges: Arc::new(Edges::new(rand::random())),
            endpoints: Endpoints::default(),
            metrics: Metrics::default(),
            clock: parts.clock,
            allow_loopback: parts.allow_loopback,
            settled,
            stop: parts.stop,
        })
    }

    /// The proxies' configuration; discovery port.
    pub fn discovery_service(&self) -> AggregatedDiscoveryServiceServer<discovery::service::Service> {
        AggregatedDiscoveryServiceServer::new(discovery::service::Service::new(
            self.worlds.clone(),
            Arc::clone(&self.board),
            self.metrics.clone(),
            self.clock.clone(),
            discovery::service::Limits::default(),
            discovery::service::Ends { settled: self.settled.clone(), stop: self.stop.clone() },
        ))
    }

    /// The proxies' registrations; discovery port.
    /// Refused registrations are told to `refusals`.
    pub fn registry_service(
        &self,
        refusals: Refusals,
    ) -> RegistryServiceServer<registry::service::Service<Around>> {
        let settings = ServiceSettings {
            limits: registry::Limits::default(),
            addresses: AddressRules { allow_loopback: self.allow_loopback },
            streams: STREAMS,
            stop: self.stop.clone(),
        };
        let around = Around { worlds: self.worlds.clone(), board: Arc::clone(&self.board) };
        RegistryServiceServer::new(registry::service::Service::new(
            self.registry.clone(),
            around,
            refusals,
            settings,
        ))
    }

    /// What the proxies applied; discovery port.
    pub fn report_service(&self) -> ProxyStatusServiceServer<ReportService> {
        let service = ReportService::new(Arc::clone(&self.board), STREAMS, self.stop.clone());
        ProxyStatusServiceServer::new(service)
    }

    /// Where the proxies' time went, and how they see their endpoints; discovery port.
    pub fn telemetry_service(&self) -> TelemetryServiceServer<telemetry::service::Service> {
        let (edges, endpoints) = (Arc::clone(&self.edges), self.endpoints.clone());
        let service = telemetry::service::Service::new(edges, endpoints, STREAMS, self.stop.clone());
        TelemetryServiceServer::new(service).max_decoding_message_size(telemetry::service::MAX_REPORT_BYTES)
    }

    /// Who runs what; policy port.
    pub fn status_service(&self) -> StatusServiceServer<StatusApi> {
        StatusServiceServer::new(StatusApi {
            worlds: self.worlds.clone(),
            store: self.store.clone(),
            board: Arc::clone(&self.board),
            edges: Arc::clone(&self.edges),
            endpoints: self.endpoints.clone(),
            clock: self.clock.clone(),
            stop: self.stop.clone(),
        })
    }

    /// Tells how far each proxy is.
    pub fn progress(&self) -> Progress {
        let board = Arc::clone(&self.board);
        Arc::new(move || {
            let nodes = board.nodes(Instant::now());
            // What is not in force now says nothing of what will be.
            nodes.iter().map(|node| if node.current(0) { node.progress.applied } else { 0 }).collect()
        })
    }

    /// All proxies, with what a rotation has to know of them. `expires`: when the certificates have expired that were
    /// issued up to a moment.
    pub fn attendance(&self, expires: impl Fn(SystemTime) -> SystemTime) -> Attendance {
        // In this order: who comes or goes in between is in both, not in none.
        let Absences { named, unnamed } = self.board.absences();
        let proxies = self.proxies();
        let known: BTreeSet<&str> = proxies.iter().map(|proxy| proxy.name.as_str()).collect();
        let absent = named.into_iter().filter(|(id, _)| !known.contains(&**id));
        let absent = absent.map(|(id, Absence { since, bundle_sequence })| rotation::Absent {
            name: id.to_string(),
            bundle_sequence,
            until: expires(since),
        });
        Attendance { absent: absent.collect(), unnamed_until: unnamed.map(&expires), proxies }
    }

    /// Those that are connected, were so a moment ago, or are registered.
    fn proxies(&self) -> Vec<rotation::Proxy> {
        let mut nodes = self.board.nodes(Instant::now());
        // For as long as nobody is known to be missing after a start, and certificates that were issued before are good,
        // a rotation waits anyway: it does not need those who are remembered by name alone, and they must not make it longer.
        nodes.retain(|node| !node.recalled());
        let silent = unreachable(&nodes, self.worlds.borrow().registry());
        let silent = silent.into_iter().map(|state| rotation::Proxy {
            name: state.node_id,
            bundle_sequence: 0,
            authorities: Vec::new(),
        });
        let known = nodes.iter().map(|node| rotation::Proxy {
            name: node.id.to_string(),
            bundle_sequence: node.bundle_sequence,
            authorities: node.svid_authorities.clone(),
        });
        known.chain(silent).collect()
    }

    /// The figures of this side, to be registered.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What proxies are told, as it changes.
    pub fn worlds(&self) -> watch::Receiver<Arc<World>> {
        self.worlds.clone()
    }
}

/// After a restore, workloads that joined since the backup are not known before they register again, and those that are
/// gone count until their leases end: proxies, which know better, keep what they have for one `lease` and a little.
async fn settle(
    store: &Store,
    lease: Duration,
    stop: CancellationToken,
) -> Result<watch::Receiver<bool>, StoreError> {
    let restored = store.restored().await?;
    let (tell, settled) = watch::channel(restored.is_none());
    if let Some(revision) = restored {
        let patience = lease + lease / 10;
        tracing::warn!(
            revision,
            seconds = patience.as_secs(),
            "restored from a backup: proxies keep what they have so long"
        );
        let store = store.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(patience) => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = store.settled().await {
                tracing::error!(%error, "the end of the restore could not be written; the next start waits again");
            }
            tracing::info!("everybody had the time to come back; proxies are told what is new");
            tell.send_replace(true);
        });
    }
    Ok(settled)
}

/// What the registry asks of its surroundings.
#[derive(Debug)]
pub struct Around {
    worlds: watch::Receiver<Arc<World>>,
    board: Arc<Board>,
}

impl registry::service::Mesh for Around {
    fn services(&self, registration: &Registration) -> Vec<ServiceName> {
        compile::granted(self.worlds.borrow().policies(), registration)
    }

    fn missed(&self, registration: &Registration, most: usize) -> Vec<(ServiceName, Miss)> {
        let world = self.worlds.borrow();
        let missed = compile::missed(world.policies(), registration).take(most);
        missed.map(|(name, miss)| (name.clone(), miss)).collect()
    }

    async fn propagated(&self, revision: u64) {
        let mut worlds = self.worlds.clone();
        // Proxies cannot be ahead of the world that they are told of.
        if worlds.wait_for(|world| world.revision() >= revision).await.is_ok() {
            self.board.propagated(revision).await;
        }
    }
}
