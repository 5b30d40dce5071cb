//! A control plane that is killed at any moment: no request fails, nothing that it acknowledged is lost, and everybody comes
//! back without being told again what they know.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::Request;
use tokio::{process::Command, task::JoinSet};

use super::PRICE;
use crate::support::{Application, Client, Mesh, Proxy, process::eventually, program};

/// Between two requests: 100 a second, each on a connection of its own.
const PACE: Duration = Duration::from_millis(10);
/// When after the begin of a write the control plane is killed, milliseconds: before, while and after it is stored.
const MOMENTS: [u64; 4] = [0, 10, 20, 60];

fn route(push: usize) -> String {
    format!(
        "
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {{name: price, namespace: demo}}
spec:
  parentRefs: [{{name: price}}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-push, value: \"{push}\"}}]}}
"
    )
}

/// Requests at a fixed pace, whatever becomes of those before; three of ten are POSTs, which nobody may send twice.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<BTreeMap<String, u32>>,
}

impl Load {
    fn start(client: Client) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            let mut answers = JoinSet::new();
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                let number = counted.fetch_add(1, Ordering::Relaxed);
                answers.spawn(async move {
                    let method = if number % 10 < 3 { "POST" } else { "GET" };
                    let request =
                        Request::builder().method(method).uri(format!("http://price.demo.mesh/{number}"));
                    let answer = client.send(request.body(Full::from("once")).unwrap()).await;
                    answer
                        .map_or_else(|error| format!("{method}: {error}"), |answer| answer.status.to_string())
                });
            }
            let mut outcomes = BTreeMap::new();
            while let Some(outcome) = answers.join_next().await {
                *outcomes.entry(outcome.unwrap()).or_default() += 1;
            }
            outcomes
        });
        Self { stop, sent, task }
    }

    fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Every outcome, and how often.
    async fn end(self) -> BTreeMap<String, u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Begins to apply `documents`, kills the control plane after `moment`, and says whether the write was acknowledged.
async fn killed_while_applying(mesh: Mesh, documents: &str, moment: u64) -> (Mesh, bool) {
    let file = mesh.path("pushed.yaml");
    std::fs::write(&file, documents).unwrap();
    let mut apply = Command::new(program("outrigger"));
    apply
        .args(["apply", "--call-timeout", "2s", "-f", &file.to_string_lossy()])
        .env("OUTRIGGER_SERVER", mesh.policy.to_string())
        .env("OUTRIGGER_CREDENTIAL", mesh.path("control-plane/admin"))
        .kill_on_drop(true);
    let apply = tokio::spawn(async move { apply.output().await.unwrap().status.success() });
    tokio::time::sleep(Duration::from_millis(moment)).await;
    let mesh = mesh.restart_control_plane().await;
    (mesh, apply.await.unwrap())
}

async fn connected(mesh: &Mesh, proxies: usize) {
    eventually("reconnection", async || {
        let status = mesh.outrigger(&["status", "-o", "json"]).await;
        (status.code == 0 && status.stdout.matches("\"connected\": true").count() >= proxies).then_some(())
    })
    .await;
}

/// What the control plane has told since it was started that somebody did not have.
async fn resources(mesh: &Mesh) -> f64 {
    let page = Client::direct().get(&format!("http://{}/metrics", mesh.health)).await.unwrap().text();
    let value = page.lines().find_map(|line| line.strip_prefix("outrigger_discovery_resources_total "));
    value.unwrap().parse().unwrap()
}

async fn mesh() -> (Mesh, [Application; 2], [Proxy; 3]) {
    let mesh = Mesh::start().await;
    let apps = [Application::start("one").await, Application::start("two").await];
    let first = mesh.join("price-1", "price", &[], Some(apps[0].address)).await;
    let second = mesh.join("price-2", "price", &[], Some(apps[1].address)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    (mesh, apps, [first, second, front])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_costs_no_request_and_loses_no_acknowledged_write() {
    let (mut mesh, apps, [_first, _second, front]) = mesh().await;
    let client = front.client();
    assert_eq!(client.get("http://price/").await.unwrap().status, 200);
    let before = apps.each_ref().map(|app| app.asked().len());
    let load = Load::start(client);
    for (push, moment) in MOMENTS.into_iter().enumerate() {
        let (restarted, acknowledged) = killed_while_applying(mesh, &route(push), moment).await;
        mesh = restarted;
        let stored = mesh.outrigger(&["get", "route", "price", "-n", "demo", "-o", "yaml"]).await;
        let kept = stored.code == 0 && stored.stdout.contains(&format!("value: \"{push}\""));
        assert!(kept || !acknowledged, "push {push} was acknowledged and is lost: {}", stored.stdout);
        connected(&mesh, 3).await;
        // A further one goes everywhere: `apply` waits for all.
        mesh.apply(&route(push + 100)).await.ok();
        let answer = client.get("http://price/").await.unwrap();
        assert_eq!(answer.headers["x-push"], (push + 100).to_string().as_str());
    }
    let sent = load.sent();
    let outcomes = load.end().await;
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["200"], "{outcomes:?}");
    assert!(sent >= 200, "only {sent} requests");
    // Whom the balancer prefers for a while is its own affair.
    for (app, before) in apps.iter().zip(before) {
        assert!(app.asked().len() > before, "an instance was dropped while the control plane was away");
    }
    let mut asked: Vec<String> =
        apps.iter().flat_map(Application::asked).map(|asked| asked.uri().to_string()).collect();
    asked.retain(|path| path != "/");
    let total = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), total, "a request was processed twice");
    assert_eq!(front.metric("outrigger_retries_total").await, 0.0);
}

#[tokio::test]
async fn those_who_come_back_are_not_told_again_what_they_know() {
    let (mesh, _apps, [_first, _second, front]) = mesh().await;
    assert_eq!(front.client().get("http://price/").await.unwrap().status, 200);
    let mesh = mesh.restart_control_plane().await;
    connected(&mesh, 3).await;
    assert_eq!(front.client().get("http://price/").await.unwrap().status, 200);
    assert_eq!(resources(&mesh).await, 0.0, "nothing has changed");
    mesh.apply(&route(1)).await.ok();
    assert!(resources(&mesh).await >= 1.0, "what has changed is told");
}
