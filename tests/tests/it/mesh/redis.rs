//! Redis with its own programs, through an address that leads to it: they know nothing of the mesh.

use std::net::SocketAddr;

use tokio::process::Command;

use super::service;
use crate::support::{
    Finished, Mesh, Proxy,
    process::{Dialogue, Running, free_address, listening, run, system_program},
};

/// A server that keeps nothing on disk; killed when dropped.
async fn server(mesh: &Mesh) -> (SocketAddr, Running) {
    let address = free_address();
    let mut command = Command::new(system_program("redis-server", "redis-server"));
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(mesh.path(""));
    let mut running = Running::start(&mut command, mesh.path("redis.log"));
    listening(&mut running, address).await;
    (address, running)
}

/// One of Redis' programs, for the server behind `address`.
fn program(name: &str, address: SocketAddr) -> Command {
    let mut command = Command::new(system_program(name, "redis-tools"));
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string()]).env_clear();
    command
}

async fn cli(address: SocketAddr, arguments: &[&str], input: &[u8]) -> Finished {
    run(program("redis-cli", address).args(arguments), input).await.ok()
}

/// A server, its sidecar, and the client's with an address that leads to it; `protocol` is what its port declares.
async fn cache(mesh: &Mesh, protocol: &str) -> (Running, Proxy, Proxy) {
    let (address, running) = server(mesh).await;
    let inbound = format!("127.0.0.1:0={address},name=redis");
    let sidecar = mesh.join_with("cache-1", "cache", &["--inbound", &inbound]).await;
    let listener = ["--outbound-service", "127.0.0.1:0=cache.demo:6379"];
    let front = mesh.join_with("front-1", "front", &listener).await;
    mesh.apply(&service("cache", &format!("port: 6379, name: redis{protocol}"))).await.ok();
    (running, sidecar, front)
}

/// As a client uses it; nothing of it may depend on what the port declares.
async fn holds_its_own(front: &Proxy) {
    let address = front.services[0];
    assert_eq!(cli(address, &["SET", "greeting", "hello"], b"").await.stdout, "OK\n");
    assert_eq!(cli(address, &["GET", "greeting"], b"").await.stdout, "hello\n");

    let commands: String =
        (0..10_000).map(|n| format!("*3\r\n$3\r\nSET\r\n$5\r\nn{n:04}\r\n$5\r\nv{n:04}\r\n")).collect();
    let piped = cli(address, &["--pipe"], commands.as_bytes()).await.stdout;
    assert!(piped.contains("errors: 0, replies: 10000"), "{piped}");
    assert_eq!(cli(address, &["MGET", "n0000", "n9999"], b"").await.stdout, "v0000\nv9999\n");

    let large: String = (0..1_000_000).map(|n| format!("{n:08}")).collect();
    assert_eq!(cli(address, &["-x", "SET", "large"], large.as_bytes()).await.stdout, "OK\n");
    assert_eq!(cli(address, &["STRLEN", "large"], b"").await.stdout, "8000000\n");
    let got = cli(address, &["GET", "large"], b"").await.stdout;
    assert!(got.strip_suffix('\n') == Some(&large), "{} bytes came back", got.len());

    // Once subscribed, only the server speaks.
    let mut subscriber = Dialogue::start(program("redis-cli", address).args(["SUBSCRIBE", "news"]));
    for expected in ["subscribe", "news", "1"] {
        assert_eq!(subscriber.hear().await, expected);
    }
    for number in 0..3 {
        let text = format!("number {number}");
        assert_eq!(cli(address, &["PUBLISH", "news", &text], b"").await.stdout, "1\n");
        for expected in ["message", "news", &text] {
            assert_eq!(subscriber.hear().await, expected);
        }
    }
    let waited = front.metric("outrigger_detection_timeouts_total{direction=\"outbound\"}").await;
    assert_eq!(waited, 0.0, "its first bytes are enough, or not asked for");
}

#[tokio::test]
async fn redis_is_used_through_an_address_of_its_own() {
    let mesh = Mesh::start().await;
    let (_server, _cache, front) = cache(&mesh, ", protocol: TCP").await;
    holds_its_own(&front).await;

    let mut benchmark = program("redis-benchmark", front.services[0]);
    let report = run(benchmark.args(["-q", "-n", "1000"]), b"").await.ok();
    let results = report.stdout.matches("requests per second").count();
    assert!(results >= 15 && report.stderr.is_empty(), "{}\n{}", report.stdout, report.stderr);
}

#[tokio::test]
async fn redis_needs_no_declared_protocol() {
    let mesh = Mesh::start().await;
    let (_server, _cache, front) = cache(&mesh, "").await;
    holds_its_own(&front).await;
}
