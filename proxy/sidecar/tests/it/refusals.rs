//! Requests that go nowhere, each with the reason in the log.

use std::time::Duration;

use outrigger_core::model::{AppProtocol, ExternalTraffic};
use outrigger_proxy::{
    data_path::{DataPath, DataPathHandles, DataPathSettings, StartError},
    http::Limits,
    outbound::DiscoverError,
};

use crate::support::{
    GET, Options, Pair, Side, header, log,
    raw::{End, Raw},
};

/// Sends `request` and expects `status` and `reason`; whether the connection is closed after it.
async fn refused(pair: &Pair, request: &str, status: u16, reason: &str) -> bool {
    let mut client = pair.client().await;
    refused_for(&mut client, request, status, reason).await
}

/// The same of a connection that is open already, for what is sent there next.
async fn refused_for(client: &mut Raw, request: &str, status: u16, reason: &str) -> bool {
    client.send(request).await;
    let head = client.head().await;
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {head}");
    let address = client.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("status", &status.to_string())]).await;
    assert_eq!(line.get("reason").map(String::as_str), Some(reason), "{request:?}");
    if let Some(length) = header(&head, "content-length") {
        let body = client.exactly(length.parse().unwrap()).await;
        assert_eq!(line.get("bytes").map_or("0", String::as_str), body.len().to_string(), "{request:?}");
        assert!(body.is_empty() || String::from_utf8(body).unwrap().contains(reason), "{request:?}");
    }
    header(&head, "connection") == Some("close") && client.rest().await.1 == End::Clean
}

#[tokio::test]
async fn framing_that_can_be_understood_in_two_ways_is_refused_and_the_connection_closed() {
    let pair = Pair::start().await;
    for headers in [
        "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        "content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        "content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        "content-length: 3, 3\r\n\r\nabc",
        "content-length: +3\r\n\r\nabc",
        "content-length: -1\r\n\r\n",
        "content-length: 99999999999999999999\r\n\r\n",
        "transfer-encoding: chunked, gzip\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        " folded: value\r\n\r\n",
        "no-colon\r\n\r\n",
        "na\0me: value\r\n\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: price\r\n{headers}");
        assert!(refused(&pair, &request, 400, "bad_request").await, "{headers:?}");
    }
    assert!(!pair.app.is_called().await, "something reached the application");
}

#[tokio::test]
async fn a_request_hidden_behind_another_one_is_refused_with_it() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client
        .send("GET / HTTP/1.1\r\nhost: price\r\n\r\nPOST /hidden HTTP/1.1\r\nhost: price\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 400 "));
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn codings_and_versions_that_are_not_carried_are_refused() {
    let pair = Pair::start().await;
    let gzip = "POST / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    refused(&pair, gzip, 501, "unsupported_protocol").await;
    refused(&pair, "GET https://price/ HTTP/1.1\r\nhost: price\r\n\r\n", 501, "unsupported_protocol").await;
    refused(&pair, "GET / HTTP/3.0\r\nhost: price\r\n\r\n", 400, "bad_request").await;
    refused(
        &pair,
        "POST / HTTP/1.0\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "bad_request",
    )
    .await;
}

#[tokio::test]
async fn a_body_whose_framing_is_malformed_is_refused_and_the_connection_closed() {
    let pair = Pair::start().await;
    for body in [
        "zz\r\nhello",
        "\r\nhello",
        "fffffffffffffffff\r\nhello",
        "5\r\nhelloworld",
        "5;a\rb\r\nhello\r\n",
        "0\r\nna me: value\r\n\r\n",
    ] {
        let request = format!("POST /a HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        assert!(refused(&pair, &request, 400, "bad_request").await, "{body:?}");
    }
}

#[tokio::test]
async fn a_chunk_that_is_malformed_aborts_what_was_sent_of_the_request() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("POST /a HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let mut app = pair.app.accept().await;
    app.until("hello\r\n").await;
    assert!(refused_for(&mut client, "zz\r\nhello", 400, "bad_request").await);
    // Over, and never whole; the next request finds another connection.
    assert!(app.rest().await.0.is_empty());
    let mut client = pair.client().await;
    client.send("GET /next HTTP/1.1\r\nhost: price\r\n\r\n").await;
    assert!(pair.app.accept().await.head().await.starts_with("GET /next "));
}

#[tokio::test]
async fn a_chunk_that_is_malformed_after_the_response_began_cuts_it_short_for_that_reason() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("POST /a HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let mut app = pair.app.accept().await;
    app.until("hello\r\n").await;
    app.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
    client.until("1\r\na\r\n").await;
    client.send("zz\r\nhello").await;
    assert_eq!(client.rest().await.1, End::Reset);
    assert!(app.rest().await.0.is_empty());
    let address = client.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("status", "200")]).await;
    assert_eq!(line.get("reason").map(String::as_str), Some("bad_request"));
}

