//! Restarts without a control plane, and what happens when it is back.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_process::{exit::Exit, health::Readiness};
use outrigger_proto::{mesh::v1alpha1 as mesh, type_url};
use outrigger_proxy::{
    discovery::{
        Demand, Discovery, Link, Status,
        last_known_good::{Keeper, Origin, Refused, Store},
    },
    endpoint::States,
    outbound::{Discover, DiscoverError},
    report,
    snapshot::{self, Snapshot},
};
use outrigger_tls::grpc::{ServerTrust, channel_lazy};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    discovery::{endpoint_set, put, service_name},
    fake::{Fake, PATIENCE, config},
    lifecycle::{Proxy, get, settings},
};

const LIMIT: Duration = Duration::from_secs(10);

/// Discovery, with a state directory.
struct Running {
    demand: Demand,
    snapshot: snapshot::Handle,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

impl Running {
    /// Begins with what the directory holds, which must be usable.
    fn start(fake: &Fake, dir: &Path) -> Self {
        let identity = fake.authority.identity(fake.authority.workload("demo", "price"));
        let trust = ServerTrust::Bundle(identity.clone());
        let channel = channel_lazy(&fake.address.to_string(), trust, Some(&identity)).unwrap();
        let handle = snapshot::Handle::default();
        let mut discovery = Discovery::new(handle.clone(), States::default());
        let (demand, status) = (discovery.demand(), discovery.status());
        let store = Store::new(dir);
        let kept = store.recall(&identity.id().unwrap(), SystemTime::now()).unwrap();
        if let Some(kept) = kept {
            discovery.restore(kept);
        }
        let (identity_too, contents) = (identity.clone(), discovery.contents());
        let keeper = Keeper { store, identity: identity_too, contents, status: status.clone() };
        let stop = CancellationToken::new();
        let link = Link { channel, identity, instance: "price-1".parse().unwrap() };
        let tasks = [tokio::spawn(keeper.run(stop.clone())), tokio::spawn(discovery.run(link, stop.clone()))];
        Self { demand, snapshot: handle, status, stop, tasks }
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Status) -> bool) -> Status {
        let waited = timeout(PATIENCE, self.status.wait_for(condition)).await;
        waited.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
    }

    async fn resolve(&self, name: &str) -> Result<Arc<Snapshot>, DiscoverError> {
        self.demand.resolve(&service_name(name), LIMIT).await
    }

    /// What was unwritten is written then.
    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            timeout(PATIENCE, task).await.unwrap().unwrap();
        }
    }

    fn endpoints(&self, name: &str) -> usize {
        endpoints(&self.snapshot.load(), name)
    }
}

fn endpoints(snapshot: &Snapshot, name: &str) -> usize {
    let sets = &snapshot.services[&service_name(name)].endpoint_sets;
    sets.get(&*format!("{name}:80")).map_or(0, |set| set.states.len())
}

/// Runs discovery until it knows `names` and that there is no `demo/nobody`, stops it, and kills the control plane.
async fn run_before(fake: &mut Fake, dir: &Path, names: &[&str]) {
    for name in names {
        put(fake, name);
    }
    let mut running = Running::start(fake, dir);
    running.until("configured", |status| status.configured).await;
    for name in names {
        running.resolve(name).await.unwrap();
    }
    assert_eq!(running.resolve("demo/nobody").await.unwrap_err(), DiscoverError::NotFound);
    running.stop().await;
    fake.kill();
    fake.change(|seen| {
        seen.requests.clear();
        seen.resent = 0;
    });
}

#[tokio::test]
async fn a_restart_without_a_control_plane_has_everything_at_once_and_nobody_waits() {
    let mut fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    run_before(&mut fake, dir.path(), &["demo/front", "demo/other"]).await;
    let mut running = Running::start(&fake, dir.path());
    let status = running.until("configured", |status| status.configured).await;
    assert!(!status.connected);
    assert_eq!(status.last_known_good.unwrap().revision, fake.look(|seen| seen.revision));
    for name in ["demo/front", "demo/other"] {
        running.resolve(name).await.unwrap();
        assert_eq!(running.endpoints(name), 1);
    }
    assert_eq!(running.resolve("demo/nobody").await.unwrap_err(), DiscoverError::NotFound);
    let (name, asked) = (service_name("demo/new"), tokio::time::Instant::now());
    let answer = running.demand.resolve(&name, Duration::from_secs(3600)).await;
    assert_eq!(answer.unwrap_err(), DiscoverError::Disconnected);
    assert!(asked.elapsed() < LIMIT);
    // Nothing was heard that would make the file any younger.
    let before = fs::metadata(dir.path().join("last-known-good")).unwrap().modified().unwrap();
    running.stop().await;
    assert_eq!(fs::metadata(dir.path().join("last-known-good")).unwrap().modified().unwrap(), before);
}

