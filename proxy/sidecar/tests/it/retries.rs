//! Requests that are sent again: which, where to, how often, and what their client gets.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use outrigger_core::model::{Endpoint, Resilience, Retry, RetryBudget, Timeouts, TrafficLimits};
use outrigger_proxy::settings::InboundProtocol;

use crate::support::{
    GET, OK, Options, Pair, Side, endpoint, header, log,
    raw::{Raw, Server},
    streams::{App, get, piece, post},
};

fn answer(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\n{headers}\r\nno!")
}

/// Another instance of `price`, whose application is not there when `absent`.
async fn second(pair: &Pair, absent: bool) -> (Side, Server, Endpoint) {
    let app = Server::listen().await;
    let nowhere = Server::listen().await;
    let address = if absent { nowhere.address() } else { app.address() };
    drop(nowhere);
    let identity = pair.authority.identity(pair.authority.workload("demo", "price"));
    let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
    let side = Side::start(identity, &[address], &options);
    let endpoint = endpoint(side.path.inbound()[0], &pair.authority, "price");
    (side, app, endpoint)
}

/// Where nobody listens.
async fn nowhere(pair: &Pair) -> Endpoint {
    let server = Server::listen().await;
    endpoint(server.address(), &pair.authority, "price")
}

async fn pair() -> Pair {
    Pair::with(&Options { protocol: InboundProtocol::Http1, ..Options::default() }).await
}

fn retrying() -> Resilience {
    let retry = Retry { backoff_base: Duration::from_millis(1), ..Retry::enabled() };
    Resilience { retry, ..Resilience::default() }
}

async fn attempts(client: &Raw) -> (String, Option<String>) {
    let address = client.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("direction", "outbound")]).await;
    (line.get("attempts").cloned().unwrap_or_else(|| "1".to_owned()), line.get("reason").cloned())
}