#[tokio::test]
async fn an_upgrade_to_http2_is_ignored() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let request = "GET / HTTP/1.1\r\nhost: price\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (seen, got) = pair.exchange(&mut client, request, answer).await;
    for gone in ["connection", "upgrade", "http2-settings"] {
        assert_eq!(header(&seen, gone), None, "{seen}");
    }
    assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
}

#[tokio::test]
async fn a_request_has_exactly_one_host() {
    let pair = Pair::start().await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: price\r\nhost: price\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: \r\n\r\n",
        "GET / HTTP/1.1\r\nhost: price:port\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a@price\r\n\r\n",
        "GET http://user:secret@price/ HTTP/1.1\r\nhost: price\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: price.demo.extra.mesh\r\n\r\n",
        "CONNECT price HTTP/1.1\r\nhost: price\r\n\r\n",
    ] {
        let mut client = pair.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(head.contains(" 400 Bad Request"), "{request:?}: {head}");
    }
}

#[tokio::test]
async fn heads_are_limited_in_bytes_fields_and_time() {
    let limits = Limits { head_timeout: Duration::from_millis(100), ..Limits::default() };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let long = format!("GET / HTTP/1.1\r\nhost: price\r\nx: {}\r\n\r\n", "a".repeat(66_000));
    refused(&pair, &long, 431, "head_too_large").await;
    let many = format!("GET / HTTP/1.1\r\nhost: price\r\n{}\r\n", "x: y\r\n".repeat(101));
    refused(&pair, &many, 431, "head_too_large").await;
    // Never ends, and is as long as the limit.
    refused(&pair, &long[..long.len() - 4], 431, "head_too_large").await;
    refused(&pair, "GET / HTTP/1.1\r\nhost: pri", 408, "header_timeout").await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let limits = Limits {
        head_timeout: Duration::from_secs(3600),
        idle_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let mut idle = pair.client().await;
    assert_eq!(idle.rest().await, (Vec::new(), End::Clean));
    let (mut busy, mut app) = pair.asked(GET).await;
    // Longer than the timeout, told by another connection that met it.
    assert_eq!(pair.client().await.rest().await.1, End::Clean);
    assert_eq!(pair.client().await.rest().await.1, End::Clean);
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert!(busy.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(busy.rest().await, (Vec::new(), End::Clean));
}

#[tokio::test]
async fn what_the_configuration_does_not_hold_is_refused_with_the_reason() {
    let pair = Pair::start().await;
    refused(&pair, "GET / HTTP/1.1\r\nhost: nobody\r\n\r\n", 503, "unknown_service").await;
    refused(&pair, "GET / HTTP/1.1\r\nhost: price:81\r\n\r\n", 503, "unknown_service").await;
    pair.publish(2, pair.service(Vec::new()), &[]);
    refused(&pair, "GET / HTTP/1.1\r\nhost: price\r\n\r\n", 503, "no_endpoint").await;
    let mut service = pair.service(Vec::new());
    service.ports[0].protocol = AppProtocol::Tcp;
    pair.publish(3, service, &[pair.endpoint()]);
    refused(&pair, "GET / HTTP/1.1\r\nhost: price\r\n\r\n", 501, "unsupported_protocol").await;
    pair.front.snapshot.publish(outrigger_proxy::snapshot::Snapshot::default());
    refused(&pair, "GET / HTTP/1.1\r\nhost: price\r\n\r\n", 503, "not_ready").await;
}

#[tokio::test]
async fn a_control_plane_that_does_not_answer_is_never_passed_by() {
    let pair = Pair::with(&Options { undiscovered: DiscoverError::Timeout, ..Options::default() }).await;
    pair.publish_with(1, pair.service(Vec::new()), &[], |config| {
        config.external_traffic = ExternalTraffic::Connect443;
    });
    for host in ["shop", "shop.demo", "shop.demo.mesh"] {
        let request = format!("CONNECT {host}:443 HTTP/1.1\r\nhost: {host}\r\n\r\n");
        refused(&pair, &request, 503, "discovery_timeout").await;
    }
}

#[tokio::test]
async fn it_is_no_open_proxy() {
    let pair = Pair::start().await;
    let denied = [
        "GET http://example.org/ HTTP/1.1\r\nhost: example.org\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: www.example.org\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n\r\n",
        "CONNECT www.example.org:443 HTTP/1.1\r\nhost: www.example.org\r\n\r\n",
        "CONNECT 1.1.1.1:443 HTTP/1.1\r\nhost: 1.1.1.1\r\n\r\n",
    ];
    for request in denied {
        refused(&pair, request, 403, "external_denied").await;
    }
    pair.publish_with(2, pair.service(Vec::new()), &[], |config| {
        config.external_traffic = ExternalTraffic::Connect443;
    });
    let still_denied = [
        "GET http://www.example.org/ HTTP/1.1\r\nhost: www.example.org\r\n\r\n",
        "CONNECT www.example.org:80 HTTP/1.1\r\nhost: www.example.org\r\n\r\n",
        "CONNECT 1.1.1.1:22 HTTP/1.1\r\nhost: 1.1.1.1\r\n\r\n",
        "CONNECT localhost:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "CONNECT 127.0.0.1:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "CONNECT [::1]:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "CONNECT [::ffff:127.0.0.1]:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "CONNECT 0.0.0.0:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "CONNECT 169.254.169.254:443 HTTP/1.1\r\nhost: metadata\r\n\r\n",
        "CONNECT 10.0.0.1:443 HTTP/1.1\r\nhost: inside\r\n\r\n",
    ];
    for request in still_denied {
        refused(&pair, request, 403, "external_denied").await;
    }
}

#[tokio::test]
async fn a_request_that_comes_back_is_a_loop() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let get = "GET / HTTP/1.1\r\nhost: price\r\n";
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (seen, _) = pair.exchange(&mut client, &format!("{get}\r\n"), ok).await;
    let hop = header(&seen, "outrigger-hop").unwrap();
    refused(&pair, &format!("{get}outrigger-hop: {hop}\r\n\r\n"), 508, "loop_detected").await;
    // Another proxy's is nothing to this one.
    let mut client = pair.client().await;
    client.send(format!("{get}outrigger-hop: 0000000000000000\r\n\r\n")).await;
    let mut app = pair.app.accept().await;
    assert_eq!(header(&app.head().await, "outrigger-hop"), Some(hop));
}

#[tokio::test]
async fn inside_a_connect_there_is_no_second_one() {
    let pair = Pair::start().await;
    let connect = "CONNECT price:80 HTTP/1.1\r\nhost: price:80\r\n\r\n";
    let mut client = pair.client().await;
    client.send(connect).await;
    client.head().await;
    client.send("CONNECT price:80 HTTP/1.1\r\nhost: price:80\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn listeners_that_would_open_the_proxy_or_run_in_a_circle_are_refused_at_the_start() {
    let pair = Pair::start().await;
    let handles = || DataPathHandles {
        identity: pair.front.identity.clone(),
        snapshot: pair.front.snapshot.clone(),
        discover: std::sync::Arc::new(Never),
        telemetry: pair.front.telemetry.clone(),
    };
    let mut settings = DataPathSettings {
        workers: std::num::NonZeroU16::MIN,
        outbound: "0.0.0.0:0".parse().unwrap(),
        services: Vec::new(),
        inbound: Vec::new(),
        limits: Limits::default(),
        overload: outrigger_proxy::settings::Overload::default(),
        never_dialled: Vec::new(),
    };
    assert!(matches!(DataPath::start(&settings, handles()), Err(StartError::NotLoopback { .. })));
    settings.outbound = "127.0.0.1:0".parse().unwrap();
    settings.services = vec!["0.0.0.0:0=price".parse().unwrap()];
    let error = DataPath::start(&settings, handles()).unwrap_err().to_string();
    assert!(error.starts_with("outbound.services: 0.0.0.0:0 has to be a loopback address"), "{error}");
    settings.services.clear();
    settings.outbound = pair.front.path.outbound();
    let error = DataPath::start(&settings, handles()).unwrap_err();
    assert!(matches!(error, StartError::Listen { setting: "outbound.listen", .. }), "{error}");
    assert!(error.to_string().contains("Write port 0 for any free one"), "{error}");
    let free = Side::start(pair.front.identity.clone(), &[], &Options::default());
    settings.outbound = free.path.outbound();
    drop(free);
    settings.inbound = vec![
        format!("127.0.0.1:0={}", settings.outbound).parse::<outrigger_proxy::settings::Inbound>().unwrap(),
    ];
    let circle = loop {
        // The port of the data path that was just dropped is free as soon as its thread is gone.
        match DataPath::start(&settings, handles()) {
            Err(StartError::Listen { .. }) => tokio::task::yield_now().await,
            started => break started,
        }
    };
    assert!(matches!(circle, Err(StartError::OwnListener(_))));
}

#[derive(Debug)]
struct Never;

impl outrigger_proxy::outbound::Discover for Never {
    fn resolve<'a>(
        &'a self,
        _service: &'a outrigger_core::model::ServiceName,
        _timeout: Duration,
    ) -> outrigger_proxy::outbound::Resolving<'a> {
        Box::pin(async { Err(DiscoverError::NotFound) })
    }

    fn touch(&self, _service: &outrigger_core::model::ServiceName) {}
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_in_the_kernel() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let first = pair.client().await;
    let mut second: Raw = pair.client().await;
    second.send("GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").await;
    drop(first);
    assert!(second.head().await.starts_with("HTTP/1.1 503 "));
}
