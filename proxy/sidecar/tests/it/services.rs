//! Addresses of the own machine that lead to one service each.

use std::{io, net::SocketAddr, time::Duration};

use outrigger_core::model::AppProtocol;
use outrigger_proxy::{http::Limits, outbound::DiscoverError};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::support::{
    OK, Options, Pair, header,
    raw::{End, Raw, soon},
};

async fn pair(services: &[&'static str]) -> Pair {
    Pair::with(&Options { services: services.to_vec(), ..Options::default() }).await
}

fn address(pair: &Pair) -> SocketAddr {
    pair.front.path.services()[0]
}

fn refusals(pair: &Pair, reason: &str) -> f64 {
    let labels = format!("{{direction=\"outbound\",status=\"5xx\",reason=\"{reason}\"}}");
    pair.front.metric(&format!("outrigger_requests_total{labels}"))
}

/// Connects, and reads one byte. A reset may come at any moment, while the connection is being made too.
async fn first_byte(address: SocketAddr) -> io::Result<u8> {
    TcpStream::connect(address).await?.read_u8().await
}

#[tokio::test]
async fn an_address_leads_to_its_service_whatever_the_host_says() {
    let pair = pair(&["127.0.0.1:0=price", "127.0.0.1:0=price.demo.mesh:80", "[::1]:0=price.demo:80"]).await;
    for address in pair.front.path.services() {
        let mut client = Raw::connect(*address).await;
        let mut app = None;
        for host in ["localhost:9000", "shop.example", "nowhere.demo.mesh"] {
            client.send(format!("GET /a HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
            let app = match &mut app {
                Some(app) => app,
                None => app.insert(pair.app.accept().await),
            };
            let head = app.head().await;
            assert!(head.starts_with("GET /a HTTP/1.1\r\n"), "{head}");
            assert_eq!(header(&head, "host"), Some(host));
            app.send(OK).await;
            assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
            assert_eq!(client.exactly(2).await, b"ok");
        }
    }
}

#[tokio::test]
async fn it_is_no_proxy_for_anything_else() {
    let pair = pair(&["127.0.0.1:0=price"]).await;
    let mut client = Raw::connect(address(&pair)).await;
    client.send("CONNECT price:80 HTTP/1.1\r\nhost: price:80\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_is_reset_and_counted() {
    for (service, undiscovered, reason) in [
        ("127.0.0.1:0=other", DiscoverError::NotFound, "unknown_service"),
        // By its form it could be a name of the internet; it is not taken for one.
        ("127.0.0.1:0=example.org:443", DiscoverError::NotFound, "unknown_service"),
        ("127.0.0.1:0=price.demo.svc.elsewhere.org", DiscoverError::NotFound, "unknown_service"),
        ("127.0.0.1:0=price:81", DiscoverError::NotFound, "unknown_service"),
        ("127.0.0.1:0=other", DiscoverError::Timeout, "discovery_timeout"),
    ] {
        let options = Options { services: vec![service], undiscovered, ..Options::default() };
        let pair = Pair::with(&options).await;
        let ended = soon("the end", first_byte(address(&pair))).await.map_err(|error| error.kind());
        assert_eq!(ended, Err(io::ErrorKind::ConnectionReset), "{service}");
        assert_eq!(refusals(&pair, reason), 1.0, "{service}: {}", pair.front.metrics());
    }
}

#[tokio::test]
async fn where_it_has_to_be_found_out_http_is_carried() {
    let pair = pair(&["127.0.0.1:0=price"]).await;
    let mut service = pair.service(Vec::new());
    service.ports[0].protocol = AppProtocol::Detect;
    pair.publish(2, service, &[pair.endpoint()]);
    let mut client = Raw::connect(address(&pair)).await;
    let (seen, got) = pair.exchange(&mut client, "GET /a HTTP/1.1\r\nhost: price\r\n\r\n", OK).await;
    assert!(seen.starts_with("GET /a HTTP/1.1\r\n"), "{seen}");
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
}

#[tokio::test]
async fn a_client_that_waits_for_the_first_word_gets_it_after_the_detection_timeout_which_is_counted() {
    let limits = Limits { detect_timeout: Duration::from_millis(100), ..Limits::default() };
    let pair =
        Pair::with(&Options { limits, services: vec!["127.0.0.1:0=price"], ..Options::default() }).await;
    let mut service = pair.service(Vec::new());
    service.ports[0].protocol = AppProtocol::Detect;
    pair.publish(2, service, &[pair.endpoint()]);
    let mut client = Raw::connect(address(&pair)).await;
    let mut app = pair.app.accept().await;
    app.send("220 ready\r\n\r\n").await;
    assert_eq!(client.head().await, "220 ready\r\n\r\n");
    assert_eq!(pair.front.metric("outrigger_detection_timeouts_total{direction=\"outbound\"}"), 1.0);
    client.send("QUIT\r\n\r\n").await;
    assert_eq!(app.head().await, "QUIT\r\n\r\n");
    drop(app);
    assert_eq!(client.rest().await.1, End::Clean);
}