/// A request that is held open at the one instance of `pair`, so that a second one is the better choice.
async fn occupied(pair: &Pair) -> (Raw, Raw) {
    pair.asked("GET /held HTTP/1.1\r\nhost: price\r\n\r\n").await
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_replaced_by_another_whatever_the_method() {
    let pair = pair().await;
    let gone = nowhere(&pair).await;
    let _held = occupied(&pair).await;
    pair.publish(2, pair.service(Vec::new()), &[gone, pair.endpoint()]);
    let (mut client, mut app) =
        pair.asked("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!(app.exactly(3).await, b"abc");
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(attempts(&client).await, ("2".to_owned(), None));
    assert_eq!(pair.front.metric("outrigger_retries_total"), 1.0);
}

#[tokio::test]
async fn a_body_of_up_to_64_kib_is_sent_again_byte_for_byte_where_nobody_processed_it() {
    let body: String =
        (0..64 * 1024).map(|number| char::from(b'a' + u8::try_from(number % 26).unwrap())).collect();
    let (first, second_half) = body.split_at(0x8000);
    let chunks = format!("8000\r\n{first}\r\n8000\r\n{second_half}\r\n0\r\n\r\n");
    for (framing, sent) in
        [("content-length: 65536", body.as_str()), ("transfer-encoding: chunked", chunks.as_str())]
    {
        let pair = pair().await;
        let (_side, _app, absent) = second(&pair, true).await;
        let _held = occupied(&pair).await;
        pair.publish(2, pair.service(Vec::new()), &[absent, pair.endpoint()]);
        let (mut client, mut app) =
            pair.asked(format!("POST / HTTP/1.1\r\nhost: price\r\n{framing}\r\n\r\n{sent}")).await;
        if framing.starts_with("content") {
            assert_eq!(app.exactly(body.len()).await, body.as_bytes());
        } else {
            assert_eq!(unchunked(&app.until("0\r\n\r\n").await), body);
        }
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(attempts(&client).await, ("2".to_owned(), None), "{framing}");
    }
}

/// What chunks carry.
fn unchunked(mut chunks: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        let (data, rest) = rest.split_at(size);
        whole += data;
        chunks = &rest[2..];
        if size == 0 {
            break;
        }
    }
    whole
}

#[tokio::test]
async fn a_longer_body_of_which_something_was_sent_is_not_sent_again() {
    let pair = pair().await;
    pair.resilient(2, &[pair.endpoint()], retrying());
    let mut client = pair.client().await;
    let body = "x".repeat(64 * 1024 + 1);
    client
        .send(format!("PUT / HTTP/1.1\r\nhost: price\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
        .await;
    let mut app = pair.app.accept().await;
    app.head().await;
    assert_eq!(app.exactly(body.len()).await, body.as_bytes());
    app.send(answer("503 Service Unavailable", "")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(attempts(&client).await.0, "1");
}

#[tokio::test]
async fn statuses_are_sent_again_for_idempotent_methods_only_and_the_last_one_is_delivered() {
    let pair = pair().await;
    pair.resilient(2, &[pair.endpoint()], retrying());
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    for number in 1..=3 {
        pair.next_head(&mut app).await;
        app.send(answer("503 Service Unavailable", &format!("x-number: {number}\r\n"))).await;
    }
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503 ") && header(&head, "x-number") == Some("3"), "{head}");
    assert_eq!(client.exactly(3).await, b"no!");
    assert_eq!(attempts(&client).await, ("3".to_owned(), None));

    let mut client = pair.client().await;
    client.send("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 0\r\n\r\n").await;
    pair.next_head(&mut app).await;
    app.send(answer("503 Service Unavailable", "")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(attempts(&client).await.0, "1");
}

#[tokio::test]
async fn without_a_policy_no_status_and_no_reset_is_sent_again() {
    let pair = pair().await;
    let (mut client, mut app) = pair.asked(GET).await;
    app.send(answer("503 Service Unavailable", "connection: close\r\n")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    client.exactly(3).await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    drop(app);
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn a_kept_answer_is_delivered_when_the_next_attempt_brings_none() {
    let pair = pair().await;
    pair.resilient(
        2,
        &[pair.endpoint()],
        Resilience { retry: Retry { attempts: 1, ..retrying().retry }, ..Resilience::default() },
    );
    let (mut client, mut app) = pair.asked(GET).await;
    app.send(answer("503 Service Unavailable", "x-kept: yes\r\nconnection: close\r\n")).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    // This one comes with the sidecar's own answer: better than none, and not better than the application's.
    app.send("nonsense\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-kept: yes"), "{head}");
}

/// Its last frame may be empty, and is not asked for by whoever knows the length.
#[tokio::test]
async fn a_kept_answer_of_unknown_length_is_delivered_whole_and_is_no_client_that_went_away() {
    let pair = pair().await;
    let retry = Retry { attempts: 1, ..retrying().retry };
    pair.resilient(2, &[pair.endpoint()], Resilience { retry, ..Resilience::default() });
    let (mut client, mut app) = pair.asked(GET).await;
    let kept =
        "HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nno!\r\n0\r\n\r\n";
    app.send(kept).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    drop(app);
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("content-length: 3\r\n"), "{head}");
    assert_eq!(client.exactly(3).await, b"no!");
    assert_eq!(attempts(&client).await, ("2".to_owned(), None));
    assert!(pair.front.telemetry.edges().iter().any(|edge| edge.failures == 1));
}

#[tokio::test]
async fn an_answer_that_is_too_large_to_be_kept_is_delivered() {
    let pair = pair().await;
    pair.resilient(2, &[pair.endpoint()], retrying());
    for length in [64 * 1024, 64 * 1024 + 1] {
        let (mut client, mut app) =
            pair.asked("GET / HTTP/1.1\r\nhost: price\r\nconnection: close\r\n\r\n").await;
        let body = "x".repeat(length);
        app.send(format!("HTTP/1.1 503 Busy\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"))
            .await;
        if length == 64 * 1024 {
            let mut app = pair.app.accept().await;
            app.head().await;
            app.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
            assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        } else {
            assert!(client.head().await.starts_with("HTTP/1.1 503 "));
            assert_eq!(client.exactly(length).await, body.as_bytes());
        }
    }
}

#[tokio::test]
async fn an_answer_that_stands_still_while_it_is_kept_does_not_hold_the_request() {
    let pair = pair().await;
    pair.resilient(2, &[pair.endpoint()], retrying());
    let (mut client, mut app) = pair.asked(GET).await;
    app.send("HTTP/1.1 503 Busy\r\ncontent-length: 100\r\n\r\nbegun").await;
    let mut next = pair.app.accept().await;
    next.head().await;
    next.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn an_upload_goes_on_where_the_answer_that_is_not_delivered_came_early() {
    let pair = pair().await;
    pair.resilient(2, &[pair.endpoint()], retrying());
    // On a stream of the leg that all share.
    let mut client = pair.streams().await;
    let mut put = post("/");
    *put.method_mut() = http::Method::PUT;
    let mut sent = client.send(put, false).await;
    sent.body.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let mut app = pair.app.accept().await;
    app.until("3\r\nabc\r\n").await;
    app.send(answer("503 Service Unavailable", "connection: close\r\n")).await;
    let mut next = pair.app.accept().await;
    next.until("3\r\nabc\r\n").await;
    sent.body.send_data(Bytes::from_static(b"def"), true).unwrap();
    assert_eq!(next.until("0\r\n\r\n").await, "3\r\ndef\r\n0\r\n\r\n");
    next.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    assert_eq!(sent.answer().await.unwrap().status(), 200);
    // On a connection of its own.
    let mut client = pair.client().await;
    client.send("PUT / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut app = pair.app.accept().await;
    app.until("3\r\nabc\r\n").await;
    app.send(answer("503 Service Unavailable", "connection: close\r\n")).await;
    let mut next = pair.app.accept().await;
    next.until("3\r\nabc\r\n").await;
    client.send("3\r\ndef\r\n0\r\n\r\n").await;
    assert_eq!(next.until("0\r\n\r\n").await, "3\r\ndef\r\n0\r\n\r\n");
    next.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_client_that_waits_to_continue_still_waits_after_a_refusal_that_is_not_delivered() {
    let pair = pair().await;
    pair.resilient(2, &[pair.endpoint()], retrying());
    let (mut client, mut app) = pair
        .asked("PUT / HTTP/1.1\r\nhost: price\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        .await;
    app.send(answer("503 Service Unavailable", "connection: close\r\n")).await;
    let mut next = pair.app.accept().await;
    next.head().await;
    next.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 417 "), "{head}");
}

#[tokio::test]
async fn a_budget_that_is_spent_delivers_what_there_is() {
    let pair = pair().await;
    let budget = RetryBudget { percent: 0, min_per_second: 1, ..RetryBudget::default() };
    pair.resilient(2, &[pair.endpoint()], Resilience { budget, ..retrying() });
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    for _ in 0..2 {
        pair.next_head(&mut app).await;
        app.send(answer("503 Service Unavailable", "")).await;
    }
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert_eq!(attempts(&client).await.0, "2");
    assert_eq!(pair.front.metric("outrigger_retries_over_budget_total"), 1.0);
}

#[tokio::test]
async fn a_server_that_asks_for_time_gets_it_and_one_that_asks_for_too_much_is_delivered() {
    let pair = pair().await;
    pair.resilient(2, &[pair.endpoint()], retrying());
    let (mut client, mut app) = pair.asked(GET).await;
    let begin = std::time::Instant::now();
    app.send(answer("503 Service Unavailable", "retry-after: 1\r\n")).await;
    pair.next_head(&mut app).await;
    assert!(begin.elapsed() >= Duration::from_secs(1));
    app.send(answer("503 Service Unavailable", "retry-after: 60\r\n")).await;
    let head = client.head().await;
    assert_eq!(header(&head, "retry-after"), Some("60"));
    assert_eq!(attempts(&client).await.0, "2");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another_until_the_request_has() {
    let pair = pair().await;
    let timeouts = Timeouts {
        per_try: Some(Duration::from_millis(100)),
        request: Some(Duration::from_secs(60)),
        ..Timeouts::default()
    };
    pair.resilient(2, &[pair.endpoint()], Resilience { timeouts, ..retrying() });
    let (mut client, mut slow) = pair.asked(GET).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    // The slow one is told that nobody waits for it.
    slow.rest().await;

    let mut client = pair.client().await;
    client.send("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 0\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert_eq!(attempts(&client).await, ("1".to_owned(), Some("per_try_timeout".to_owned())));
}

#[tokio::test]
async fn the_limits_of_a_destination_each_have_their_reason() {
    let pair = pair().await;
    let limits = |requests, connections, pending| Resilience {
        limits: TrafficLimits { requests, connections, pending },
        ..Resilience::default()
    };
    let held = async |generation, resilience| {
        pair.resilient(generation, &[pair.endpoint()], resilience);
        let (client, app) = pair.asked(GET).await;
        (client, app)
    };
    let refused = async |request: &str, reason| {
        let mut client = pair.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(attempts(&client).await.1.as_deref(), Some(reason));
    };
    let get = "GET / HTTP/1.1\r\nhost: price\r\n\r\n";
    let first = held(2, limits(1, 8, 8)).await;
    refused(get, "request_limit").await;
    drop(first);
    // A stream of the connection that is there needs no other one; a connection of one's own does.
    let own = "PUT / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let first = held(3, limits(8, 1, 8)).await;
    refused(own, "connection_limit").await;
    drop(first);
    let first = held(4, limits(8, 1, 0)).await;
    refused(own, "pending_limit").await;
    drop(first);
}

#[tokio::test]
async fn a_connection_that_nobody_uses_makes_room_for_one_of_another_kind() {
    let pair = pair().await;
    let limits = TrafficLimits { connections: 1, ..TrafficLimits::default() };
    pair.resilient(2, &[pair.endpoint()], Resilience { limits, ..Resilience::default() });
    let mut client = pair.client().await;
    let own = "PUT / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for request in [GET, own, GET, own] {
        client.send(request).await;
        let mut app = pair.app.accept().await;
        app.head().await;
        if request == own {
            app.until("0\r\n\r\n").await;
        }
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    let opened = pair.price.metric("outrigger_connections_accepted_total{direction=\"inbound\"");
    assert_eq!(opened, 4.0, "none of them could be used again");
}

#[tokio::test]
async fn a_status_of_grpc_is_sent_again_like_the_status_that_it_stands_for() {
    let pair = Pair::with(&Options { protocol: InboundProtocol::Grpc, ..Options::default() }).await;
    let retry = Retry { statuses: BTreeSet::from([503]), ..retrying().retry };
    pair.resilient(2, &[pair.endpoint()], Resilience { retry, ..Resilience::default() });
    let mut client = pair.streams().await;
    // Whoever declares a call idempotent says so by its method.
    let mut call = get("/shop.Price/Quote");
    call.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let sent = client.send(call, true).await;
    let mut app = App::accept(&pair.app).await;
    for status in ["14", "0"] {
        let mut call = app.call().await;
        assert!(piece(call.request.body_mut()).await.is_none());
        let head = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", status);
        call.respond.send_response(head.body(()).unwrap(), true).unwrap();
    }
    let answer = sent.answer().await.unwrap();
    assert_eq!((answer.status(), answer.header("grpc-status")), (200, Some("0")));
}
