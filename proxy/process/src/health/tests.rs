//! Over real sockets, in real time.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

struct Served {
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

async fn served() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = Health::new("waiting for the control plane");
    let stop = CancellationToken::new();
    let metrics: Metrics = Arc::new(|text| {
        let mut registry = prometheus_client::registry::Registry::default();
        let started = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("outrigger_started", "Starts", started);
        prometheus_client::encoding::text::encode(text, &registry)
    });
    let server = tokio::spawn(serve(listener, health.clone(), metrics, stop.clone()));
    Served { address, health, stop, server }
}

async fn ask(address: SocketAddr, head: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn readiness_follows_the_handle_and_says_why_not() {
    let served = served().await;
    let not_ready = ask(served.address, "GET /ready HTTP/1.1").await;
    assert!(not_ready.starts_with("HTTP/1.1 503"), "{not_ready}");
    assert!(not_ready.ends_with("waiting for the control plane\n"), "{not_ready}");
    served.health.set_ready();
    assert!(ask(served.address, "GET /ready HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    served.health.set_not_ready("draining");
    assert!(ask(served.address, "GET /ready HTTP/1.1").await.ends_with("draining\n"));
    assert!(ask(served.address, "GET /live HTTP/1.1").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let answer = ask(served().await.address, "GET /metrics HTTP/1.1").await;
    assert!(answer.contains("application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.contains("outrigger_started_total 0"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let served = served().await;
    for (head, status) in [
        ("GET / HTTP/1.1", "404"),
        ("GET /config HTTP/1.1", "404"),
        ("POST /quit HTTP/1.1", "404"),
        ("POST /ready HTTP/1.1", "405"),
        ("DELETE /metrics HTTP/1.1", "405"),
    ] {
        let answer = ask(served.address, head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
    }
    let refused = ask(served.address, "PUT /live HTTP/1.1").await;
    assert!(refused.contains("allow: GET"), "{refused}");
}

#[tokio::test]
async fn when_stopped_it_accepts_no_more_and_closes_what_is_idle() {
    let served = served().await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    idle.read_exact(&mut head).await.unwrap();
    served.stop.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    served.server.await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}
