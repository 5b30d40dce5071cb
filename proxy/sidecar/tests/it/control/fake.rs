//! A control plane in memory, on a runtime of its own, so that it can be killed and come back. What it sees is in
//! [`Seen`]; what it does is driven by the test.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use outrigger_core::{
    delta::{
        TYPES,
        server::{Lookup, Session, Source},
    },
    join_token::{JoinToken, TokenId, TokenSecret},
    model::{self, SpiffeId},
};
use outrigger_proto::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
    identity::v1alpha1::{
        Bundle, IssueRequest, IssueResponse,
        identity_service_server::{IdentityService, IdentityServiceServer},
    },
    mesh::v1alpha1 as mesh,
    registry::v1alpha1::{
        SessionRequest, SessionResponse, Workload,
        registry_service_server::{RegistryService, RegistryServiceServer},
        session_request::Kind,
    },
    status::v1alpha1::{
        AppliedAck, AppliedReport,
        proxy_status_service_server::{ProxyStatusService, ProxyStatusServiceServer},
    },
    telemetry::v1alpha1::{
        ReportRequest, ReportResponse,
        telemetry_service_server::{TelemetryService, TelemetryServiceServer},
    },
    type_url,
};
use outrigger_tls::{
    grpc::{self, OperatorAuthorities},
    spki_sha256,
    testing::{Authority, Leaf},
};
use prost::Message;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// Whatever a test waits for comes within so long, or not at all.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What is served, and what was seen. One value: every change wakes whoever waits for it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) resources: BTreeMap<(&'static str, String), (String, Vec<u8>)>,
    pub(super) revision: u64,
    /// Answer to every join.
    pub(super) join: Result<(), Status>,
    /// Life of a certificate, and when to renew it.
    pub(super) life: (Duration, Duration),
    /// Whether withdrawals and good-byes are confirmed.
    pub(super) confirm: bool,
    /// Whether figures are acknowledged; else the stream breaks once they are counted.
    pub(super) acknowledge: bool,

    pub(super) issued: Vec<IssueRequest>,
    pub(super) requests: Vec<DeltaDiscoveryRequest>,
    pub(super) resent: usize,
    /// Discovery streams that ended by a half-close.
    pub(super) good_byes: usize,
    pub(super) applied: Vec<AppliedReport>,
    pub(super) registry: Vec<Event>,
    pub(super) reports: Vec<ReportRequest>,
}

/// A call that is given up reads like a half-close, except that its responses are closed with it: as the control plane
/// tells them apart.
const GIVEN_UP: Duration = Duration::from_millis(100);

/// What happened on registry sessions.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Registered(Workload),
    Heartbeat,
    HalfClosed,
}

impl Seen {
    fn new() -> Self {
        Self {
            resources: BTreeMap::new(),
            revision: 1,
            join: Ok(()),
            life: (Duration::from_secs(24 * 3600), Duration::from_secs(12 * 3600)),
            confirm: true,
            acknowledge: true,
            issued: Vec::new(),
            requests: Vec::new(),
            resent: 0,
            good_byes: 0,
            applied: Vec::new(),
            registry: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// Puts a resource in its place; the version follows from the content.
    pub(super) fn put<M: Message>(&mut self, type_url: &'static str, name: &str, message: &M) {
        let content = message.encode_to_vec();
        let version = outrigger_tls::sha256(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        self.resources.insert((type_url, name.to_owned()), (version, content));
        self.revision += 1;
    }

    pub(super) fn remove(&mut self, type_url: &'static str, name: &str) {
        self.resources.remove(&(type_url, name.to_owned()));
        self.revision += 1;
    }

    /// The requests of `type_url` with an error.
    pub(super) fn refusals(&self, type_url: &str) -> Vec<&DeltaDiscoveryRequest> {
        let of_type = self.requests.iter().filter(|request| request.type_url == type_url);
        of_type.filter(|request| request.error_detail.is_some()).collect()
    }

    pub(super) fn registrations(&self) -> Vec<&Workload> {
        let mut registrations = Vec::new();
        for event in &self.registry {
            if let Event::Registered(workload) = event {
                registrations.push(workload);
            }
        }
        registrations
    }
}

impl Source for Seen {
    fn get(&self, type_url: &str, name: &str) -> Lookup<'_> {
        let found = self.resources.iter().find(|((kind, of), _)| *kind == type_url && of == name);
        match found {
            Some((_, (version, content))) => Lookup::Found { version, content, ttl: None },
            None => Lookup::NotFound,
        }
    }

    fn wildcard(&self, type_url: &str) -> Vec<String> {
        self.resources.keys().filter(|(kind, _)| *kind == type_url).map(|(_, name)| name.clone()).collect()
    }
}

/// The control plane.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) authority: Arc<Authority>,
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<watch::Sender<Seen>>,
    runtime: Option<Runtime>,
}

impl Fake {
    /// One that is up, with a configuration for the workload `demo/price`.
    pub(super) fn start() -> Self {
        let authority = Arc::new(Authority::new("outrigger.local"));
        let mut seen = Seen::new();
        seen.put(type_url::PROXY_CONFIG, "self", &config(&authority.workload_id("demo", "price")));
        let bundle = authority.bundle();
        let bundle = model::TrustBundle::from(&bundle);
        seen.put(type_url::TRUST_BUNDLE, "outrigger.local", &mesh::TrustBundle::from(&bundle));
        let any = "127.0.0.1:0".parse().unwrap();
        let mut fake =
            Self { authority, address: any, seen: Arc::new(watch::Sender::new(seen)), runtime: None };
        fake.resume();
        fake
    }

