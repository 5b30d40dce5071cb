//! Names on demand, warming, refusals, reconnects.

use std::{sync::Arc, time::Duration};

use outrigger_core::model::{self, AppProtocol, ServiceName, ServicePort};
use outrigger_proto::{
    mesh::v1alpha1::{self as mesh, RejectedResources},
    type_url,
};
use outrigger_proxy::{
    discovery::{Demand, Discovery, Link, Status},
    endpoint::States,
    outbound::{Discover, DiscoverError},
    snapshot,
};
use outrigger_tls::grpc::{ServerTrust, channel_lazy};
use prost::Message;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fake::{Fake, PATIENCE, config};

const LIMIT: Duration = Duration::from_secs(10);

struct Running {
    demand: Demand,
    snapshot: snapshot::Handle,
    status: watch::Receiver<Status>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Running {
    fn start(fake: &Fake) -> Self {
        let identity = fake.authority.identity(fake.authority.workload("demo", "price"));
        let trust = ServerTrust::Bundle(identity.clone());
        let channel = channel_lazy(&fake.address.to_string(), trust, Some(&identity)).unwrap();
        let handle = snapshot::Handle::default();
        let discovery = Discovery::new(handle.clone(), States::default());
        let (demand, status) = (discovery.demand(), discovery.status());
        let stop = CancellationToken::new();
        let link = Link { channel, identity, instance: "price-1".parse().unwrap() };
        let task = tokio::spawn(discovery.run(link, stop.clone()));
        Self { demand, snapshot: handle, status, stop: stop.drop_guard(), task }
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Status) -> bool) -> Status {
        let waited = timeout(PATIENCE, self.status.wait_for(condition)).await;
        waited.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
    }

    async fn resolve(&self, name: &str) -> Result<Arc<snapshot::Snapshot>, DiscoverError> {
        self.demand.resolve(&service_name(name), LIMIT).await
    }
}

pub(super) fn service_name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

pub(super) fn service(name: &str) -> mesh::Service {
    mesh::Service::from(&model::Service {
        name: service_name(name),
        ports: vec![ServicePort {
            port: 80,
            protocol: AppProtocol::Http1,
            name: None,
            endpoint_set: Arc::from(format!("{name}:80")),
            rules: Vec::new(),
        }],
        warm_timeout: Duration::from_secs(60),
    })
}

pub(super) fn endpoint_set(name: &str) -> mesh::EndpointSet {
    mesh::EndpointSet::from(&model::EndpointSet {
        service: service_name(name),
        port: 80,
        endpoints: vec![model::Endpoint {
            address: "127.0.0.1:9".parse().unwrap(),
            identity: "spiffe://outrigger.local/ns/demo/sa/price".parse().unwrap(),
            weight: 1,
            health: model::Health::Healthy,
            workload: Arc::from("demo/price-1"),
        }],
        panic: false,
        resilience: model::Resilience::default(),
    })
}

pub(super) fn put(fake: &Fake, name: &str) {
    fake.change(|seen| {
        seen.put(type_url::SERVICE, name, &service(name));
        seen.put(type_url::ENDPOINT_SET, &format!("{name}:80"), &endpoint_set(name));
    });
}

#[tokio::test]
async fn a_name_is_fetched_when_it_is_asked_for_and_comes_with_its_endpoints() {
    let fake = Fake::start();
    put(&fake, "demo/front");
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    assert!(running.snapshot.load().services.is_empty());
    let snapshot = running.resolve("demo/front").await.unwrap();
    let entry = &snapshot.services[&service_name("demo/front")];
    assert!(entry.is_complete());
    assert_eq!(entry.endpoint_sets["demo/front:80"].states.len(), 1);
    // Many ask, all are answered.
    put(&fake, "demo/other");
    let (name, demand) = (service_name("demo/other"), &running.demand);
    let (one, two) = tokio::join!(demand.resolve(&name, LIMIT), demand.resolve(&name, LIMIT));
    assert!(one.is_ok() && two.is_ok());
}

