//! The leg between two sidecars, which many requests share: each row of what must arrive as it was sent, and what one
//! request may not do to another one.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use outrigger_core::model::{AppProtocol, Endpoint, Resilience, Retry, Timeouts, TrafficLimits};
use outrigger_proxy::{http::Limits, settings::InboundProtocol};
use tokio::net::TcpListener;

use crate::support::{
    GET, OK, Options, Pair, Side, endpoint, header, log,
    raw::{Raw, soon},
    streams::{App, get, piece, post, whole},
};

pub(crate) const OPENED: &str = "outrigger_upstream_connections_opened_total{direction=\"outbound\"}";

pub(crate) async fn with(limits: Limits) -> Pair {
    Pair::with(&Options { limits, protocol: InboundProtocol::Http1, ..Options::default() }).await
}

pub(crate) async fn pair() -> Pair {
    with(Limits::default()).await
}

/// One exchange that nothing stands in the way of.
pub(crate) async fn exchange(pair: &Pair, client: &mut Raw, app: &mut Option<Raw>) {
    client.send(GET).await;
    let app = match app {
        Some(app) => {
            pair.next_head(app).await;
            app
        }
        None => {
            let app = app.insert(pair.app.accept().await);
            app.head().await;
            app
        }
    };
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    client.exactly(2).await;
}

#[tokio::test]
async fn the_version_of_the_caller_decides_what_an_application_is_spoken_to_and_is_not_told_to_it() {
    let pair = Pair::start().await;
    for version in ["1.0", "1.1"] {
        let mut client = pair.client().await;
        client.send(format!("GET / HTTP/{version}\r\nhost: price\r\n\r\n")).await;
        let mut app = pair.app.accept().await;
        let head = app.head().await;
        assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "outrigger-version"), None);
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        assert!(client.head().await.starts_with(&format!("HTTP/{version} 200 OK\r\n")));
    }
    let mut client = pair.streams().await;
    let sent = client.send(get("/"), true).await;
    let mut app = App::accept(&pair.app).await;
    let call = app.call().await;
    assert_eq!(call.request.version(), http::Version::HTTP_2);
    assert_eq!(call.request.headers().get("outrigger-version"), None);
    call.ok("ok");
    assert_eq!(sent.answer().await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_a_service_declares_decides_before_the_version_of_the_caller() {
    let pair = Pair::start().await;
    let mut service = pair.service(Vec::new());
    service.ports[0].protocol = AppProtocol::Http1;
    pair.publish(2, service, &[pair.endpoint()]);
    let mut client = pair.streams().await;
    let mut request = get("/");
    request.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
    request.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
    let sent = client.send(request, true).await;
    let mut app = pair.app.accept().await;
    let head = app.head().await;
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "cookie"), Some("a=1; b=2"));
    app.send(OK).await;
    assert_eq!(sent.answer().await.unwrap().status(), 200);

    let pair = Pair::start().await;
    let mut service = pair.service(Vec::new());
    service.ports[0].protocol = AppProtocol::Http2;
    pair.publish(2, service, &[pair.endpoint()]);
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut app = App::accept(&pair.app).await;
    app.call().await.ok("ok");
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_host_arrives_byte_for_byte() {
    let pair = pair().await;
    let mut client = pair.client().await;
    let mut app = None;
    for host in ["price", "PrIcE", "price:80", "Price.Demo:80", "price.demo.svc.cluster.local"] {
        for (method, body) in [("GET", "\r\n"), ("PUT", "transfer-encoding: chunked\r\n\r\n0\r\n\r\n")] {
            client.send(format!("{method} / HTTP/1.1\r\nHost: {host}\r\n{body}")).await;
            let head = match &mut app {
                Some(app) => pair.next_head(app).await,
                None => app.insert(pair.app.accept().await).head().await,
            };
            let app = app.as_mut().unwrap();
            assert_eq!(header(&head, "host"), Some(host), "{method} {host}");
            if method == "PUT" {
                app.until("0\r\n\r\n").await;
            }
            app.send(OK).await;
            assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
            client.exactly(2).await;
        }
    }
    let pair = Pair::with(&Options { protocol: InboundProtocol::Http2, ..Options::default() }).await;
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nHost: PrIcE:80\r\n\r\n").await;
    let call = App::accept(&pair.app).await.call().await;
    assert_eq!(call.request.uri().authority().unwrap().as_str(), "PrIcE:80");
    assert_eq!(call.request.headers().get("host"), None);
}