    /// Dies with all its connections.
    pub(super) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own, since that waits; when it returns, the port is free again.
            std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE)).join().unwrap();
        }
    }

    /// Comes back at the same address, with the same state.
    pub(super) fn resume(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let identity = self.authority.identity(self.authority.control_plane());
        let operators = OperatorAuthorities::new([self.authority.operators_der()]).unwrap();
        let tls = grpc::server_config(&identity, &operators);
        let service = Service { authority: Arc::clone(&self.authority), seen: Arc::clone(&self.seen) };
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let incoming = grpc::incoming(listener, tls, grpc::Limits::default(), |_| {});
            let server = tonic::transport::Server::builder()
                .add_service(IdentityServiceServer::new(service.clone()))
                .add_service(AggregatedDiscoveryServiceServer::new(service.clone()))
                .add_service(RegistryServiceServer::new(service.clone()))
                .add_service(ProxyStatusServiceServer::new(service.clone()))
                .add_service(TelemetryServiceServer::new(service))
                .serve_with_incoming(incoming);
            Box::pin(server).await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    /// A token that the fake takes: it takes all.
    pub(super) fn token(&self) -> JoinToken {
        let root_spki_sha256 = spki_sha256(&self.authority.root_der()).unwrap();
        JoinToken { id: TokenId([1; 8]), secret: TokenSecret::new([2; 32]), root_spki_sha256 }
    }

    /// Changes what is served.
    pub(super) fn change(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }

    /// Waits until `what` has been seen.
    pub(super) async fn until(&self, what: &str, condition: impl FnMut(&Seen) -> bool) {
        let mut watched = self.seen.subscribe();
        let waited = timeout(PATIENCE, watched.wait_for(condition)).await;
        assert!(waited.is_ok_and(|changed| changed.is_ok()), "never seen: {what}; {:#?}", self.seen.borrow());
    }

    /// What `look` finds in what was seen.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.borrow())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The configuration of the workload `id`.
pub(super) fn config(id: &SpiffeId) -> mesh::ProxyConfig {
    mesh::ProxyConfig::from(&model::ProxyConfig {
        workload_id: id.clone(),
        cluster_domain: "cluster.local".to_owned(),
        on_demand_timeout: Duration::from_secs(5),
        on_demand_idle: Duration::from_secs(300),
        external_traffic: model::ExternalTraffic::Deny,
        request_timeout: None,
        connect_timeout: Duration::from_secs(1),
    })
}

#[derive(Debug, Clone)]
struct Service {
    authority: Arc<Authority>,
    seen: Arc<watch::Sender<Seen>>,
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

#[async_trait]
impl IdentityService for Service {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = request.extensions().get::<grpc::Peer>().cloned();
        let request = request.into_inner();
        self.seen.send_modify(|seen| seen.issued.push(request.clone()));
        let (join, (life, renew)) = {
            let seen = self.seen.borrow();
            (seen.join.clone(), seen.life)
        };
        if request.join_token.is_empty() {
            peer.and_then(|peer| peer.id).ok_or_else(|| Status::unauthenticated("who are you?"))?;
        } else {
            join?;
        }
        let mut leaf = Leaf::of(&self.authority.workload_id("demo", "price"));
        let now = SystemTime::now();
        leaf.not_after = now + life;
        let bundle = self.authority.bundle();
        Ok(Response::new(IssueResponse {
            chain_der: self.authority.certify(&leaf, &request.csr_der),
            renew_after: Some((now + renew).into()),
            bundle: Some(Bundle {
                trust_domain: bundle.trust_domain().to_string(),
                x509_authorities: bundle.authorities().iter().map(|der| der.to_vec()).collect(),
                sequence: bundle.sequence(),
            }),
            ..IssueResponse::default()
        }))
    }
}

#[async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = Stream<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, stream) = mpsc::channel(16);
        let seen = Arc::clone(&self.seen);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            let id = rand::random();
            let mut revision = seen.borrow().revision;
            let mut session = Session::new(id, &TYPES, revision);
            let mut changed = seen.subscribe();
            loop {
                tokio::select! {
                    request = requests.message() => {
                        let Ok(request) = request else { return };
                        let Some(request) = request else {
                            if timeout(GIVEN_UP, responses.closed()).await.is_err() {
                                seen.send_modify(|seen| seen.good_byes += 1);
                                let mut seen = seen.subscribe();
                                let _confirmed = seen.wait_for(|seen| seen.confirm).await.is_ok();
                            }
                            return;
                        };
                        session.on_request(request.clone()).unwrap();
                        seen.send_modify(|seen| seen.requests.push(request));
                    }
                    _ = changed.changed() => {}
                }
                let mut ready = Vec::new();
                {
                    let seen = seen.borrow();
                    if seen.revision > revision {
                        revision = seen.revision;
                        let subscribed: Vec<_> =
                            session.subscribed().map(|(kind, name)| (kind, name.to_owned())).collect();
                        let known = seen.resources.keys().map(|(kind, name)| (*kind, name.clone()));
                        let all: Vec<_> = known.chain(subscribed).collect();
                        session.on_change(revision, all.iter().map(|(kind, name)| (*kind, name.as_str())));
                    }
                    while let Some(response) = session.poll(&*seen, revision, Instant::now()) {
                        ready.push(response);
                    }
                }
                for response in ready {
                    seen.send_modify(|seen| seen.resent += response.resources.len());
                    if responses.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[async_trait]
impl RegistryService for Service {
    type SessionStream = Stream<SessionResponse>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (responses, stream) = mpsc::channel(16);
        let seen = Arc::clone(&self.seen);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            loop {
                let event = match requests.message().await {
                    Ok(Some(SessionRequest { kind: Some(Kind::Register(workload)) })) => {
                        Event::Registered(workload)
                    }
                    Ok(Some(_)) => Event::Heartbeat,
                    Ok(None) => Event::HalfClosed,
                    Err(_broken) => return,
                };
                seen.send_modify(|seen| seen.registry.push(event.clone()));
                if event == Event::HalfClosed {
                    let mut seen = seen.subscribe();
                    // Ends the responses with the channel.
                    let _confirmed = seen.wait_for(|seen| seen.confirm).await.is_ok();
                    return;
                }
                let response = SessionResponse {
                    lease_ttl: prost_types::Duration::try_from(Duration::from_secs(30)).ok(),
                    heartbeat_interval: prost_types::Duration::try_from(Duration::from_millis(100)).ok(),
                    revision: 1,
                    services: vec!["demo/price".to_owned()],
                    missed: Vec::new(),
                };
                if responses.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Answers each report, until one is not to be.
fn acknowledge<Q: Send + 'static, A: Send + 'static>(
    request: Request<Streaming<Q>>,
    mut ack: impl FnMut(Q) -> Option<A> + Send + 'static,
) -> Response<Stream<A>> {
    let (acks, stream) = mpsc::channel(16);
    let mut reports = request.into_inner();
    tokio::spawn(async move {
        while let Ok(Some(report)) = reports.message().await {
            let Some(ack) = ack(report) else { return };
            if acks.send(Ok(ack)).await.is_err() {
                return;
            }
        }
    });
    Response::new(ReceiverStream::new(stream))
}

#[async_trait]
impl ProxyStatusService for Service {
    type ReportStream = Stream<AppliedAck>;

    async fn report(
        &self,
        request: Request<Streaming<AppliedReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let seen = Arc::clone(&self.seen);
        Ok(acknowledge(request, move |report: AppliedReport| {
            let ack = AppliedAck { generation: report.generation };
            seen.send_modify(|seen| seen.applied.push(report));
            Some(ack)
        }))
    }
}

#[async_trait]
impl TelemetryService for Service {
    type ReportStream = Stream<ReportResponse>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let seen = Arc::clone(&self.seen);
        Ok(acknowledge(request, move |report: ReportRequest| {
            let ack = ReportResponse {
                acknowledged: report.sequence,
                interval: prost_types::Duration::try_from(Duration::from_millis(100)).ok(),
            };
            seen.send_modify(|seen| seen.reports.push(report));
            seen.borrow().acknowledge.then_some(ack)
        }))
    }
}
