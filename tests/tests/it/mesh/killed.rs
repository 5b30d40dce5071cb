//! A control plane that is killed at any moment: no request fails, nothing that it acknowledged is lost, and everybody comes
//! back without being told again what they know.

use std::time::Duration;

use hyper::Response;
use tokio::process::Command;

use super::PRICE;
use crate::support::{
    Application, Client, Mesh, Proxy,
    application::{Asked, body},
    load::Load,
    pod,
    process::eventually,
    program,
};

/// Requests a second, three of ten a POST, which nobody may send twice.
const RATE: u32 = 200;
/// For at least so long, and until every moment had its turn.
const LEAST: Duration = Duration::from_secs(10);
/// When after the begin of a write the control plane is killed, milliseconds: before, while and after it is stored, and
/// while everybody is told. Twice in a row: while all are there, and while they come back, for which they wait longer each time.
const MOMENTS: [[u64; 2]; 5] = [[0, 30], [5, 40], [10, 60], [15, 80], [20, 100]];

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
    // The load checks that each answer is its own.
    let echo = |asked: &Asked| Response::new(body(asked.uri().path().trim_start_matches('/').to_owned()));
    let apps = [Application::answering(echo).await, Application::answering(echo).await];
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
    let load = Load::start(front.outbound, RATE);
    for (round, moments) in MOMENTS.into_iter().cycle().enumerate() {
        if round >= MOMENTS.len() && load.age() >= LEAST {
            break;
        }
        for (time, moment) in moments.into_iter().enumerate() {
            let push = 2 * round + time;
            let (restarted, acknowledged) = killed_while_applying(mesh, &route(push), moment).await;
            mesh = restarted;
            let stored = mesh.outrigger(&["get", "route", "price", "-n", "demo", "-o", "yaml"]).await;
            let kept = stored.code == 0 && stored.stdout.contains(&format!("value: \"{push}\""));
            assert!(kept || !acknowledged, "push {push} was acknowledged and is lost: {}", stored.stdout);
        }
        connected(&mesh, 3).await;
        // A further one goes everywhere: `apply` waits for all.
        mesh.apply(&route(round + 1_000)).await.ok();
        let answer = client.get("http://price/").await.unwrap();
        assert_eq!(answer.headers["x-push"], (round + 1_000).to_string().as_str());
    }
    let books = load.finish(LEAST).await;
    assert!(books.failed().is_empty(), "{:?}\n{}", books.failed(), front.log());
    // Whom the balancer prefers for a while is its own affair.
    for (app, before) in apps.iter().zip(before) {
        assert!(app.asked().len() > before, "an instance was dropped while the control plane was away");
    }
    // Beside the load, which has a number in each path, there were single requests for `/`.
    let numbered = |asked: Asked| {
        Some(pod::Asked { post: asked.method() == "POST", id: asked.uri().path()[1..].parse().ok()? })
    };
    let asked: Vec<_> = apps.iter().flat_map(Application::asked).filter_map(numbered).collect();
    books.agree_with(&asked);
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