#[tokio::test]
async fn trailers_cross_it_in_both_directions() {
    let pair = Pair::start().await;
    let mut client = pair.streams().await;
    let mut request = post("/");
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let mut sent = client.send(request, false).await;
    sent.body.send_data(Bytes::from_static(b"ab"), false).unwrap();
    sent.body
        .send_trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("x-sum"),
            HeaderValue::from_static("1"),
        )]))
        .unwrap();
    let mut app = App::accept(&pair.app).await;
    let mut call = app.call().await;
    assert_eq!(call.request.headers()["te"], "trailers");
    assert_eq!(piece(call.request.body_mut()).await.unwrap().unwrap(), "ab");
    assert!(piece(call.request.body_mut()).await.is_none());
    assert_eq!(call.request.body_mut().trailers().await.unwrap().unwrap()["x-sum"], "1");
    let mut body = call.answer(200, false);
    body.send_data(Bytes::from_static(b"cd"), false).unwrap();
    body.send_trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("x-end"),
        HeaderValue::from_static("2"),
    )]))
    .unwrap();
    let (_, stream) = sent.response.await.unwrap().into_parts();
    let (body, trailers) = whole(stream).await.unwrap();
    assert_eq!((body.as_slice(), &trailers.unwrap()["x-end"]), (&b"cd"[..], &HeaderValue::from_static("2")));
}

#[tokio::test]
async fn answers_without_a_body_have_none_for_an_http2_client_either() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut app = None;
    for (method, answer, status, length) in [
        ("HEAD", "200 OK\r\ncontent-length: 1234\r\n\r\n", 200, Some("1234")),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 200, None),
        ("GET", "204 No Content\r\n\r\n", 204, None),
        ("GET", "304 Not Modified\r\netag: \"1\"\r\n\r\n", 304, None),
        ("GET", "200 OK\r\ncontent-length: 0\r\n\r\n", 200, Some("0")),
    ] {
        let request = Request::builder().method(method).uri("http://price/").body(()).unwrap();
        let sent = client.send(request, true).await;
        match &mut app {
            Some(app) => pair.next_head(app).await,
            None => app.insert(pair.app.accept().await).head().await,
        };
        app.as_mut().unwrap().send(format!("HTTP/1.1 {answer}")).await;
        let got = sent.answer().await.unwrap();
        assert_eq!((got.status(), got.body.len()), (status, 0), "{method} {answer}");
        assert_eq!(got.header("content-length"), length, "{method} {answer}");
    }
}

#[tokio::test]
async fn an_answer_of_the_proxys_own_to_a_head_has_no_body() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    for uri in ["http://nobody/", "http://example.org/"] {
        let request = Request::head(uri).body(()).unwrap();
        let answer = client.send(request, true).await.answer().await.unwrap();
        assert!(matches!(answer.status(), 503 | 403), "{uri}");
        assert_eq!(answer.body, b"", "{uri}");
    }
    // And one of the other sidecar's.
    drop(pair.app);
    let request = Request::head("http://price/").body(()).unwrap();
    let answer = client.send(request, true).await.answer().await.unwrap();
    assert_eq!((answer.status(), answer.body.len()), (503, 0));
}

#[tokio::test]
async fn what_cannot_be_said_on_a_shared_connection_has_one_of_its_own() {
    let long = "x".repeat(64 * 1024 + 1);
    let full = "x".repeat(64 * 1024);
    for (what, head, body, connections) in [
        ("no body", "GET / HTTP/1.1\r\n", "\r\n".to_owned(), 1.0),
        ("a short body", "PUT / HTTP/1.1\r\n", format!("content-length: 65536\r\n\r\n{full}"), 1.0),
        ("a long body", "PUT / HTTP/1.1\r\n", format!("content-length: 65537\r\n\r\n{long}"), 2.0),
        (
            "a body of unknown length",
            "PUT / HTTP/1.1\r\n",
            "transfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            2.0,
        ),
        (
            "a question first",
            "PUT / HTTP/1.1\r\n",
            "expect: 100-continue\r\ncontent-length: 2\r\n\r\nab".to_owned(),
            2.0,
        ),
        ("an upgrade", "GET / HTTP/1.1\r\n", "connection: upgrade\r\nupgrade: chat\r\n\r\n".to_owned(), 2.0),
    ] {
        let pair = pair().await;
        let mut app = None;
        exchange(&pair, &mut pair.client().await, &mut app).await;
        let mut client = pair.client().await;
        client.send(format!("{head}host: price\r\n{body}")).await;
        let mut app = app.unwrap();
        pair.next_head(&mut app).await;
        app.send(OK).await;
        assert!(client.head().await.contains(" 200 OK\r\n"), "{what}");
        assert_eq!(pair.front.metric(OPENED), connections, "{what}");
    }
}

