//! Sidecars and proxies that have more to do than they can: who is asked again, what a client is told, and what goes on.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use outrigger_core::model::{Endpoint, Resilience, Retry, RetryBudget};
use outrigger_proxy::settings::{InboundProtocol, Limiting, Overload};
use outrigger_tls::mesh;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{
    GET, OK, Options, Pair, Side, endpoint, header, log,
    raw::{Raw, Server, soon},
    streams::post,
};

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A sidecar of `price` that has no room for anything.
struct Full {
    endpoint: Endpoint,
    asked: Arc<AtomicU32>,
}

impl Full {
    /// `lasting`: it says that it is not to be asked again.
    async fn start(pair: &Pair, lasting: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = endpoint(listener.local_addr().unwrap(), &pair.authority, "price");
        let acceptor = TlsAcceptor::from(mesh::server_config(&pair.price.identity, &[mesh::ALPN_H2]));
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let mut answer =
                            Response::builder().status(503).header("outrigger-unprocessed", "overloaded");
                        if lasting {
                            answer = answer.header("outrigger-retry", "never");
                        }
                        let mut body = respond.send_response(answer.body(()).unwrap(), false).unwrap();
                        body.send_data(Bytes::from_static(b"full"), true).unwrap();
                    }
                });
            }
        });
        Self { endpoint, asked }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn pair() -> Pair {
    Pair::with(&Options { protocol: InboundProtocol::Http1, ..Options::default() }).await
}

async fn refused(pair: &Pair) -> String {
    let mut client = pair.client().await;
    client.send(GET).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let address = client.address().to_string();
    log::line(&[("downstream.addr", &address), ("direction", "outbound"), ("reason", "overloaded")]).await;
    head
}

#[tokio::test]
async fn what_one_has_no_room_for_goes_to_another_whatever_the_method() {
    for lasting in [false, true] {
        let pair = pair().await;
        let full = Full::start(&pair, lasting).await;
        // Held open at the other one, so that this one is the better choice at first.
        let _held = pair.asked("GET /held HTTP/1.1\r\nhost: price\r\n\r\n").await;
        pair.publish(2, pair.service(Vec::new()), &[full.endpoint.clone(), pair.endpoint()]);
        let (mut client, mut app) =
            pair.asked("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 3\r\n\r\nabc").await;
        assert_eq!(app.exactly(3).await, b"abc");
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(full.asked(), 1);
    }
}

