//! What proxies report of their requests and endpoints, and what operators see of it.

use outrigger_process::metrics;
use outrigger_proto::{
    policy::v1alpha1::{ListRequest, policy_service_client::PolicyServiceClient},
    status::v1alpha1::{HopsRequest, ListEndpointsRequest, ListEndpointsResponse},
    telemetry::v1alpha1::{
        Bucket, Class, Edge, EndpointState, Endpoints, Histogram, ReportRequest, ReportResponse,
        endpoint_state::{Ejected, Health, Healthy},
        telemetry_service_client::TelemetryServiceClient,
    },
};
use outrigger_tls::Identity;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    running::ControlPlane,
    support::{apply, proxy, soon, status},
};

/// A proxy's telemetry stream.
struct Reporter {
    reports: mpsc::Sender<ReportRequest>,
    answers: Streaming<ReportResponse>,
}

impl Reporter {
    async fn open(control: &ControlPlane, account: &str) -> Self {
        let channel = proxy(control, account).channel;
        let (reports, stream) = mpsc::channel(8);
        let answers = TelemetryServiceClient::new(channel).report(ReceiverStream::new(stream)).await;
        Self { reports, answers: answers.unwrap().into_inner() }
    }

    async fn send(&mut self, report: ReportRequest) -> Result<u64, Status> {
        self.reports.send(report).await.unwrap();
        soon(self.answers.message()).await.map(|answer| answer.unwrap().acknowledged)
    }
}

/// So many requests to `destination`, of 10 ms in the application each.
fn edge(destination: &str, requests: u64) -> Edge {
    let time = requests * 10_000;
    let mut phases_us = vec![0; 8];
    phases_us[7] = time;
    let bucket = Bucket {
        index: -53,
        count: requests,
        total_us: time,
        phases_us,
        app_split: requests,
        app_own_us: time / 5,
        app_waiting_us: time / 5 * 4,
    };
    Edge {
        destination: destination.to_owned(),
        port: 80,
        requests,
        total: Some(Histogram { buckets: vec![bucket] }),
        ..Edge::default()
    }
}

fn report(sequence: u64, edges: Vec<Edge>) -> ReportRequest {
    ReportRequest { sequence, run: 7, edges, ..ReportRequest::default() }
}