#[tokio::test]
async fn nothing_is_sent_again_to_a_restarted_proxy_whose_state_is_right() {
    let mut fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    run_before(&mut fake, dir.path(), &["demo/front"]).await;
    let mut running = Running::start(&fake, dir.path());
    let before = running.until("configured", |status| status.configured).await;
    fake.resume();
    let after = running.until("confirmed", |status| status.last_known_good.is_none()).await;
    assert_eq!(fake.look(|seen| seen.resent), 0);
    assert_eq!(after.generation, before.generation, "nothing new, no new snapshot");
    assert_eq!(after.applied.len(), 4);
    running.resolve("demo/front").await.unwrap();
}

#[tokio::test]
async fn a_restarted_proxys_first_question_waits_for_its_first_stream() {
    let mut fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    run_before(&mut fake, dir.path(), &["demo/front"]).await;
    put(&fake, "demo/new");
    fake.resume();
    let running = Running::start(&fake, dir.path());
    running.resolve("demo/new").await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn the_control_planes_state_replaces_what_was_kept_and_no_set_is_empty_in_between() {
    let mut fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    run_before(&mut fake, dir.path(), &["demo/front", "demo/gone", "demo/same"]).await;
    let mut grown = endpoint_set("demo/front");
    grown.endpoints.push(grown.endpoints[0].clone());
    grown.endpoints[1].port += 1;
    fake.change(|seen| {
        seen.put(type_url::ENDPOINT_SET, "demo/front:80", &grown);
        seen.remove(type_url::SERVICE, "demo/gone");
        seen.remove(type_url::ENDPOINT_SET, "demo/gone:80");
    });
    put(&fake, "demo/nobody");
    let mut running = Running::start(&fake, dir.path());
    running.until("configured", |status| status.configured).await;
    let (handle, mut changes) = (running.snapshot.clone(), running.status.clone());
    let watching = tokio::spawn(async move {
        let mut shortest = usize::MAX;
        while changes.changed().await.is_ok() {
            let snapshot = handle.load();
            shortest = shortest.min(endpoints(&snapshot, "demo/front"));
            shortest = shortest.min(endpoints(&snapshot, "demo/same"));
        }
        shortest
    });
    fake.resume();
    running.until("confirmed", |status| status.last_known_good.is_none()).await;
    let snapshot = running.snapshot.clone();
    let replaced = |_: &Status| {
        let snapshot = snapshot.load();
        let names: Vec<_> = snapshot.services.keys().map(ToString::to_string).collect();
        !names.contains(&"demo/gone".to_owned())
            && names.len() == 3
            && endpoints(&snapshot, "demo/front") == 2
    };
    running.until("replaced", replaced).await;
    assert_eq!(running.resolve("demo/gone").await.unwrap_err(), DiscoverError::NotFound);
    running.resolve("demo/nobody").await.unwrap();
    // The set that grew, and the service that there was not, with its set.
    assert_eq!(fake.look(|seen| seen.resent), 3);
    running.stop().await;
    assert!(timeout(PATIENCE, watching).await.unwrap().unwrap() >= 1, "make before break");
    // And that is what is kept from now on.
    fake.kill();
    let mut running = Running::start(&fake, dir.path());
    running.until("configured", |status| status.configured).await;
    assert_eq!(running.endpoints("demo/front"), 2);
    assert_eq!(running.resolve("demo/gone").await.unwrap_err(), DiscoverError::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn a_name_that_was_given_up_has_its_last_answer_without_a_stream_also_after_a_restart() {
    let mut fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let own = fake.authority.workload_id("demo", "price");
    let idle = mesh::ProxyConfig {
        on_demand_idle: prost_types::Duration::try_from(Duration::from_secs(1)).ok(),
        ..config(&own)
    };
    fake.change(|seen| seen.put(type_url::PROXY_CONFIG, "self", &idle));
    put(&fake, "demo/front");
    let mut running = Running::start(&fake, dir.path());
    running.until("configured", |status| status.configured).await;
    running.resolve("demo/front").await.unwrap();
    let handle = running.snapshot.clone();
    running.until("given up", |_| handle.load().services.is_empty()).await;
    fake.kill();
    running.until("disconnected", |status| !status.connected).await;
    running.resolve("demo/front").await.unwrap();
    assert_eq!(running.endpoints("demo/front"), 1);
    running.stop().await;

    // What is on disk is what the control plane confirmed: there it was given up.
    let mut running = Running::start(&fake, dir.path());
    running.until("configured", |status| status.configured).await;
    assert!(running.snapshot.load().services.is_empty());
    running.resolve("demo/front").await.unwrap();
    assert_eq!(running.endpoints("demo/front"), 1);
    // The next stream brings it as it is now.
    let mut grown = endpoint_set("demo/front");
    grown.endpoints.push(grown.endpoints[0].clone());
    grown.endpoints[1].port += 1;
    fake.change(|seen| seen.put(type_url::ENDPOINT_SET, "demo/front:80", &grown));
    fake.resume();
    running.until("confirmed", |status| status.last_known_good.is_none()).await;
    let snapshot = running.resolve("demo/front").await.unwrap();
    assert_eq!(endpoints(&snapshot, "demo/front"), 2);
    running.stop().await;
}

#[tokio::test]
async fn another_identity_does_not_get_it() {
    let mut fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    run_before(&mut fake, dir.path(), &["demo/front"]).await;
    let other = fake.authority.workload_id("demo", "somebody-else");
    let store = Store::new(dir.path());
    let refused = store.recall(&other, SystemTime::now()).unwrap_err();
    assert!(matches!(refused, Refused::Foreign(_)), "{refused}");
    assert_eq!(store.figures().refused(), Some("foreign"));
    let own = fake.authority.workload_id("demo", "price");
    assert!(store.recall(&own, SystemTime::now()).unwrap().is_none(), "it is set aside");
    assert!(dir.path().join("last-known-good.refused").exists());
}

#[tokio::test]
async fn a_proxy_says_that_it_runs_on_its_last_known_good_until_that_is_confirmed() {
    let fake = Fake::start();
    let identity = fake.authority.identity(fake.authority.workload("demo", "price"));
    let trust = ServerTrust::Bundle(identity.clone());
    let channel = channel_lazy(&fake.address.to_string(), trust, Some(&identity)).unwrap();
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    let (status, watched) = watch::channel(Status {
        connected: true,
        stream: "a".to_owned(),
        last_known_good: Some(Origin { revision: 6, written }),
        ..Status::default()
    });
    let stop = CancellationToken::new();
    let reporting = tokio::spawn(report::applied(channel, watched, identity, stop.clone()));
    fake.until("a report", |seen| seen.applied.len() == 1).await;
    let told = fake.look(|seen| seen.applied[0].last_known_good).unwrap();
    assert_eq!((told.revision, told.written.unwrap().seconds), (6, 1_767_323_045));
    status.send_modify(|status| status.last_known_good = None);
    fake.until("another", |seen| seen.applied.last().is_some_and(|last| last.last_known_good.is_none()))
        .await;
    stop.cancel();
    timeout(PATIENCE, reporting).await.unwrap().unwrap();
}

/// Waits for what a stop wrote: it waits for the disk itself, but not for ever.
async fn written(dir: &Path) {
    let looking = async {
        while !kept(dir).exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap();
}

/// A state directory of a proxy that was in the mesh.
async fn lived(fake: &mut Fake, dir: &Path) -> outrigger_proxy::settings::Settings {
    let mut settings = settings(fake.address, dir);
    settings.inbound = vec!["127.0.0.1:0=127.0.0.1:8080".parse().unwrap()];
    let proxy = Proxy::run(settings.clone(), Some(&fake.token())).await.unwrap();
    proxy.ready().await;
    fake.until("registered", |seen| seen.registrations().len() == 1).await;
    assert_eq!(proxy.stop().await, Exit::Success);
    written(dir).await;
    fake.kill();
    fake.change(|seen| seen.applied.clear());
    settings
}

async fn metrics(proxy: &Proxy) -> String {
    get(proxy.health_address, "/metrics").await
}

#[tokio::test]
async fn a_restarted_proxy_is_ready_without_a_control_plane_and_registers_once_that_is_back() {
    let mut fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let settings = lived(&mut fake, &state.path().join("proxy")).await;
    let proxy = Proxy::run(settings, None).await.unwrap();
    proxy.ready().await;
    assert!(metrics(&proxy).await.contains("outrigger_last_known_good_in_force 1"));
    fake.resume();
    fake.until("registered again", |seen| seen.registrations().len() == 2).await;
    fake.until("confirmed", |seen| {
        let last = seen.applied.last();
        last.is_some_and(|report| report.last_known_good.is_none() && report.applied.len() == 2)
    })
    .await;
    assert!(metrics(&proxy).await.contains("outrigger_last_known_good_in_force 0"));
    assert_eq!(fake.look(|seen| seen.issued.len()), 1, "no second certificate");
    proxy.stop().await;
}

fn kept(dir: &Path) -> PathBuf {
    dir.join("last-known-good")
}

#[tokio::test]
async fn what_cannot_be_used_is_set_aside_and_the_proxy_waits_and_says_why() {
    let mut fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("proxy");
    let settings = lived(&mut fake, &dir).await;
    let mut bytes = fs::read(kept(&dir)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(kept(&dir), &bytes).unwrap();
    let proxy = Proxy::run(settings, None).await.unwrap();
    let why = |now: &Readiness| matches!(now, Readiness::NotReady(why) if why.contains("(corrupted)"));
    proxy.until(why).await;
    assert!(!kept(&dir).exists());
    assert_eq!(fs::read(dir.join("last-known-good.refused")).unwrap(), bytes, "for whoever looks into it");
    assert!(metrics(&proxy).await.contains("outrigger_last_known_good_refused{reason=\"corrupted\"} 1"));
    fake.resume();
    proxy.ready().await;
    proxy.stop().await;
    // And it is kept anew.
    written(&dir).await;
}

#[tokio::test]
async fn a_start_without_a_last_known_good_waits_for_the_control_plane_and_says_so() {
    let mut fake = Fake::start();
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("proxy");
    let settings = lived(&mut fake, &dir).await;
    fs::remove_file(kept(&dir)).unwrap();
    let proxy = Proxy::run(settings, None).await.unwrap();
    let why =
        |now: &Readiness| matches!(now, Readiness::NotReady(why) if why.contains("no last known good yet"));
    proxy.until(why).await;
    proxy.stop().await;
}