#[tokio::test]
async fn a_cookie_in_pieces_is_one_for_http1_and_stays_as_it_is_otherwise() {
    let mut request = get("/");
    for piece in ["a=1", "b=2", "c=3"] {
        request.headers_mut().append("cookie", HeaderValue::from_static(piece));
    }
    let pair = pair().await;
    let mut client = pair.streams().await;
    let sent = client.send(request.clone(), true).await;
    let mut app = pair.app.accept().await;
    let head = app.head().await;
    assert_eq!(header(&head, "cookie"), Some("a=1; b=2; c=3"));
    assert_eq!(head.to_ascii_lowercase().matches("cookie:").count(), 1);
    app.send(OK).await;
    assert_eq!(sent.answer().await.unwrap().status(), 200);
    // Two of an HTTP/1 client are nobody's to join.
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\ncookie: a=1\r\ncookie: b=2\r\n\r\n").await;
    assert_eq!(pair.next_head(&mut app).await.to_ascii_lowercase().matches("cookie:").count(), 2);

    let pair = Pair::start().await;
    let mut client = pair.streams().await;
    let _sent = client.send(request, true).await;
    let call = App::accept(&pair.app).await.call().await;
    let pieces: Vec<_> = call.request.headers().get_all("cookie").iter().collect();
    assert_eq!(pieces, ["a=1", "b=2", "c=3"]);
}

#[tokio::test]
async fn hints_of_an_http2_application_are_dropped_and_counted() {
    let pair = Pair::start().await;
    let mut client = pair.streams().await;
    let sent = client.send(get("/"), true).await;
    let mut app = App::accept(&pair.app).await;
    let mut call = app.call().await;
    for _ in 0..3 {
        call.respond.send_informational(http::Response::builder().status(103).body(()).unwrap()).unwrap();
    }
    call.ok("ok");
    assert_eq!(sent.answer().await.unwrap().text(), "ok");
    assert_eq!(pair.price.metric("outrigger_informational_dropped_total"), 3.0);
}

#[tokio::test]
async fn many_requests_at_once_open_one_connection() {
    let pair = pair().await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = pair.client().await;
        client.send(GET).await;
        clients.push(client);
    }
    for _ in 0..50 {
        let mut app = pair.app.accept().await;
        app.head().await;
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    }
    for client in &mut clients {
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(pair.front.metric(OPENED), 1.0);
}

#[tokio::test]
async fn one_connection_that_cannot_be_made_fails_all_that_wait_for_it_at_once() {
    let pair = pair().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf = endpoint(silent.local_addr().unwrap(), &pair.authority, "price");
    let timeouts = Timeouts { connect: Some(Duration::from_secs(2)), ..Timeouts::default() };
    let retry = Retry { attempts: 0, ..Retry::default() };
    pair.resilient(2, &[deaf], Resilience { timeouts, retry, ..Resilience::default() });
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = pair.client().await;
        client.send(GET).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    }
    let address = clients[0].address().to_string();
    log::line(&[("downstream.addr", &address), ("reason", "connect_timeout")]).await;
    let mut accepted = 0;
    while tokio::time::timeout(Duration::from_millis(100), silent.accept()).await.is_ok() {
        accepted += 1;
    }
    assert_eq!(accepted, 1);
}

