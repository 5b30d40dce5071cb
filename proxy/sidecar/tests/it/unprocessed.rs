//! Requests of which nobody saw anything are sent elsewhere, whatever their method; those of which somebody may have are not.

use std::time::Duration;

use outrigger_core::model::{Endpoint, Outlier, Resilience};
use outrigger_proxy::settings::InboundProtocol;
use outrigger_tls::mesh::{self, ALPN_H1, ALPN_H2};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::support::{
    OK, Options, Pair, Side, endpoint, log,
    raw::{Raw, Server, soon},
};

const POST: &str = "POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 0\r\n\r\n";
/// Of unknown length: it crosses the mesh on a connection of its own.
const CHUNKED: &str =
    "POST / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

/// Two instances of `price`, of which the second is busy: the next request goes to the first.
struct Two {
    pair: Pair,
    second: Server,
    _side: Side,
    _held: (Raw, Raw),
}

impl Two {
    /// `first`: instead of the instance of the pair.
    async fn start(first: impl FnOnce(&Pair) -> Endpoint) -> Self {
        let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
        let pair = Pair::with(&options).await;
        let second = Server::listen().await;
        let identity = pair.authority.identity(pair.authority.workload("demo", "price"));
        let side = Side::start(identity, &[second.address()], &options);
        let busy = endpoint(side.path.inbound()[0], &pair.authority, "price");
        pair.publish(2, pair.service(Vec::new()), std::slice::from_ref(&busy));
        let mut client = pair.client().await;
        client.send("GET /held HTTP/1.1\r\nhost: price\r\n\r\n").await;
        let mut app = second.accept().await;
        app.head().await;
        let first = first(&pair);
        pair.publish(3, pair.service(Vec::new()), &[first, busy]);
        Self { pair, second, _side: side, _held: (client, app) }
    }

    /// The second one gets the request, and its answer comes back.
    async fn goes_elsewhere(&self, client: &mut Raw) {
        let mut app = self.second.accept().await;
        let head = app.head().await;
        assert!(head.starts_with("POST / "), "{head}");
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(client.exactly(2).await, b"ok");
        let address = client.address().to_string();
        let line =
            log::line(&[("downstream.addr", &address), ("direction", "outbound"), ("attempts", "2")]).await;
        assert_eq!(line.get("reason"), None, "{line:?}");
    }

    /// It does not.
    async fn is_lost(&self, client: &mut Raw) {
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        let address = client.address().to_string();
        log::line(&[("downstream.addr", &address), ("direction", "outbound"), ("reason", "upstream_reset")])
            .await;
        assert!(!self.second.is_called().await);
    }
}

/// The first instance speaks HTTP/1 of the mesh by hand, and has a whole request of the client.
async fn by_hand() -> (Two, Raw, TlsStream<TcpStream>) {
    let server = Server::listen().await;
    let address = server.address();
    let two = Box::pin(Two::start(|pair| endpoint(address, &pair.authority, "price"))).await;
    let mut client = two.pair.client().await;
    client.send(CHUNKED).await;
    let authority = &two.pair.authority;
    let identity = authority.identity(authority.workload("demo", "price"));
    let acceptor = TlsAcceptor::from(mesh::server_config(&identity, &[ALPN_H1, ALPN_H2]));
    let stream = server.accept_stream().await;
    let mut stream = Box::pin(soon("a handshake", acceptor.accept(stream))).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"0\r\n\r\n") {
        assert!(soon("a request", stream.read_buf(&mut read)).await.unwrap() > 0);
    }
    (two, client, stream)
}

/// The application of the first instance, apart: it can end, and nobody listens in its place.
async fn replaced() -> (Two, Raw, Server) {
    let mut two = Box::pin(Two::start(Pair::endpoint)).await;
    let app = std::mem::replace(&mut two.pair.app, Server::listen().await);
    let client = two.pair.client().await;
    (two, client, app)
}

#[tokio::test]
async fn a_peer_that_closes_in_order_before_an_answer_has_begun_with_nothing() {
    let (two, mut client, mut peer) = by_hand().await;
    peer.shutdown().await.unwrap();
    two.goes_elsewhere(&mut client).await;
}

#[tokio::test]
async fn a_peer_whose_connection_breaks_may_have_begun() {
    let (two, mut client, peer) = by_hand().await;
    drop(peer);
    two.is_lost(&mut client).await;
}

#[tokio::test]
async fn a_peer_that_closes_in_order_within_its_answer_has_begun() {
    let (two, mut client, mut peer) = by_hand().await;
    peer.write_all(b"HTTP/1.1 2").await.unwrap();
    peer.shutdown().await.unwrap();
    two.is_lost(&mut client).await;
}

#[tokio::test]
async fn an_application_that_does_not_listen_has_seen_nothing() {
    let (two, mut client, app) = replaced().await;
    drop(app);
    client.send(POST).await;
    two.goes_elsewhere(&mut client).await;
}

#[tokio::test]
async fn an_application_that_ends_without_reading_may_have_read_as_far_as_anybody_knows() {
    let (two, mut client, app) = replaced().await;
    client.send(POST).await;
    let accepted = app.accept_stream().await;
    accepted.peek(&mut [0]).await.unwrap();
    drop(app);
    drop(accepted);
    two.is_lost(&mut client).await;
}

#[tokio::test]
async fn an_application_that_ends_may_have_acted_on_what_it_read() {
    let (two, mut client, app) = replaced().await;
    client.send(POST).await;
    let mut accepted = app.accept().await;
    accepted.head().await;
    drop(app);
    drop(accepted);
    two.is_lost(&mut client).await;
}

#[tokio::test]
async fn an_application_that_goes_on_may_have_reset_on_purpose() {
    let two = Two::start(Pair::endpoint).await;
    let mut client = two.pair.client().await;
    client.send(POST).await;
    let accepted = two.pair.app.accept_stream().await;
    accepted.peek(&mut [0]).await.unwrap();
    drop(accepted);
    two.is_lost(&mut client).await;
}

#[tokio::test]
async fn an_instance_whose_application_went_is_left_alone_before_any_other_has_answered() {
    let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
    let pair = Pair::with(&options).await;
    let app = Server::listen().await;
    let identity = pair.authority.identity(pair.authority.workload("demo", "price"));
    let side = Side::start(identity, &[app.address()], &options);
    let gone = endpoint(side.path.inbound()[0], &pair.authority, "price");
    pair.publish(2, pair.service(Vec::new()), std::slice::from_ref(&gone));
    let mut client = pair.client().await;
    client.send(POST).await;
    let mut connection = app.accept().await;
    connection.head().await;
    connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    // It was quick, of the other one nothing is known, and its application is there no more.
    drop(app);
    let outlier = Outlier { base_ejection: Duration::from_secs(60), ..Outlier::default() };
    let failures = outlier.consecutive_failures;
    pair.resilient(3, &[gone, pair.endpoint()], Resilience { outlier, ..Resilience::default() });
    let mut held = Vec::new();
    for _ in 0..failures + 3 {
        let mut client = pair.client().await;
        client.send(POST).await;
        let mut app = pair.app.accept().await;
        app.head().await;
        held.push((client, app));
    }
    assert_eq!(pair.front.metric("outrigger_retries_total"), f64::from(failures));
}
