//! The operators' side: who runs what, where the time goes, and how the endpoints are.

use std::{sync::Arc, time::Duration};

use outrigger_core::{
    model::{Health, ServiceName},
    wire,
};
use outrigger_proto::{
    mesh::v1alpha1 as mesh,
    status::v1alpha1::{
        Convergence, HopsRequest, HopsResponse, ListEndpointsRequest, ListEndpointsResponse,
        ListProxiesRequest, ListProxiesResponse, ListWorkloadsRequest, ListWorkloadsResponse, ProxyState,
        WaitConvergedRequest, WorkloadState, status_service_server::StatusService,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    Board,
    convergence::{Standings, unreachable},
    figures,
};
use crate::{
    clock::Clock,
    compile,
    discovery::World,
    registry::{Member, Standing},
    store::Store,
    telemetry::{Edges, Endpoints, chain},
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// News of convergence come at most so often.
const NEWS_INTERVAL: Duration = Duration::from_millis(100);
/// The slowest 1 %.
const DEFAULT_SLOWEST_PPM: u32 = 10_000;

/// See the module. Reads from all of these.
#[derive(Debug, Clone)]
pub struct StatusApi {
    /// What proxies are told.
    pub worlds: watch::Receiver<Arc<World>>,
    /// Says which revision is the newest.
    pub store: Store,
    /// The proxies.
    pub board: Arc<Board>,
    /// Where their time went.
    pub edges: Arc<Edges>,
    /// How they see their endpoints.
    pub endpoints: Endpoints,
    /// The wall clock.
    pub clock: Clock,
    /// Ends every stream.
    pub stop: CancellationToken,
}

impl StatusApi {
    fn world(&self) -> Arc<World> {
        Arc::clone(&self.worlds.borrow())
    }

    fn standings(&self, revision: u64) -> Standings {
        Standings::new(revision, &self.board.nodes(Instant::now()), self.world().registry())
    }

    async fn wait(
        mut self,
        revision: u64,
        deadline: Instant,
        news: mpsc::Sender<Result<Convergence, Status>>,
    ) {
        let mut changed = self.board.watch();
        let mut told = None;
        loop {
            // A revision that is not in the world yet was told to nobody.
            let reached = self.worlds.borrow_and_update().revision() >= revision;
            let standings = self.standings(revision);
            let over = deadline <= Instant::now();
            let done = reached && standings.done();
            let committed = self.world().committed(revision);
            if done || over || told.as_ref() != Some(&standings) {
                let mut state = standings.to_wire(committed, done || over);
                state.converged &= reached;
                if news.send(Ok(state)).await.is_err() || done || over {
                    return;
                }
                told = Some(standings);
            }
            // At most one message an interval, but never later than the deadline.
            let pause = (Instant::now() + NEWS_INTERVAL).min(deadline);
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                changed = self.worlds.changed() => if changed.is_err() { return },
                () = sleep_until(deadline) => continue,
                () = news.closed() => return,
                () = self.stop.cancelled() => {
                    let stopping = Status::unavailable("the control plane stops");
                    let _gone = news.send(Err(stopping)).await.is_err();
                    return;
                }
            }
            if !(self.worlds.borrow().revision() >= revision && self.standings(revision).done()) {
                sleep_until(pause).await;
            }
        }
    }
}

#[tonic::async_trait]
impl StatusService for StatusApi {
    async fn list_proxies(
        &self,
        _request: Request<ListProxiesRequest>,
    ) -> Result<Response<ListProxiesResponse>, Status> {
        let world = self.world();
        let nodes = self.board.nodes(Instant::now());
        let mut proxies: Vec<ProxyState> = nodes.iter().map(super::Node::to_wire).collect();
        proxies.extend(unreachable(&nodes, world.registry()));
        proxies.sort_by(|one, other| one.node_id.cmp(&other.node_id));
        Ok(Response::new(ListProxiesResponse { proxies, revision: world.revision() }))
    }

    type WaitConvergedStream = ReceiverStream<Result<Convergence, Status>>;

    async fn wait_converged(
        &self,
        request: Request<WaitConvergedRequest>,
    ) -> Result<Response<Self::WaitConvergedStream>, Status> {
        let request = request.into_inner();
        let timeout = match request.timeout {
            None => DEFAULT_TIMEOUT,
            Some(timeout) => Duration::try_from(timeout)
                .ok()
                .filter(|timeout| *timeout <= MAX_TIMEOUT)
                .ok_or_else(|| Status::invalid_argument("timeout: 0s to 10m"))?,
        };
        let newest = self.store.revision();
        if request.revision > newest {
            let text = format!("revision: {} does not exist; the newest is {newest}", request.revision);
            return Err(Status::invalid_argument(text));
        }
        let revision = if request.revision == 0 { newest } else { request.revision };
        let (news, stream) = mpsc::channel(1);
        tokio::spawn(self.clone().wait(revision, Instant::now() + timeout, news));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_workloads(
        &self,
        request: Request<ListWorkloadsRequest>,
    ) -> Result<Response<ListWorkloadsResponse>, Status> {
        let namespace = request.into_inner().namespace;
        let world = self.world();
        let members = world.registry().members.values();
        let wanted = members.filter(|member| {
            namespace.is_empty() || member.registration.claim.name.namespace.as_str() == namespace
        });
        let workloads = wanted.map(|member| workload(&world, member)).collect();
        Ok(Response::new(ListWorkloadsResponse { workloads }))
    }

    async fn hops(&self, request: Request<HopsRequest>) -> Result<Response<HopsResponse>, Status> {
        let request = request.into_inner();
        let service = match request.service.as_str() {
            "" => None,
            name => Some(service_name(name)?),
        };
        let slowest = match request.slowest_ppm {
            0 => DEFAULT_SLOWEST_PPM,
            ppm @ 1..=1_000_000 => ppm,
            _ => return Err(Status::invalid_argument("slowest_ppm: 0 to 1000000")),
        };
        let added =
            self.edges.since(&request.since).map_err(|gone| Status::failed_precondition(gone.to_string()))?;
        let world = self.world();
        let wanted: Vec<_> = match &service {
            None => added.keys().map(|key| (0, key)).collect(),
            Some(service) => chain(added.keys(), service, world.policies()),
        };
        if let Some(service) = &service
            && wanted.is_empty()
        {
            exists(&world, service)?;
        }
        let hops = wanted
            .into_iter()
            .filter_map(|(depth, key)| Some(figures::hop(depth, key, &added.of(key)?, slowest)))
            .collect();
        let at = Some(wire::time::encode_timestamp(self.clock.now()));
        Ok(Response::new(HopsResponse { hops, cursor: added.cursor.clone(), at }))
    }

    async fn list_endpoints(
        &self,
        request: Request<ListEndpointsRequest>,
    ) -> Result<Response<ListEndpointsResponse>, Status> {
        let service = service_name(&request.into_inner().service)?;
        let seen = self.endpoints.of(&service, Instant::now());
        if seen.endpoints.is_empty() {
            exists(&self.world(), &service)?;
        }
        Ok(Response::new(figures::endpoints(seen)))
    }
}

fn service_name(name: &str) -> Result<ServiceName, Status> {
    name.parse().map_err(|error| Status::invalid_argument(format!("service: {error}")))
}

/// A service without figures may be a misspelt one.
fn exists(world: &World, service: &ServiceName) -> Result<(), Status> {
    match world.policies().service(service) {
        Some(_) => Ok(()),
        None => Err(Status::not_found(format!("there is no service {service}"))),
    }
}

fn workload(world: &World, member: &Member) -> WorkloadState {
    let registration = &member.registration;
    let health = match (member.standing, member.health) {
        (Standing::Lapsed(_) | Standing::Overdue(_), _) | (_, Health::Unhealthy) => mesh::Health::Unhealthy,
        (_, Health::Healthy) => mesh::Health::Healthy,
        (_, Health::Draining) => mesh::Health::Draining,
    };
    let services = compile::granted(world.policies(), registration);
    WorkloadState {
        name: registration.claim.name.to_string(),
        spiffe_id: registration.claim.identity.to_string(),
        labels: registration.labels.clone(),
        health: health.into(),
        connected: member.connected,
        services: services.iter().map(ToString::to_string).collect(),
        addresses: registration.claim.pairs.iter().map(|pair| pair.address.to_string()).collect(),
    }
}
