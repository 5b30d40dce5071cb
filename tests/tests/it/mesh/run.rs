//! `outrigger run`: a command and its sidecar as one process.

use std::net::SocketAddr;

use rustix::process::Signal;
use tokio::process::Command;

use super::PRICE;
use crate::support::{
    Application, Mesh, Proxy,
    process::{Running, eventually, free_address, program},
};

/// A command that says which signals it had, and ends with 7 at SIGTERM.
const LISTENER: &str =
    r#"trap 'echo usr1' USR1; trap 'echo term; exit 7' TERM; echo up; while :; do sleep 0.05; done"#;

/// `outrigger run` as `account`, with these flags of the sidecar.
async fn start(mesh: &Mesh, account: &str, flags: &[&str], command: &[&str]) -> Running {
    let name = format!("{account}-run");
    let token = mesh.token(&name, account, &[]).await;
    let mut run = Command::new(program("outrigger"));
    run.args(["run", "--instance", &name, "--control-plane", &mesh.discovery.to_string()])
        .args(["--outbound-listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
        .arg("--state-dir")
        .arg(mesh.path(&name))
        .arg("--join-token-file")
        .arg(&token)
        .args(flags)
        .arg("--")
        .args(command);
    Running::start(&mut run, mesh.path(&format!("{name}.log")))
}

/// Waits for a line of the command.
async fn says(run: &Running, line: &str) {
    eventually(line, async || run.log().lines().any(|said| said == line).then_some(())).await;
}

/// A mesh with a `price`, and its sidecar.
async fn priced() -> (Mesh, Application, Proxy) {
    let mesh = Mesh::start().await;
    let app = Application::start("a price").await;
    let price = mesh.join("price-1", "price", &[], Some(app.address)).await;
    mesh.apply(PRICE).await.ok();
    (mesh, app, price)
}

#[tokio::test]
async fn the_clients_of_a_command_use_its_sidecar_and_its_exit_code_is_passed_on() {
    let (mesh, _app, price) = priced().await;
    let script = "curl -sS http://price/ && env && exit 7";
    let mut run = start(&mesh, "front", &[], &["sh", "-c", script]).await;
    assert_eq!(run.stopped().await.code(), Some(7), "{}", run.log());
    let log = run.log();
    assert!(log.contains("a price"), "{log}");
    for (name, begin) in [
        ("http_proxy", "http://127.0.0.1:"),
        ("HTTP_PROXY", "http://127.0.0.1:"),
        ("grpc_proxy", "http://127.0.0.1:"),
        ("no_proxy", "localhost,127.0.0.1,::1"),
        ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ] {
        assert!(log.lines().any(|line| line.starts_with(&format!("{name}={begin}"))), "{name}: {log}");
    }
    assert!(!log.contains("OUTRIGGER_JOIN_TOKEN="), "the token is the sidecar's");
    assert!(price.log().contains("ns/demo/sa/front"), "it came with its own identity");
}

#[tokio::test]
async fn signals_reach_the_command_and_a_stop_ends_both_with_its_code() {
    let (mesh, _app, _price) = priced().await;
    let mut run = start(&mesh, "front", &[], &["sh", "-c", LISTENER]).await;
    says(&run, "up").await;
    run.signal(Signal::USR1);
    says(&run, "usr1").await;
    run.signal(Signal::TERM);
    assert_eq!(run.stopped().await.code(), Some(7), "{}", run.log());
    assert!(run.log().lines().any(|line| line == "term"), "{}", run.log());
}

#[tokio::test]
async fn a_command_that_serves_is_asked_to_stop_after_its_sidecar_has_drained() {
    let mesh = Mesh::start().await;
    mesh.apply(PRICE).await.ok();
    let inbound: SocketAddr = free_address();
    let pair = format!("{inbound}=127.0.0.1:1,name=http");
    let mut run = start(&mesh, "price", &["--inbound", &pair], &["sh", "-c", LISTENER]).await;
    says(&run, "up").await;
    run.signal(Signal::TERM);
    assert_eq!(run.stopped().await.code(), Some(7), "{}", run.log());
    let log = run.log();
    let (drained, told) = (log.find("\"stopped\""), log.find("\nterm"));
    assert!(drained.is_some() && drained < told, "{log}");
}

#[tokio::test]
async fn nothing_is_left_when_it_is_killed() {
    let (mesh, _app, _price) = priced().await;
    let listen = free_address();
    let mut run =
        start(&mesh, "front", &["--outbound-service", &format!("{listen}=price")], &["sh", "-c", LISTENER])
            .await;
    says(&run, "up").await;
    assert!(tokio::net::TcpStream::connect(listen).await.is_ok(), "the sidecar runs");
    run.signal(Signal::KILL);
    run.stopped().await;
    eventually("the end of the sidecar", async || {
        tokio::net::TcpStream::connect(listen).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_that_is_not_ready_in_time_says_why_and_the_command_does_not_run() {
    let mesh = Mesh::start().await;
    let token = mesh.token("front", "front", &[]).await;
    let nobody = free_address();
    let mut run = Command::new(program("outrigger"));
    run.args(["run", "--ready-timeout", "300ms", "--control-plane", &nobody.to_string()])
        .args(["--outbound-listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
        .arg("--state-dir")
        .arg(mesh.path("front"))
        .arg("--join-token-file")
        .arg(&token)
        .args(["--", "echo", "it ran"]);
    let mut run = Running::start(&mut run, mesh.path("run.log"));
    assert_eq!(run.stopped().await.code(), Some(1));
    let log = run.log();
    assert!(log.contains("the sidecar is not ready after 300ms: joining the mesh"), "{log}");
    assert!(log.contains("--ready-timeout") && !log.contains("it ran"), "{log}");
}
