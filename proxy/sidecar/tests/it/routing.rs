//! Where requests go, and for how long they may take.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use outrigger_core::model::{
    HeaderMutation, Health, HttpFilter, HttpMatch, PathMatch, RouteRule, WeightedBackend,
};
use tokio::net::TcpListener;

use crate::support::{GET, Options, Pair, Side, endpoint, header, log, raw::Server};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

pub(crate) fn rule(path: &str) -> RouteRule {
    RouteRule {
        name: Arc::from("demo/to-price#0"),
        condition: HttpMatch { path: Some(PathMatch::Prefix(path.to_owned())), ..HttpMatch::default() },
        filters: Vec::new(),
        backends: vec![WeightedBackend {
            service: "demo/price".parse().unwrap(),
            port: 80,
            weight: 1,
            endpoint_set: Arc::from("demo/price:80"),
        }],
        request_timeout: None,
    }
}

fn header_edit(name: &'static str, value: &'static str) -> HeaderMutation {
    HeaderMutation {
        set: vec![(HeaderName::from_static(name), HeaderValue::from_static(value))],
        ..HeaderMutation::default()
    }
}

#[tokio::test]
async fn the_rule_that_covers_a_request_decides_and_none_is_a_404() {
    let pair = Pair::start().await;
    let mut covered = rule("/v1");
    covered.filters = vec![
        HttpFilter::RequestHeaders(header_edit("x-version", "1")),
        HttpFilter::RequestHeaders(header_edit("content-length", "7")),
        HttpFilter::ResponseHeaders(header_edit("x-answered", "yes")),
    ];
    pair.publish(2, pair.service(vec![covered]), &[pair.endpoint()]);
    let mut client = pair.client().await;
    let request = "POST /v1/x HTTP/1.1\r\nhost: price\r\nx-request-id: routed\r\ncontent-length: 2\r\n\r\nab";
    let (seen, got) = pair.exchange(&mut client, request, OK).await;
    assert_eq!(header(&seen, "x-version"), Some("1"));
    assert_eq!(header(&seen, "content-length"), Some("2"));
    assert_eq!(header(&got, "x-answered"), Some("yes"));
    let line = log::line(&[("request_id", "routed"), ("direction", "outbound")]).await;
    assert_eq!((line["route"].as_str(), line["generation"].as_str()), ("demo/to-price#0", "2"));
    let metric = "outrigger_edge_requests_total{destination=\"demo/price\",port=\"80\",rule=\"demo/to-price#0\",class=\"request\"}";
    assert_eq!(pair.front.metric(metric), 1.0, "{}", pair.front.metrics());
    client.send("GET /v2 HTTP/1.1\r\nhost: price\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 404 "));
    let address = client.address().to_string();
    log::line(&[("downstream.addr", &address), ("reason", "no_route")]).await;
}

#[tokio::test]
async fn a_swap_takes_effect_with_the_next_request_of_an_open_connection_and_keeps_what_is_in_flight() {
    let pair = Pair::start().await;
    let (mut client, mut app) =
        pair.asked("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: before\r\n\r\n").await;
    let state = pair.front.states.of(&pair.endpoint());
    assert_eq!(state.in_flight(), 1);
    pair.publish(2, pair.service(Vec::new()), &[pair.endpoint()]);
    assert!(Arc::ptr_eq(&state, &pair.front.states.of(&pair.endpoint())));
    assert_eq!(state.in_flight(), 1);
    app.send(OK).await;
    client.head().await;
    assert_eq!(log::line(&[("request_id", "before"), ("direction", "outbound")]).await["generation"], "1");
    assert_eq!(state.in_flight(), 0);
    client.send("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: after\r\n\r\n").await;
    app.head().await;
    app.send(OK).await;
    client.head().await;
    assert_eq!(log::line(&[("request_id", "after"), ("direction", "outbound")]).await["generation"], "2");
}

#[tokio::test]
async fn of_two_instances_the_one_with_less_in_flight_is_taken() {
    let pair = Pair::start().await;
    let other_app = Server::listen().await;
    let identity = pair.authority.identity(pair.authority.workload("demo", "price"));
    let other = Side::start(identity, &[other_app.address()], &Options::default());
    let second = endpoint(other.path.inbound()[0], &pair.authority, "price");
    pair.publish(2, pair.service(Vec::new()), &[pair.endpoint(), second.clone()]);
    // Held open one after the other: each goes where less is in flight.
    let (mut clients, mut apps) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let mut client = pair.client().await;
        client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
        let mut app = tokio::select! {
            app = pair.app.accept() => app,
            app = other_app.accept() => app,
        };
        app.head().await;
        clients.push(client);
        apps.push(app);
    }
    assert_eq!(pair.front.states.of(&pair.endpoint()).in_flight(), 5);
    assert_eq!(pair.front.states.of(&second).in_flight(), 5);
    let mut draining = pair.endpoint();
    draining.health = Health::Draining;
    pair.publish(3, pair.service(Vec::new()), &[draining, second.clone()]);
    for _ in 0..4 {
        let mut client = pair.client().await;
        client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
        let mut app = other_app.accept().await;
        app.head().await;
        clients.push(client);
        apps.push(app);
    }
    assert_eq!(pair.front.states.of(&second).in_flight(), 9);
}

#[tokio::test]
async fn a_request_that_takes_longer_than_its_timeout_is_a_504_and_aborted() {
    let pair = Pair::start().await;
    let mut limited = rule("/");
    limited.request_timeout = Some(Duration::from_millis(100));
    pair.publish(2, pair.service(vec![limited]), &[pair.endpoint()]);
    let (mut client, mut app) = pair.asked(GET).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    app.rest().await;
    let address = client.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("reason", "request_timeout")]).await;
    // What came without figures is never charged to the network.
    assert!(line["phases_us"].contains("upstream=") && !line["phases_us"].contains("network="), "{line:?}");
    // The connection goes on.
    client.exactly(header(&head, "content-length").unwrap().parse().unwrap()).await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn the_mesh_s_timeout_holds_where_a_rule_has_none_and_zero_means_none() {
    let pair = Pair::start().await;
    let mut unlimited = rule("/slow");
    unlimited.request_timeout = Some(Duration::ZERO);
    pair.publish_with(2, pair.service(vec![unlimited, rule("/")]), &[pair.endpoint()], |config| {
        config.request_timeout = Some(Duration::from_millis(100));
    });
    let (mut slow, mut slow_app) = pair.asked("GET /slow HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut quick = pair.client().await;
    quick.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    assert!(quick.head().await.starts_with("HTTP/1.1 504 "));
    slow_app.send(OK).await;
    assert!(slow.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_peer_that_takes_the_connection_and_says_nothing_is_given_up() {
    let pair = Pair::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf = endpoint(silent.local_addr().unwrap(), &pair.authority, "price");
    pair.publish_with(2, pair.service(Vec::new()), &[deaf], |config| {
        config.connect_timeout = Duration::from_millis(100);
    });
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    let address = client.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("reason", "connect_timeout")]).await;
    assert!(line["phases_us"].contains("connect=1"), "{line:?}");
}

#[tokio::test]
async fn a_service_without_its_own_sidecar_is_not_called_in_plain_text() {
    let pair = Pair::start().await;
    let plain = Server::listen().await;
    pair.publish(2, pair.service(Vec::new()), &[endpoint(plain.address(), &pair.authority, "price")]);
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut app = plain.accept().await;
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (seen, _) = app.rest().await;
    assert!(!String::from_utf8_lossy(&seen).contains("GET"));
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
}