#[tokio::test]
async fn an_unknown_name_is_answered_and_found_once_it_exists() {
    let fake = Fake::start();
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    assert_eq!(running.resolve("demo/front").await.unwrap_err(), DiscoverError::NotFound);
    let before = running.status.borrow().generation;
    put(&fake, "demo/front");
    running.until("a new snapshot", |status| status.generation > before && status.pending.is_empty()).await;
    assert!(running.resolve("demo/front").await.is_ok());
}

#[tokio::test]
async fn a_service_waits_for_its_endpoint_sets_and_says_so() {
    let fake = Fake::start();
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    put(&fake, "demo/front");
    running.resolve("demo/front").await.unwrap();
    // A version whose endpoints this stream has never heard of, held back by the control plane.
    let mut next = service("demo/front");
    next.ports[0].endpoint_set = "demo/front:81".to_owned();
    let broken = mesh::EndpointSet { identities: vec!["nobody".to_owned()], ..endpoint_set("demo/front") };
    fake.change(|seen| {
        seen.put(type_url::ENDPOINT_SET, "demo/front:81", &broken);
        seen.put(type_url::SERVICE, "demo/front", &next);
    });
    let status = running.until("pending", |status| !status.pending.is_empty()).await;
    assert_eq!(status.pending[0].name, "demo/front");
    assert_eq!(status.pending[0].cause, "waiting for EndpointSet demo/front:81");
    let visible = |running: &Running| {
        let snapshot = running.snapshot.load();
        snapshot.services[&service_name("demo/front")].service.ports[0].endpoint_set.to_string()
    };
    assert_eq!(visible(&running), "demo/front:80");
    fake.change(|seen| seen.put(type_url::ENDPOINT_SET, "demo/front:81", &endpoint_set("demo/front")));
    let status = running.until("applied", |status| status.pending.is_empty()).await;
    assert_eq!(visible(&running), "demo/front:81");
    assert!(status.applied.contains_key(type_url::SERVICE));
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_its_field_and_the_last_good_one_stays() {
    let fake = Fake::start();
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    let other = fake.authority.workload_id("demo", "somebody-else");
    fake.change(|seen| seen.put(type_url::PROXY_CONFIG, "self", &config(&other)));
    fake.until("a refusal", |seen| !seen.refusals(type_url::PROXY_CONFIG).is_empty()).await;
    let detail = fake.look(|seen| seen.refusals(type_url::PROXY_CONFIG)[0].error_detail.clone().unwrap());
    let rejected = RejectedResources::decode(detail.details[0].value.as_slice()).unwrap().rejected;
    assert_eq!((rejected[0].name.as_str(), rejected[0].field.as_str()), ("self", "workload_id"));
    running.until("counted", |status| status.refused == 1).await;
    let own = fake.authority.workload_id("demo", "price");
    assert_eq!(running.snapshot.load().config.as_ref().unwrap().workload_id, own);
}

#[tokio::test]
async fn a_resource_that_requires_more_than_this_version_has_is_refused_as_unsupported() {
    let fake = Fake::start();
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    let newer = mesh::Service { requires: vec!["teleport".to_owned()], ..service("demo/front") };
    fake.change(|seen| seen.put(type_url::SERVICE, "demo/front", &newer));
    let name = service_name("demo/front");
    let unanswered = running.demand.resolve(&name, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(unanswered, DiscoverError::Timeout);
    fake.until("a refusal", |seen| !seen.refusals(type_url::SERVICE).is_empty()).await;
    let detail = fake.look(|seen| seen.refusals(type_url::SERVICE)[0].error_detail.clone().unwrap());
    let rejected = RejectedResources::decode(detail.details[0].value.as_slice()).unwrap().rejected;
    assert!(rejected[0].unsupported, "{rejected:?}");
}

#[tokio::test]
async fn without_a_stream_nobody_waits_and_what_is_known_stays() {
    let mut fake = Fake::start();
    put(&fake, "demo/front");
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    running.resolve("demo/front").await.unwrap();
    assert_eq!(running.resolve("demo/absent").await.unwrap_err(), DiscoverError::NotFound);
    fake.kill();
    running.until("disconnected", |status| !status.connected).await;
    assert!(running.resolve("demo/front").await.is_ok());
    assert_eq!(running.resolve("demo/absent").await.unwrap_err(), DiscoverError::NotFound);
    assert_eq!(running.resolve("demo/new").await.unwrap_err(), DiscoverError::Disconnected);
    // What was asked for meanwhile is fetched with the next stream.
    put(&fake, "demo/new");
    fake.resume();
    running.until("connected", |status| status.connected).await;
    assert!(running.resolve("demo/new").await.is_ok());
}

#[tokio::test]
async fn a_good_bye_that_nobody_answers_holds_up_no_stop() {
    let fake = Fake::start();
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    fake.change(|seen| seen.confirm = false);
    drop(running.stop);
    fake.until("a good-bye", |seen| seen.good_byes == 1).await;
    timeout(PATIENCE, running.task).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn a_reconnect_resends_nothing_that_is_held() {
    let mut fake = Fake::start();
    put(&fake, "demo/front");
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    running.resolve("demo/front").await.unwrap();
    let before = running.status.borrow().clone();
    fake.kill();
    running.until("disconnected", |status| !status.connected).await;
    fake.change(|seen| {
        seen.requests.clear();
        seen.resent = 0;
    });
    fake.resume();
    let after = running.until("applied again", |status| status.applied.len() == 4).await;
    assert_eq!(fake.look(|seen| seen.resent), 0);
    assert_eq!(after.generation, before.generation, "nothing new, no new snapshot");
    assert_ne!(after.stream, before.stream);
    let claimed = fake.look(|seen| {
        let of_services = seen.requests.iter().find(|request| request.type_url == type_url::SERVICE);
        of_services.unwrap().initial_resource_versions.clone()
    });
    assert_eq!(claimed.keys().collect::<Vec<_>>(), ["demo/front"]);
}

#[tokio::test]
async fn a_name_that_nobody_uses_is_given_up() {
    let fake = Fake::start();
    let own = fake.authority.workload_id("demo", "price");
    let idle = mesh::ProxyConfig {
        on_demand_idle: prost_types::Duration::try_from(Duration::from_secs(1)).ok(),
        ..config(&own)
    };
    fake.change(|seen| seen.put(type_url::PROXY_CONFIG, "self", &idle));
    put(&fake, "demo/front");
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    running.resolve("demo/front").await.unwrap();
    fake.until("an unsubscription", |seen| {
        let gone = |request: &outrigger_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest| {
            request.resource_names_unsubscribe.contains(&"demo/front".to_owned())
        };
        seen.requests.iter().any(gone)
    })
    .await;
    assert!(!running.snapshot.load().services.contains_key(&service_name("demo/front")));
    assert!(running.resolve("demo/front").await.is_ok(), "and fetched again when it is wanted again");
}

#[tokio::test]
async fn a_removed_service_goes_and_its_bundle_stays() {
    let fake = Fake::start();
    put(&fake, "demo/front");
    let mut running = Running::start(&fake);
    running.until("configured", |status| status.configured).await;
    running.resolve("demo/front").await.unwrap();
    let before = running.status.borrow().generation;
    fake.change(|seen| {
        seen.remove(type_url::SERVICE, "demo/front");
        seen.remove(type_url::TRUST_BUNDLE, "outrigger.local");
    });
    running.until("a new snapshot", |status| status.generation > before).await;
    assert!(running.snapshot.load().services.is_empty());
    assert!(running.status.borrow().configured);
}
