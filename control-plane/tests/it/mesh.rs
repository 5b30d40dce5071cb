//! Registry, discovery and status, as proxies and operators meet them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_control_plane::{
    clock::Clock,
    discovery::service::{Ends, Limits, Service},
    mesh::Metrics,
};

use outrigger_proto::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    },
    mesh::v1alpha1 as mesh,
    registry::v1alpha1::{
        SessionRequest, registry_service_client::RegistryServiceClient, session_request,
        session_response::Reason,
    },
    status::v1alpha1::{
        Convergence, ListProxiesRequest, ListWorkloadsRequest, WaitConvergedRequest, WorkloadState,
    },
    type_url::{ENDPOINT_SET, PROXY_CONFIG, SERVICE, TRUST_BUNDLE},
};
use outrigger_tls::grpc::Peer;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request,
    transport::{Endpoint, Server},
};

use crate::{
    running::ControlPlane,
    support::{Client, applied, apply, decode, labelled, proxy, soon, status, workload},
};

const PRICE: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec: {ports: [{port: 80, protocol: HTTP, targetPort: 8080}]}
";
const CANARY: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {name: canary, namespace: demo}
spec:
  parentRefs: [{name: price}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v2}}]
    backendRefs: [{name: price, port: 80}]
";

pub(crate) async fn converged(control: &ControlPlane, revision: u64, milliseconds: i64) -> Convergence {
    let timeout = prost_types::Duration {
        seconds: milliseconds / 1_000,
        nanos: i32::try_from(milliseconds % 1_000).unwrap() * 1_000_000,
    };
    let request = WaitConvergedRequest { revision, timeout: Some(timeout) };
    let mut news = status(control).wait_converged(request).await.unwrap().into_inner();
    loop {
        let state = soon(news.message()).await.unwrap().unwrap();
        if state.done {
            return state;
        }
    }
}

