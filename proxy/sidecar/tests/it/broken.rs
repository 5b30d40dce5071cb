//! Exchanges that do not end well: nobody may take the middle of a message for its end, and nobody waits in vain.

use outrigger_proxy::http::Limits;

use crate::support::{
    GET, OK, Options, Pair, header, log,
    raw::{End, Raw},
};

async fn logged(client: &Raw, reason: &str) {
    let address = client.address().to_string();
    log::line(&[("downstream.addr", &address), ("reason", reason)]).await;
}

/// A request that is called `id`.
fn get(id: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: {id}\r\n\r\n")
}

/// The sidecar beside the application says so of the request that is called `id`, and the caller's says the same.
async fn told(id: &str, reason: &str) {
    for direction in ["inbound", "outbound"] {
        log::line(&[("request_id", id), ("direction", direction), ("reason", reason)]).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_aborts_the_request_at_the_application() {
    let pair = Pair::start().await;
    let (client, mut app) = pair.asked("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: gone\r\n\r\n").await;
    drop(client);
    app.rest().await;
    log::line(&[("request_id", "gone"), ("direction", "outbound"), ("reason", "client_closed")]).await;
    assert_eq!(pair.front.states.of(&pair.endpoint()).in_flight(), 0);
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_of_a_response_aborts_it_at_the_application() {
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.asked(GET).await;
    app.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
    client.head().await;
    drop(client);
    app.rest().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_looks_whole_and_is_nobody_s_failure() {
    let pair = Pair::start().await;
    for (id, framing) in
        [(1, "content-length: 100\r\n\r\nabc"), (2, "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")]
    {
        let (client, mut app) = pair
            .asked(format!("POST / HTTP/1.1\r\nhost: price\r\nx-request-id: broken-{id}\r\n{framing}"))
            .await;
        client.reset();
        let (body, _) = app.rest().await;
        assert!(!String::from_utf8_lossy(&body).contains("0\r\n\r\n"));
    }
    let edge = "{destination=\"demo/price\",port=\"80\",rule=\"\",class=\"request\"}";
    log::line(&[("request_id", "broken-2"), ("direction", "outbound"), ("reason", "client_closed")]).await;
    log::line(&[("request_id", "broken-1"), ("direction", "outbound"), ("reason", "client_closed")]).await;
    assert_eq!(pair.front.metric(&format!("outrigger_edge_requests_total{edge}")), 2.0);
    assert_eq!(pair.front.metric(&format!("outrigger_edge_failures_total{edge}")), 0.0);
}

#[tokio::test]
async fn a_response_that_breaks_off_is_a_reset_for_the_client() {
    for (request, framing) in [
        ("GET http://price/ HTTP/1.1\r\nhost: price\r\n\r\n", "content-length: 100"),
        ("GET http://price/ HTTP/1.1\r\nhost: price\r\n\r\n", "transfer-encoding: chunked"),
        // Whose end of the connection would look like the end of the body.
        ("GET http://price/ HTTP/1.0\r\n\r\n", "transfer-encoding: chunked"),
    ] {
        let pair = Pair::start().await;
        let (mut client, mut app) = pair.asked(request).await;
        app.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n3\r\nabc\r\n")).await;
        client.head().await;
        client.until("abc").await;
        drop(app);
        assert_eq!(client.rest().await.1, End::Reset, "{request} {framing}");
        logged(&client, "response_truncated").await;
    }
}

#[tokio::test]
async fn an_application_that_closes_without_an_answer_is_a_502() {
    let pair = Pair::start().await;
    let (mut client, app) = pair.asked(get("unanswered")).await;
    drop(app);
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    told("unanswered", "upstream_reset").await;
}

#[tokio::test]
async fn an_application_that_is_not_there_is_a_503() {
    let mut pair = Pair::start().await;
    let elsewhere = crate::support::raw::Server::listen().await;
    drop(std::mem::replace(&mut pair.app, elsewhere));
    let mut client = pair.client().await;
    client
        .send("POST / HTTP/1.1\r\nhost: price\r\nx-request-id: nobody-there\r\ncontent-length: 2\r\n\r\nab")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    told("nobody-there", "connect_failed").await;
}

#[tokio::test]
async fn nonsense_from_the_application_is_a_502() {
    for (id, answer) in [
        ("no-http", "nonsense\r\n\r\n"),
        ("two-lengths", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
        (
            "two-framings",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("coded", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("switched", "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
    ] {
        let pair = Pair::start().await;
        let mut client = pair.client().await;
        let (_, head) = pair.exchange(&mut client, &get(id), answer).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer:?}: {head}");
        told(id, "bad_response").await;
    }
}

#[tokio::test]
async fn a_response_head_beyond_the_limits_is_a_502() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-big: {}\r\n\r\n", "a".repeat(70_000));
    let (_, head) = pair.exchange(&mut client, &get("large-answer"), &answer).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    told("large-answer", "bad_response").await;
}

#[tokio::test]
async fn a_connection_that_the_application_closed_in_the_meantime_costs_no_request() {
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.acquainted().await;
    // It reads the next request and closes: an idempotent one goes to a new connection.
    client.send("GET /again HTTP/1.1\r\nhost: price\r\n\r\n").await;
    app.head().await;
    drop(app);
    let mut app = pair.app.accept().await;
    assert!(app.head().await.starts_with("GET /again "));
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_post_whose_connection_breaks_is_not_sent_twice() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let post = "POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 2\r\n\r\nab";
    client.send(post).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    app.exactly(2).await;
    app.send(OK).await;
    client.head().await;
    client.exactly(2).await;
    client.send(post).await;
    pair.next_head(&mut app).await;
    drop(app);
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn requests_beyond_the_bound_of_an_endpoint_wait_and_are_refused() {
    let limits = Limits {
        app_connections: 1,
        queue_timeout: std::time::Duration::from_millis(50),
        ..Limits::default()
    };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let (mut first, mut app) = pair.asked(GET).await;
    let mut second = pair.client().await;
    second.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    assert!(second.head().await.starts_with("HTTP/1.1 503 "));
    logged(&second, "connection_limit").await;
    app.send(OK).await;
    let head = first.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(header(&head, "content-length"), Some("2"));
}