fn micros(time: Option<&prost_types::Duration>) -> i64 {
    time.map_or(-1, |time| time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_becomes_hops_and_a_cursor_tells_what_is_new() {
    let control = ControlPlane::start().await;
    let mut front = Reporter::open(&control, "front").await;
    // 99 requests of 10 ms in the application, and one of 1 s on the network.
    let mut edge = edge("demo/price", 99);
    let slow = Bucket {
        index: 0,
        count: 1,
        total_us: 1_000_000,
        phases_us: vec![0, 0, 0, 0, 0, 1_000_000],
        ..Bucket::default()
    };
    edge.total.as_mut().unwrap().buckets.push(slow);
    (edge.requests, edge.failures) = (100, 1);
    for _ in 0..2 {
        assert_eq!(front.send(report(1, vec![edge.clone()])).await.unwrap(), 1);
    }
    let mut client = status(&control);
    let hops = client.hops(HopsRequest::default()).await.unwrap().into_inner();
    let hop = &hops.hops[0];
    assert_eq!((hop.requests, hop.failures, hop.slowest_requests), (100, 1, 1), "the repeat counts once");
    assert_eq!(hop.source, "spiffe://outrigger.local/ns/demo/sa/front");
    assert_eq!(hop.class(), Class::Request, "what says no class is a request");
    let network = hop.slowest_phases.iter().find(|share| share.phase == "network").unwrap();
    assert_eq!(network.time.as_ref().unwrap().seconds, 1);
    let app = hop.mean_app.as_ref().unwrap();
    assert_eq!((app.requests, micros(app.own.as_ref()), micros(app.waiting.as_ref())), (99, 1_980, 7_920));
    assert_eq!(hop.slowest_app.as_ref().unwrap().requests, 0);
    let since = HopsRequest { since: hops.cursor, ..HopsRequest::default() };
    assert_eq!(client.hops(since).await.unwrap().into_inner().hops.len(), 0);
    let gone = HopsRequest { since: vec![1; 16], ..HopsRequest::default() };
    assert_eq!(client.hops(gone).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hops_of_a_service_are_the_chain_behind_it() {
    let control = ControlPlane::start().await;
    apply(
        &control,
        "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price-v1, namespace: demo}
spec: {ports: [{port: 80, protocol: HTTP}], serviceAccounts: [price]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec: {ports: [{port: 80, protocol: HTTP}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {name: canary, namespace: demo}
spec: {parentRefs: [{name: price}], rules: [{backendRefs: [{name: price-v1, port: 80}]}]}
",
    )
    .await;
    let routed = Edge { rule: "demo/canary#0".to_owned(), ..edge("demo/price-v1", 9) };
    let streams = Edge { class: Class::Stream.into(), ..edge("demo/stock", 2) };
    for (account, edges) in
        [("front", vec![routed, edge("demo/cart", 5)]), ("price", vec![edge("demo/stock", 7), streams])]
    {
        Reporter::open(&control, account).await.send(report(1, edges)).await.unwrap();
    }
    let mut client = status(&control);
    let mut of = async |service: &str| {
        let request = HopsRequest { service: service.to_owned(), ..HopsRequest::default() };
        let hops = client.hops(request).await?.into_inner().hops;
        let row = |hop: &outrigger_proto::status::v1alpha1::Hop| {
            (hop.depth, hop.destination.clone(), hop.class(), hop.requests)
        };
        Ok::<_, Status>(hops.iter().map(row).collect::<Vec<_>>())
    };
    let chain = [
        (0, "demo/price-v1".to_owned(), Class::Request, 9),
        (1, "demo/stock".to_owned(), Class::Request, 7),
        (1, "demo/stock".to_owned(), Class::Stream, 2),
    ];
    assert_eq!(of("demo/price").await.unwrap(), chain);
    assert_eq!(of("demo/price-v1").await.unwrap(), chain);
    assert_eq!(of("").await.unwrap().len(), 4);
    let unknown = of("demo/prise").await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "there is no service demo/prise"));
    assert_eq!(of("demo/cart").await.unwrap().len(), 1, "it is gone, its figures are not");
}

fn endpoint(address: &str, health: Health) -> EndpointState {
    EndpointState {
        service: "demo/price".to_owned(),
        port: 80,
        address: address.to_owned(),
        workload: "demo/price-1".to_owned(),
        in_flight: 3,
        health: Some(health),
        ..EndpointState::default()
    }
}

fn told(endpoints: Vec<EndpointState>) -> ReportRequest {
    ReportRequest {
        instance: "front-1".to_owned(),
        endpoints: Some(Endpoints { endpoints, omitted: 4 }),
        ..ReportRequest::default()
    }
}

async fn seen(control: &ControlPlane, service: &str) -> Result<ListEndpointsResponse, Status> {
    let request = ListEndpointsRequest { service: service.to_owned() };
    status(control).list_endpoints(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_shown_as_their_callers_see_them_while_these_are_there() {
    let control = ControlPlane::start().await;
    let mut front = Reporter::open(&control, "front").await;
    let until = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let ejected = Ejected { reason: "consecutive_failures".to_owned(), until, times: 2 };
    let two = vec![
        endpoint("10.0.0.2:80", Health::Ejected(ejected)),
        endpoint("10.0.0.1:80", Health::Healthy(Healthy {})),
    ];
    assert_eq!(front.send(told(two)).await.unwrap(), 0, "nothing was counted");
    let all = seen(&control, "demo/price").await.unwrap();
    let addresses: Vec<_> =
        all.endpoints.iter().map(|seen| seen.state.as_ref().unwrap().address.as_str()).collect();
    assert_eq!((addresses, all.omitted), (vec!["10.0.0.1:80", "10.0.0.2:80"], 4));
    assert_eq!(all.endpoints[0].node_id, "spiffe://outrigger.local/ns/demo/sa/front#front-1");
    let Some(Health::Ejected(ejected)) = &all.endpoints[1].state.as_ref().unwrap().health else {
        panic!("{all:?}");
    };
    assert_eq!((ejected.reason.as_str(), ejected.times), ("consecutive_failures", 2));

    front.send(told(vec![endpoint("10.0.0.3:80", Health::Healthy(Healthy {}))])).await.unwrap();
    assert_eq!(seen(&control, "demo/price").await.unwrap().endpoints.len(), 1, "it replaces");
    // Figures of edges alone leave the endpoints as they are.
    front.send(report(1, vec![edge("demo/price", 1)])).await.unwrap();
    assert_eq!(seen(&control, "demo/price").await.unwrap().endpoints.len(), 1);

    drop(front);
    let unknown = soon(async {
        loop {
            if let Err(status) = seen(&control, "demo/price").await {
                break status;
            }
        }
    })
    .await;
    assert_eq!(unknown.code(), Code::NotFound, "nobody sees it, and there is no such service");
    let service = "{apiVersion: outrigger.dev/v1alpha1, kind: Service, metadata: {name: price, namespace: \
                   demo}, spec: {ports: [{port: 80, protocol: HTTP}]}}";
    apply(&control, service).await;
    soon(async { while seen(&control, "demo/price").await.is_err() {} }).await;
    assert!(seen(&control, "demo/price").await.unwrap().endpoints.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_not_valid_ends_its_stream_and_says_why() {
    let control = ControlPlane::start().await;
    let healthy = || Health::Healthy(Healthy {});
    let many = vec![endpoint("10.0.0.1:80", healthy()); 1_001];
    let nameless = ReportRequest { instance: "front/1".to_owned(), ..told(Vec::new()) };
    let unknown = Edge { class: 99, ..edge("demo/price", 1) };
    for (wrong, message) in [
        (told(vec![endpoint("10.0.0.1", healthy())]), "endpoints.endpoints[0].address"),
        (told(many), "endpoints: more than 1000"),
        (nameless, "instance: "),
        (report(1, vec![unknown]), "edges[0].class"),
    ] {
        let refused = Reporter::open(&control, "front").await.send(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(message), "{refused:?}");
    }
}

/// The page is written from a control plane that refused a call and a connection, since a family without a sample is not
/// exposed.
#[tokio::test(flavor = "multi_thread")]
async fn the_reference_of_metrics_is_what_the_control_plane_exposes() {
    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let (control, other) = (ControlPlane::start().await, ControlPlane::start().await);
    let bundle = (*control.state.upkeep.identity().bundle().unwrap()).clone();
    let stranger = Identity::new((*other.kept("admin").svid().unwrap()).clone(), bundle);
    for identity in [None, Some(&stranger)] {
        let mut client = PolicyServiceClient::new(control.policy_port(identity));
        client.list(ListRequest::default()).await.unwrap_err();
    }
    let table = metrics::reference(&control.metrics().await);
    let page = std::fs::read_to_string(REFERENCE).unwrap_or_default();
    assert!(
        metrics::section(&page, "Control plane") == Some(&table),
        "the section 'Control plane' of docs/reference/metrics.md is not what is exposed; write this to it:\n{table}"
    );
}
