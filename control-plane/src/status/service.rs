//! The operators' side: who runs what, and where the time goes.

use std::{sync::Arc, time::Duration};

use outrigger_core::{
    model::{Health, ServiceName},
    telemetry::{Makeup, PHASES, Phase},
    wire,
};
use outrigger_proto::{
    mesh::v1alpha1 as mesh,
    status::v1alpha1::{
        Convergence, Hop, HopsRequest, HopsResponse, ListProxiesRequest, ListProxiesResponse,
        ListWorkloadsRequest, ListWorkloadsResponse, PhaseShare, ProxyState, WaitConvergedRequest,
        WorkloadState, status_service_server::StatusService,
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
};
use crate::{
    clock::Clock,
    compile,
    discovery::World,
    registry::{Member, Standing},
    store::Store,
    telemetry::{Edges, Figures, Key},
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// News of convergence come at most so often.
const NEWS_INTERVAL: Duration = Duration::from_millis(100);
/// The slowest 1 %.
const DEFAULT_SLOWEST_PPM: u32 = 10_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct StatusApi {
    worlds: watch::Receiver<Arc<World>>,
    store: Store,
    board: Arc<Board>,
    edges: Arc<Edges>,
    clock: Clock,
    stop: CancellationToken,
}

impl StatusApi {
    /// Reads from all of these; streams end at `stop`.
    pub fn new(
        worlds: watch::Receiver<Arc<World>>,
        store: Store,
        board: Arc<Board>,
        edges: Arc<Edges>,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        Self { worlds, store, board, edges, clock, stop }
    }

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
        let service: Option<ServiceName> = match request.service.as_str() {
            "" => None,
            name => {
                Some(name.parse().map_err(|error| Status::invalid_argument(format!("service: {error}")))?)
            }
        };
        let slowest = match request.slowest_ppm {
            0 => DEFAULT_SLOWEST_PPM,
            ppm @ 1..=1_000_000 => ppm,
            _ => return Err(Status::invalid_argument("slowest_ppm: 0 to 1000000")),
        };
        let added = self
            .edges
            .since(&request.since, service.as_ref())
            .map_err(|gone| Status::failed_precondition(gone.to_string()))?;
        let hops = added.figures.iter().map(|(key, figures)| hop(key, figures, slowest)).collect();
        let at = Some(wire::time::encode_timestamp(self.clock.now()));
        Ok(Response::new(HopsResponse { hops, cursor: added.cursor, at }))
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

fn hop(key: &Key, figures: &Figures, slowest_ppm: u32) -> Hop {
    let (destination, port) = match &key.edge.destination {
        Some((service, port)) => (service.to_string(), u32::from(*port)),
        None => ("other".to_owned(), 0),
    };
    let time = |time: Duration| Some(wire::time::encode_duration(time));
    let shares = |phases: [(Phase, Duration); PHASES]| {
        let share = |(phase, spent): (Phase, Duration)| PhaseShare {
            phase: phase.as_str().to_owned(),
            time: time(spent),
        };
        phases.into_iter().map(share).collect()
    };
    let all = Makeup::slowest(&figures.total, 1_000_000);
    let slowest = Makeup::slowest(&figures.total, slowest_ppm);
    Hop {
        source: key.source.to_string(),
        destination,
        port,
        rule: key.edge.rule.as_deref().unwrap_or_default().to_owned(),
        requests: figures.requests,
        failures: figures.failures,
        p50: figures.total.quantile(0.5).and_then(time),
        p99: figures.total.quantile(0.99).and_then(time),
        mean: time(figures.total.mean()),
        mean_phases: all.map(|all| shares(all.phases())).unwrap_or_default(),
        slowest_phases: slowest.map(|slowest| shares(slowest.phases())).unwrap_or_default(),
        slowest_mean: slowest.and_then(|slowest| time(slowest.mean())),
        slowest_requests: slowest.map_or(0, |slowest| slowest.requests),
    }
}
