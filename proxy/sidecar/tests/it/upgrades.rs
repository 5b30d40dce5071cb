//! Connections that leave HTTP in the middle, through both sidecars.

use std::time::Duration;

use outrigger_core::model::{Resilience, Timeouts};
use outrigger_proxy::{http::Limits, settings::InboundProtocol};
use outrigger_tls::testing::Authority;

use crate::support::{
    OK, Options, Pair, TRUST_DOMAIN, header, log,
    raw::{End, Raw},
};

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: price\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";

async fn with(limits: Limits) -> Pair {
    Pair::with(&Options { limits, protocol: InboundProtocol::Http1, ..Options::default() }).await
}

/// A connection that left HTTP, and its end at the application.
async fn switched(pair: &Pair) -> (Raw, Raw) {
    let mut client = pair.client().await;
    client.send(ASK).await;
    let mut app = pair.app.accept().await;
    let head = app.head().await;
    assert_eq!(
        (header(&head, "upgrade"), header(&head, "sec-websocket-version")),
        (Some("websocket"), Some("13"))
    );
    app.send(AGREED).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert_eq!((header(&head, "upgrade"), header(&head, "connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!(header(&head, "sec-websocket-accept"), Some("x"));
    (client, app)
}

async fn ended(client: &Raw, reason: Option<&str>) -> log::Line {
    let address = client.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("direction", "outbound")]).await;
    assert_eq!(line.get("reason").map(String::as_str), reason);
    assert_eq!((line["class"].as_str(), line["status"].as_str()), ("upgrade", "101"));
    line
}

#[tokio::test]
async fn what_follows_an_upgrade_crosses_in_both_directions_byte_for_byte() {
    let pair = with(Limits::default()).await;
    let (mut client, mut app) = switched(&pair).await;
    let big: Vec<u8> = (0..1_000_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    for _ in 0..3 {
        let (there, back) = tokio::join!(
            async {
                client.send(&big).await;
                client.exactly(big.len()).await
            },
            async {
                let seen = app.exactly(big.len()).await;
                app.send(&seen).await;
                seen
            }
        );
        assert!(there == big && back == big);
    }
    // Each half by itself.
    client.half_close().await;
    assert_eq!(app.rest().await, (Vec::new(), End::Clean));
    app.send("the last word").await;
    drop(app);
    assert_eq!(client.rest().await, (b"the last word".to_vec(), End::Clean));
    let line = ended(&client, None).await;
    assert_eq!((line["received"].as_str(), line["bytes"].as_str()), ("3000000", "3000013"));
}

#[tokio::test]
async fn the_application_may_close_its_half_first() {
    let pair = with(Limits::default()).await;
    let (mut client, mut app) = switched(&pair).await;
    app.send("all I have").await;
    app.half_close().await;
    assert_eq!(client.rest().await, (b"all I have".to_vec(), End::Clean));
    client.send("but I do not").await;
    client.half_close().await;
    assert_eq!(app.rest().await, (b"but I do not".to_vec(), End::Clean));
    ended(&client, None).await;
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_a_usual_answer_and_the_connection_goes_on() {
    let pair = with(Limits::default()).await;
    let (mut client, mut app) = pair.asked(ASK).await;
    app.send("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    assert_eq!(client.exactly(2).await, b"no");
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
        assert!(pair.next_head(&mut app).await.starts_with("GET / "));
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        client.exactly(2).await;
    }
}

#[tokio::test]
async fn an_application_that_switches_to_something_else_is_not_believed() {
    let pair = with(Limits::default()).await;
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: telnet\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n",
    ] {
        let (mut client, mut app) = pair.asked(ASK).await;
        app.send(answer).await;
        assert!(client.head().await.starts_with("HTTP/1.1 502 "), "{answer:?}");
        app.rest().await;
    }
}

#[tokio::test]
async fn a_side_that_is_reset_is_a_reset_for_the_other_one() {
    let pair = with(Limits::default()).await;
    let (client, mut app) = switched(&pair).await;
    client.reset();
    assert_eq!(app.rest().await.1, End::Reset);
    let (mut client, app) = switched(&pair).await;
    app.reset();
    assert_eq!(client.rest().await.1, End::Reset);
    ended(&client, Some("upstream_reset")).await;
}

#[tokio::test]
async fn one_on_which_nothing_moves_is_ended_when_its_time_is_over() {
    let pair = with(Limits::default()).await;
    let timeouts = Timeouts { idle: Some(Duration::from_millis(200)), ..Timeouts::default() };
    pair.resilient(2, &[pair.endpoint()], Resilience { timeouts, ..Resilience::default() });
    let (mut client, mut app) = switched(&pair).await;
    assert_eq!(client.rest().await.1, End::Reset);
    assert_eq!(app.rest().await.1, End::Reset);
    ended(&client, Some("idle_timeout")).await;
}

#[tokio::test]
async fn one_whose_peer_is_no_longer_believed_is_cut() {
    let limits =
        Limits { distrust_spread: Duration::ZERO, distrust_grace: Duration::ZERO, ..Limits::default() };
    // By either side.
    for side in ["front", "price"] {
        let pair = with(limits.clone()).await;
        let (mut client, mut app) = switched(&pair).await;
        let next = Authority::new(TRUST_DOMAIN);
        let distrusting = if side == "front" { &pair.front } else { &pair.price };
        distrusting.identity.set_bundle(next.bundle());
        assert_eq!(client.rest().await.1, End::Reset, "{side}");
        assert_eq!(app.rest().await.1, End::Reset, "{side}");
    }
}

#[tokio::test]
async fn an_upgrade_is_no_way_around_the_limits() {
    let pair = with(Limits::default()).await;
    let limits = outrigger_core::model::TrafficLimits { requests: 1, ..Default::default() };
    pair.resilient(2, &[pair.endpoint()], Resilience { limits, ..Resilience::default() });
    let (client, app) = switched(&pair).await;
    let mut second = pair.client().await;
    second.send(ASK).await;
    assert!(second.head().await.starts_with("HTTP/1.1 503 "));
    let address = second.address().to_string();
    log::line(&[("downstream.addr", &address), ("reason", "request_limit")]).await;
    drop((client, app));
}