#[tokio::test]
async fn where_nobody_has_room_nothing_is_sent_again_and_the_client_is_told_when_to_come_back() {
    let pair = pair().await;
    let (one, other) = (Full::start(&pair, true).await, Full::start(&pair, true).await);
    pair.publish(2, pair.service(Vec::new()), &[one.endpoint.clone(), other.endpoint.clone()]);
    let head = refused(&pair).await;
    let seconds: u32 = header(&head, "retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds), "{head}");
    assert!(!head.contains("outrigger-"), "{head}");
    assert_eq!((one.asked(), other.asked()), (1, 1), "the other one was not known to be full as well");
    for _ in 0..5 {
        refused(&pair).await;
    }
    assert_eq!(one.asked() + other.asked(), 2 + 5);
    assert_eq!(pair.front.metric("outrigger_retries_total"), 1.0);
}

/// In whatever order they are asked.
#[tokio::test]
async fn what_an_application_said_is_delivered_when_others_say_nothing_of_their_own() {
    for _ in 0..30 {
        let pair = pair().await;
        let full = Full::start(&pair, false).await;
        let nobody = Server::listen().await;
        let nowhere = endpoint(nobody.address(), &pair.authority, "price");
        drop(nobody);
        let retry = Retry { statuses: BTreeSet::from([503]), attempts: 2, ..Retry::enabled() };
        let budget = RetryBudget { percent: 100, min_per_second: 1000, ..RetryBudget::default() };
        let resilience = Resilience { retry, budget, ..Resilience::default() };
        pair.resilient(2, &[pair.endpoint(), full.endpoint.clone(), nowhere], resilience);
        let mut client = pair.client().await;
        let kept = "HTTP/1.1 503 Busy\r\nx-kept: yes\r\ncontent-length: 0\r\n\r\n";
        let (_, head) = pair.exchange(&mut client, GET, kept).await;
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-kept: yes"), "{head}");
    }
}

#[tokio::test]
async fn the_only_one_is_not_asked_again() {
    let pair = pair().await;
    let full = Full::start(&pair, false).await;
    pair.publish(2, pair.service(Vec::new()), std::slice::from_ref(&full.endpoint));
    refused(&pair).await;
    assert_eq!(full.asked(), 1);
    assert_eq!(pair.front.metric("outrigger_retries_total"), 0.0);
}

#[tokio::test]
async fn a_grpc_client_is_told_in_its_own_words() {
    let pair = pair().await;
    let full = Full::start(&pair, true).await;
    pair.publish(2, pair.service(Vec::new()), std::slice::from_ref(&full.endpoint));
    let mut client = pair.streams().await;
    let mut request: Request<()> = post("/demo.Price/Get");
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let answer = client.send(request, true).await.answer().await.unwrap();
    assert_eq!((answer.status(), answer.header("grpc-status")), (200, Some("14")));
    let millis: u32 = answer.header("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((1000..=2020).contains(&millis), "{millis}");
    assert_eq!(answer.header("outrigger-retry"), None);
}

#[tokio::test]
async fn an_application_cannot_say_for_its_sidecar_that_it_is_not_to_be_asked_again() {
    let pair = pair().await;
    let mut client = pair.client().await;
    let forged = "HTTP/1.1 503 No\r\noutrigger-unprocessed: overloaded\r\noutrigger-retry: never\r\ncontent-length: 2\r\n\r\nno";
    let (_, head) = pair.exchange(&mut client, GET, forged).await;
    assert!(head.starts_with("HTTP/1.1 503 ") && !head.contains("outrigger-"), "{head}");
    assert_eq!(header(&head, "retry-after"), None);
    let address = client.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("direction", "outbound")]).await;
    assert_eq!(line.get("reason"), None);
}

/// An application that works on one request at a time, for 5 ms each, but for health checks.
async fn slow(listener: TcpListener) {
    let place = Arc::new(Semaphore::new(1));
    while let Ok((stream, _)) = listener.accept().await {
        let place = Arc::clone(&place);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let place = Arc::clone(&place);
                tokio::spawn(async move {
                    let _place = match request.uri().path() {
                        HEALTH => None,
                        _ => Some(place.acquire_owned().await.unwrap()),
                    };
                    sleep(Duration::from_millis(5)).await;
                    let answer = Response::builder().header("content-type", "application/grpc");
                    let answer = answer.header("grpc-status", "0").body(()).unwrap();
                    let _gone = respond.send_response(answer, true);
                });
            }
        });
    }
}