async fn workloads(control: &ControlPlane) -> Vec<WorkloadState> {
    let request = ListWorkloadsRequest::default();
    status(control).list_workloads(request).await.unwrap().into_inner().workloads
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_discovered_on_demand_and_its_changes_are_pushed() {
    let control = ControlPlane::start().await;
    apply(&control, PRICE).await;
    let price = proxy(&control, "price");
    let _session = price.register(workload("price-1", [10, 0, 0, 1])).await;

    let mut front = proxy(&control, "front").discover("front-1").await;
    front.subscribe(TRUST_BUNDLE, &["*"]).await;
    let bundle: mesh::TrustBundle = decode(&front.accept().await);
    assert_eq!(bundle.trust_domain, "outrigger.local");
    front.subscribe(PROXY_CONFIG, &["self"]).await;
    let config: mesh::ProxyConfig = decode(&front.accept().await);
    assert_eq!(config.workload_id, "spiffe://outrigger.local/ns/demo/sa/front");
    front.subscribe(SERVICE, &["demo/price"]).await;
    let service: mesh::Service = decode(&front.accept().await);
    assert_eq!(service.ports[0].endpoint_set, "demo/price:80");
    front.subscribe(ENDPOINT_SET, &["demo/price:80"]).await;
    let response = front.accept_addresses(&[[10, 0, 0, 1]]).await;
    let set: mesh::EndpointSet = decode(&response);
    assert_eq!(set.identities, ["spiffe://outrigger.local/ns/demo/sa/price"]);

    let revision = apply(&control, CANARY).await;
    let pushed = front.accept().await;
    assert_eq!(pushed.system_version_info, revision.to_string());
    let service: mesh::Service = decode(&pushed);
    assert_eq!(service.ports[0].rules[0].name, "demo/canary#0");

    let second = proxy(&control, "price");
    let _session = second.register(workload("price-2", [10, 0, 0, 2])).await;
    front.accept_addresses(&[[10, 0, 0, 1], [10, 0, 0, 2]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_close_withdraws_and_a_broken_stream_does_not() {
    let control = ControlPlane::start().await;
    apply(&control, PRICE).await;
    let mut front = proxy(&control, "front").discover("front-1").await;
    front.subscribe(ENDPOINT_SET, &["demo/price:80"]).await;
    front.accept_addresses(&[]).await;

    // A call that the client gives up, and a connection that is gone.
    let price = proxy(&control, "price");
    let given_up = price.register(workload("price-1", [10, 0, 0, 1])).await;
    front.accept_addresses(&[[10, 0, 0, 1]]).await;
    let lost = proxy(&control, "price");
    let lost_session = lost.register(workload("price-2", [10, 0, 0, 2])).await;
    front.accept_addresses(&[[10, 0, 0, 1], [10, 0, 0, 2]]).await;
    drop(given_up);
    drop((lost, lost_session));
    soon(async { while workloads(&control).await.iter().any(|workload| workload.connected) {} }).await;
    let kept = workloads(&control).await;
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|workload| workload.services == ["demo/price"]));

    // Back, and good-bye. The stream ends when the one client has heard of it.
    let mut session = price.register(workload("price-1", [10, 0, 0, 1])).await;
    drop(session.requests);
    let last = soon(session.responses.message()).await.unwrap().unwrap();
    let pushed = front.accept_addresses(&[[10, 0, 0, 2]]).await;
    assert_eq!(pushed.system_version_info, last.revision.to_string());
    let reports = proxy(&control, "front").reports().await;
    reports.send(applied(&[&pushed])).await.unwrap();
    assert!(soon(session.responses.message()).await.unwrap().is_none());
    assert_eq!(workloads(&control).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn theft_of_a_name_an_id_an_epoch_or_an_address_is_refused() {
    let control = ControlPlane::start().await;
    let price = proxy(&control, "price");
    let _session = price.register(workload("price-1", [10, 0, 0, 1])).await;
    let thief = proxy(&control, "till");

    let mut foreign = workload("till-1", [10, 0, 0, 9]);
    foreign.namespace = "shop".to_owned();
    assert_eq!(thief.refused(foreign).await.code(), Code::PermissionDenied);
    let mut foreign = workload("till-1", [10, 0, 0, 9]);
    foreign.service_account = "price".to_owned();
    assert_eq!(thief.refused(foreign).await.code(), Code::PermissionDenied);
    let mut id = workload("price-1", [10, 0, 0, 9]);
    id.epoch = 9;
    assert_eq!(thief.refused(id).await.code(), Code::PermissionDenied);
    assert_eq!(thief.refused(workload("till-1", [10, 0, 0, 1])).await.code(), Code::PermissionDenied);
    assert_eq!(thief.refused(workload("till-1", [127, 0, 0, 1])).await.code(), Code::InvalidArgument);
    let mut old = workload("price-1", [10, 0, 0, 1]);
    old.epoch = 0;
    assert_eq!(price.refused(old).await.code(), Code::FailedPrecondition);
    let mut twice = workload("price-2", [10, 0, 0, 1]);
    twice.epoch = 2;
    assert_eq!(price.refused(twice).await.code(), Code::AlreadyExists);
    assert_eq!(workloads(&control).await.len(), 1);

    let records = control.state.store.audit(1, 100).await.unwrap();
    let denied: Vec<&str> = records
        .iter()
        .filter(|record| record.denied && record.method == "registry.Session")
        .map(|record| record.message.split_once(':').unwrap().0)
        .collect();
    assert_eq!(
        denied,
        [
            "foreign_identity",
            "foreign_identity",
            "id_owned",
            "address_owned",
            "invalid_registration",
            "stale_epoch",
            "address_in_use"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_epoch_ends_the_older_session() {
    let control = ControlPlane::start().await;
    let price = proxy(&control, "price");
    let mut old = price.register(workload("price-1", [10, 0, 0, 1])).await;
    let mut newer = workload("price-1", [10, 0, 0, 1]);
    newer.epoch = 2;
    let mut new = price.register(newer).await;
    assert_eq!(soon(old.responses.message()).await.unwrap_err().code(), Code::Aborted);
    let heartbeat = session_request::Kind::Heartbeat(session_request::Heartbeat {});
    new.requests.send(SessionRequest { kind: Some(heartbeat) }).await.unwrap();
    assert!(soon(new.responses.message()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_come_from_the_token_and_never_from_the_claim() {
    let control = ControlPlane::start().await;
    apply(&control, &PRICE.replace("spec: {", "spec: {selector: {version: v2}, ")).await;
    // Two of one identity.
    for (id, version, port, services) in
        [("price-1", "v1", 1, vec![]), ("price-2", "v2", 2, vec!["demo/price".to_owned()])]
    {
        let price = labelled(&control, "price", &[("version", version)]);
        let mut claim = workload(id, [10, 0, 0, 1]);
        claim.ports[0].port = port;
        let mut session = price.session(claim).await;
        let answer = soon(session.responses.message()).await.unwrap().unwrap();
        assert_eq!(answer.services, services);
        let missed: Vec<_> = answer.missed.iter().map(|missed| (&*missed.service, missed.reason())).collect();
        match version {
            "v1" => assert_eq!(missed, [("demo/price", Reason::Labels)]),
            _ => assert!(missed.is_empty()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_granted_and_has_none_of_the_ports_is_told_so() {
    let control = ControlPlane::start().await;
    let by_name = PRICE.replace("targetPort: 8080", "name: http");
    apply(&control, &by_name).await;
    let mut session = proxy(&control, "price").session(workload("price-1", [10, 0, 0, 1])).await;
    let answer = soon(session.responses.message()).await.unwrap().unwrap();
    let missed: Vec<_> = answer.missed.iter().map(|missed| (&*missed.service, missed.reason())).collect();
    assert_eq!((answer.services.len(), missed), (0, vec![("demo/price", Reason::Ports)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_applied_has_converged() {
    let control = ControlPlane::start().await;
    apply(&control, PRICE).await;
    let client = proxy(&control, "front");
    // The node says that it is somebody else: only its instance counts.
    let mut front = client.discover("spiffe://outrigger.local/ns/demo/sa/till#front-1").await;
    front.subscribe(SERVICE, &["demo/price"]).await;
    let first = front.accept().await;
    let reports = client.reports().await;
    reports.send(applied(&[&first])).await.unwrap();
    let revision = apply(&control, CANARY).await;
    let second = front.accept().await;

    let waiting = converged(&control, revision, 300).await;
    assert!(!waiting.converged, "accepted is not applied");
    assert_eq!((waiting.targeted, waiting.current), (1, 0));
    assert_eq!(waiting.behind[0].node_id, "spiffe://outrigger.local/ns/demo/sa/front#front-1");
    assert!(waiting.behind[0].applied_revision < revision);

    reports.send(applied(&[&second])).await.unwrap();
    let done = converged(&control, revision, 10_000).await;
    assert!(done.converged);
    assert_eq!((done.targeted, done.current, done.revision), (1, 1, revision));

    // Somebody else cannot report for it.
    let third = apply(&control, &CANARY.replace("/v2", "/v3")).await;
    let pushed = front.accept().await;
    let thief = proxy(&control, "till").reports().await;
    thief.send(applied(&[&pushed])).await.unwrap();
    assert!(!converged(&control, third, 300).await.converged);

    // A good-bye is no disconnection; a broken stream is, and is named.
    front.good_bye().await;
    assert!(converged(&control, third, 10_000).await.converged);
    let mut front = client.discover("front-1").await;
    front.subscribe(SERVICE, &["demo/price"]).await;
    front.accept().await;
    drop(front);
    soon(async {
        loop {
            let proxies = status(&control).list_proxies(ListProxiesRequest {}).await.unwrap();
            let proxies = proxies.into_inner().proxies;
            if proxies.iter().any(|proxy| !proxy.connected) {
                return;
            }
        }
    })
    .await;
    let broken = converged(&control, third, 300).await;
    assert!(!broken.converged);
    assert!(!broken.behind[0].connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_proxies_with_one_id_the_one_that_stays_is_connected() {
    let control = ControlPlane::start().await;
    apply(&control, PRICE).await;
    let client = proxy(&control, "front");
    let mut older = client.discover("front-1").await;
    older.subscribe(SERVICE, &["demo/price"]).await;
    older.accept().await;
    let mut newer = proxy(&control, "front").discover("front-1").await;
    newer.subscribe(SERVICE, &["demo/price"]).await;
    newer.accept().await;
    newer.good_bye().await;

    let revision = apply(&control, CANARY).await;
    let pushed = older.accept().await;
    let reports = client.reports().await;
    reports.send(applied(&[&pushed])).await.unwrap();
    let done = converged(&control, revision, 10_000).await;
    assert!(done.converged, "{done:?}");
    assert_eq!((done.targeted, done.current), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_concerns_nobody_converges_and_one_that_is_not_there_is_refused() {
    let control = ControlPlane::start().await;
    let revision = apply(&control, PRICE).await;
    assert!(converged(&control, revision, 10_000).await.converged);
    assert!(converged(&control, 0, 10_000).await.converged);
    let request = WaitConvergedRequest { revision: revision + 100, timeout: None };
    let refused = status(&control).wait_converged(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_workload_without_a_stream_is_named() {
    let control = ControlPlane::start().await;
    let price = proxy(&control, "price");
    let _session = price.register(workload("price-1", [10, 0, 0, 1])).await;
    let state = converged(&control, 0, 1_000).await;
    assert_eq!(state.behind[0].node_id, "spiffe://outrigger.local/ns/demo/sa/price#price-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_traced_to_its_policies() {
    let control = ControlPlane::start().await;
    apply(&control, PRICE).await;
    let client = proxy(&control, "front");
    let mut front = client.discover("front-1").await;
    front.subscribe(SERVICE, &["demo/price"]).await;
    let first = front.accept().await;
    client.reports().await.send(applied(&[&first])).await.unwrap();
    let revision = apply(&control, CANARY).await;
    let pushed = front.next().await;
    front.reject(&pushed, "ports[0].rules[0].match.path").await;

    let state = converged(&control, revision, 10_000).await;
    assert!(!state.converged, "ends at once, without waiting for the timeout");
    let rejection = &state.behind[0].rejections[0];
    assert_eq!(rejection.revision, revision);
    assert_eq!(rejection.node_id, state.behind[0].node_id);
    let detail = rejection.detail.as_ref().unwrap();
    assert_eq!((detail.name.as_str(), detail.field.as_str()), ("demo/price", "ports[0].rules[0].match.path"));
    let causes: Vec<&str> = rejection.causes.iter().map(|cause| cause.name.as_str()).collect();
    assert_eq!(causes, ["price", "canary"]);

    // The next version mends it.
    let mended = apply(&control, &CANARY.replace("/v2", "/v3")).await;
    let pushed = front.accept().await;
    client.reports().await.send(applied(&[&pushed])).await.unwrap();
    assert!(converged(&control, mended, 10_000).await.converged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_resends_nothing_and_keeps_who_is_registered() {
    let control = ControlPlane::start().await;
    apply(&control, PRICE).await;
    let price = proxy(&control, "price");
    let mut session = price.register(workload("price-1", [10, 0, 0, 1])).await;
    let mut front = proxy(&control, "front").discover("front-1").await;
    front.subscribe(ENDPOINT_SET, &["demo/price:80"]).await;
    let held = front.accept_addresses(&[[10, 0, 0, 1]]).await;
    let control = control.restart(async |_store| {}).await;
    assert_eq!(soon(session.responses.message()).await.unwrap_err().code(), Code::Unavailable);

    let mut front = proxy(&control, "front").discover("front-1").await;
    let version = held.resources[0].version.clone();
    front
        .send(DeltaDiscoveryRequest {
            type_url: ENDPOINT_SET.to_owned(),
            resource_names_subscribe: vec!["demo/price:80".to_owned()],
            initial_resource_versions: BTreeMap::from([("demo/price:80".to_owned(), version)]),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    let answer = front.accept().await;
    assert_eq!((answer.resources.len(), answer.removed_resources.len()), (0, 0));
    let state = &workloads(&control).await[0];
    assert_eq!((state.name.as_str(), state.connected), ("demo/price-1", false));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_forbidden_names_are_told_apart() {
    let control = ControlPlane::start().await;
    let mut front = proxy(&control, "front").discover("front-1").await;
    let codes = |response: &outrigger_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse| {
        let errors = response.resource_errors.iter();
        errors.map(|error| error.error_detail.as_ref().unwrap().code).collect::<Vec<_>>()
    };
    front.subscribe(SERVICE, &["demo/price"]).await;
    assert_eq!(codes(&front.accept().await), [5]);
    front.subscribe(SERVICE, &["*"]).await;
    assert_eq!(codes(&front.accept().await), [7], "nobody gets the whole mesh by a typo");
    // It is remembered, and comes to be.
    apply(&control, PRICE).await;
    assert_eq!(front.accept().await.resources[0].name, "demo/price");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_an_instance_is_refused() {
    let control = ControlPlane::start().await;
    let client = proxy(&control, "front");
    for id in ["", "Front", "a b"] {
        let mut front = client.discover(id).await;
        front.subscribe(SERVICE, &["demo/price"]).await;
        let status = soon(front.message()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_neither_reads_nor_answers_stops_nobody_else() {
    let control = ControlPlane::start().await;
    apply(&control, PRICE).await;
    let client = proxy(&control, "front");
    let mut silent = Vec::new();
    for index in 0..20 {
        let mut stream = client.discover(&format!("silent-{index}")).await;
        stream.subscribe(SERVICE, &["demo/price"]).await;
        silent.push(stream);
    }
    let mut front = proxy(&control, "front").discover("front-1").await;
    front.subscribe(SERVICE, &["demo/price"]).await;
    front.accept().await;
    for round in 0..5 {
        let revision = apply(&control, &CANARY.replace("/v2", &format!("/v{round}"))).await;
        assert_eq!(front.accept().await.system_version_info, revision.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_does_not_answer_is_ended_and_counted() {
    let control = ControlPlane::start().await;
    apply(&control, PRICE).await;
    let metrics = Metrics::default();
    let limits = Limits { patience: Duration::from_millis(200), ..Limits::default() };
    let service = Service::new(
        control.state.mesh.worlds(),
        Arc::default(),
        metrics.clone(),
        Clock::system(),
        limits,
        Ends { settled: tokio::sync::watch::channel(true).1, stop: CancellationToken::new() },
    );
    // Without TLS and the door: who calls is said by the test.
    let id = "spiffe://outrigger.local/ns/demo/sa/front".parse().unwrap();
    let peer = Peer { address: "127.0.0.1:1".parse().unwrap(), id: Some(id), certificate: None };
    let service =
        AggregatedDiscoveryServiceServer::with_interceptor(service, move |mut request: Request<()>| {
            request.extensions_mut().insert(peer.clone());
            Ok(request)
        });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();

    let mut front = Client { channel }.discover("front-1").await;
    front.subscribe(SERVICE, &["demo/price"]).await;
    front.next().await;
    assert_eq!(soon(front.message()).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(metrics.slow_streams.get(), 1);
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_says_nothing_holds_up_no_stop() {
    let control = ControlPlane::start().await;
    let client = proxy(&control, "price");
    let _discovery = client.discover("price-1").await;
    let (_requests, stream) = mpsc::channel(1);
    let mut registry = RegistryServiceClient::new(client.channel.clone());
    let _session = registry.session(ReceiverStream::new(stream)).await.unwrap();
    // Ends cleanly, or the test.
    control.restart(async |_| ()).await;
}