#[tokio::test]
async fn streams_beyond_the_limits_wait_and_are_refused_with_the_reason() {
    let limits = Limits { http2_streams: 1, queue_timeout: Duration::from_millis(100), ..Limits::default() };
    let pair = with(limits).await;
    let limits = |pending| Resilience {
        limits: TrafficLimits { requests: 8, connections: 1, pending },
        ..Resilience::default()
    };
    pair.resilient(2, &[pair.endpoint()], limits(1));
    let (mut first, mut app) = pair.asked(GET).await;
    let mut second = pair.client().await;
    second.send(GET).await;
    let head = second.head().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let address = second.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("reason", "connection_limit")]).await;
    assert!(line["phases_us"].contains("queue=1"), "{line:?}");
    pair.resilient(3, &[pair.endpoint()], limits(0));
    let mut third = pair.client().await;
    third.send(GET).await;
    assert!(third.head().await.starts_with("HTTP/1.1 503 "));
    let address = third.address().to_string();
    log::line(&[("downstream.addr", &address), ("reason", "pending_limit")]).await;
    // Whoever waits gets the stream that is given back.
    pair.resilient(4, &[pair.endpoint()], limits(1));
    let mut fourth = pair.client().await;
    fourth.send(GET).await;
    app.send(OK).await;
    first.head().await;
    pair.next_head(&mut app).await;
    app.send(OK).await;
    assert!(fourth.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(pair.front.metric(OPENED), 1.0);
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed_and_the_next_request_opens_another() {
    let pair = with(Limits { pool_idle: Duration::from_millis(100), ..Limits::default() }).await;
    let mut client = pair.client().await;
    let mut app = None;
    exchange(&pair, &mut client, &mut app).await;
    soon("the end of the connection", async {
        while pair.price.metric("outrigger_connections_open{direction=\"inbound\"}") != 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    exchange(&pair, &mut client, &mut app).await;
    assert_eq!(pair.front.metric(OPENED), 2.0);
}

/// A second sidecar of the same application.
fn another(pair: &Pair) -> (Side, Endpoint) {
    let identity = pair.authority.identity(pair.authority.workload("demo", "price"));
    let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
    let side = Side::start(identity, &[pair.app.address()], &options);
    let endpoint = endpoint(side.path.inbound()[0], &pair.authority, "price");
    (side, endpoint)
}

/// The sidecar of `price` leaves while a request, whose client and application are `held`, is under way, and so many
/// others come, each on a connection of its own. None is lost, whoever is asked.
async fn leaves(pair: Pair, held: (Raw, Raw), others: usize) {
    let (mut client, mut app) = held;
    let Pair { mut price, front, app: server, .. } = pair;
    let drain = price.path.drain(Duration::from_secs(20));
    let late = async {
        for number in 0..others {
            let mut late = Raw::connect(front.path.outbound()).await;
            late.send(format!("POST /{number} HTTP/1.1\r\nhost: price\r\ncontent-length: 2\r\n\r\nab")).await;
            let mut app = server.accept().await;
            app.head().await;
            app.exactly(2).await;
            app.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            assert!(late.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    };
    let (drained, ()) = tokio::join!(drain, late);
    assert_eq!(drained.cut, 0);
}

#[tokio::test]
async fn a_sidecar_that_leaves_finishes_what_it_has_and_refuses_what_comes_too_late() {
    let pair = pair().await;
    let (client, app) = pair.asked(GET).await;
    let (_other, second) = another(&pair);
    pair.publish(2, pair.service(Vec::new()), &[pair.endpoint(), second]);
    Box::pin(leaves(pair, (client, app), 20)).await;
}

#[tokio::test]
async fn a_sidecar_that_is_gone_fails_what_it_had_and_nothing_else() {
    let pair = pair().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let (client, app) = pair.asked(GET).await;
        clients.push((client, app));
    }
    let (_other, second) = another(&pair);
    pair.publish(2, pair.service(Vec::new()), &[second]);
    let Pair { price, front, app: server, .. } = pair;
    drop(price);
    for (client, _) in &mut clients {
        assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    }
    let mut client = Raw::connect(front.path.outbound()).await;
    client.send(GET).await;
    let mut app = server.accept().await;
    app.head().await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn whoever_connects_to_a_sidecar_that_leaves_gets_an_answer_to_the_first_request() {
    let pair = pair().await;
    // One for what crosses the connection's last word on its way, and none for a new connection.
    let retry = Retry { attempts: 1, ..Retry::default() };
    pair.resilient(2, &[pair.endpoint()], Resilience { retry, ..Resilience::default() });
    let (client, app) = pair.asked(GET).await;
    Box::pin(leaves(pair, (client, app), 10)).await;
}