/// What the sidecar of `price` answers to a peer.
async fn call(mut peer: h2::client::SendRequest<Bytes>, path: &'static str) -> HeaderMap {
    let request = Request::post(path).version(Version::HTTP_11).header("host", "price");
    let request = request.header("content-type", "application/grpc").body(()).unwrap();
    let (response, _) = peer.send_request(request, true).unwrap();
    soon("an answer", response).await.unwrap().into_parts().0.headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_refuses_what_is_too_much_for_its_application_says_so_and_lets_health_checks_pass() {
    let options = Options { protocol: InboundProtocol::Grpc, ..Options::default() };
    let pair = Pair::with(&options).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let identity = pair.price.identity.clone();
    let side = Side::start(identity, &[listener.local_addr().unwrap()], &options);
    tokio::spawn(slow(listener));
    let expected = [pair.price.identity.id().unwrap()];
    let config = mesh::client_config(&pair.front.identity, expected, &[mesh::ALPN_H2]);
    // As many as a caller's sidecar would open: each takes 256 streams.
    let mut peers = Vec::new();
    for _ in 0..8 {
        let stream = TcpStream::connect(side.path.inbound()[0]).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        let stream = connector.connect(mesh::server_name(), stream).await.unwrap();
        let (peer, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        peers.push(peer);
    }

    for _ in 0..60 {
        let answer = call(peers[0].clone(), "/demo.Price/Get").await;
        assert_eq!(answer.get("outrigger-unprocessed"), None);
    }
    // Three times what it can do, for 3 s.
    let begin = Instant::now();
    let mut calls = JoinSet::new();
    for (number, peer) in (0..1800).zip(peers.iter().cycle()) {
        sleep_until(begin + Duration::from_secs(3) * number / 1800).await;
        let path = if number % 60 == 0 { HEALTH } else { "/demo.Price/Get" };
        let peer = peer.clone();
        calls.spawn(async move { (number, path, call(peer, path).await) });
    }
    assert!(side.metric("outrigger_application_limit{") >= 8.0, "{}", side.metrics());
    let mut answers = calls.join_all().await;
    answers.sort_by_key(|(number, ..)| *number);
    let mut refused = Vec::new();
    for (number, path, answer) in answers {
        if let Some(reason) = answer.get("outrigger-unprocessed") {
            assert_eq!(reason, "overloaded");
            assert_ne!(path, HEALTH, "request {number}");
            assert_eq!(answer.get("retry-after"), None, "the caller's sidecar says it");
            refused.push(answer.get("outrigger-retry").is_some_and(|retry| retry == "never"));
        }
    }
    assert!(refused.len() > 600, "{} refused", refused.len());
    assert_eq!((refused.first(), refused.last()), (Some(&false), Some(&true)));
}

/// Many requests at once for a name that is not there, all in one piece; how many answers carry `reason`.
async fn flood(pair: &Pair, reason: &'static str) -> usize {
    const CLIENTS: usize = 64;
    const EACH: usize = 400;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client: Raw = pair.client().await;
        clients.spawn(async move {
            client.send("GET / HTTP/1.1\r\nhost: nowhere.demo.mesh\r\n\r\n".repeat(EACH)).await;
            let mut found = 0;
            for _ in 0..EACH {
                let head = client.head().await;
                let length = header(&head, "content-length").unwrap().parse().unwrap();
                let body = client.exactly(length).await;
                let text = String::from_utf8(body).unwrap();
                let named = text.starts_with(&format!("outrigger: {reason}:"));
                assert!(named == header(&head, "retry-after").is_some(), "{head}{text}");
                found += usize::from(named);
            }
            found
        });
    }
    clients.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_has_no_time_refuses_some_and_serves_all_when_it_is_over() {
    let max_delay = Duration::from_millis(10);
    let overload = Overload { max_delay, ..Overload::default() };
    let pair =
        Pair::with(&Options { protocol: InboundProtocol::Http1, overload, ..Options::default() }).await;
    assert!(flood(&pair, "proxy_overloaded").await > 0);
    let delay = "outrigger_worker_delay_seconds ";
    assert!(pair.front.metrics().contains(delay));
    // What is asked for now comes after the last of them, and sends a probe through the line. That it was let in tells nothing: one
    // in twenty is as long as it is not over.
    soon("a proxy that is well again", async {
        loop {
            let mut client = pair.client().await;
            client.send("GET / HTTP/1.1\r\nhost: nowhere.demo.mesh\r\n\r\n").await;
            client.head().await;
            if pair.front.metric(delay) <= max_delay.as_secs_f64() {
                break;
            }
        }
    })
    .await;
    let mut client = pair.client().await;
    let (_, head) = pair.exchange(&mut client, GET, OK).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    // The last line of many that were written: what comes after this test has the machine for itself.
    let address = client.address().to_string();
    log::line(&[("downstream.addr", &address), ("direction", "outbound")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_bound_on_its_delay_it_serves_whatever_comes() {
    let overload = Overload { max_delay: Duration::ZERO, application: Limiting::Off };
    let pair =
        Pair::with(&Options { protocol: InboundProtocol::Http1, overload, ..Options::default() }).await;
    assert_eq!(flood(&pair, "proxy_overloaded").await, 0);
    assert!(!pair.front.metrics().contains("outrigger_application_limit{"));
}
