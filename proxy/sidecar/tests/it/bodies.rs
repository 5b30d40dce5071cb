//! Bodies in both directions: streamed, whole, or without.

use std::time::Duration;

use outrigger_proxy::http::Limits;

use crate::support::{GET, OK, Options, Pair, header, raw::End};

#[tokio::test]
async fn a_chunk_arrives_before_the_next_one_is_sent() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("POST / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let mut app = pair.app.accept().await;
    let head = app.head().await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    assert_eq!(app.until("hello\r\n").await, "5\r\nhello\r\n");
    client.send("6\r\n world\r\n0\r\n\r\n").await;
    assert_eq!(app.until("0\r\n\r\n").await, "6\r\n world\r\n0\r\n\r\n");
    app.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
    assert_eq!(header(&client.head().await, "transfer-encoding"), Some("chunked"));
    assert_eq!(client.until("one\r\n").await, "3\r\none\r\n");
    app.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(client.until("0\r\n\r\n").await, "3\r\ntwo\r\n0\r\n\r\n");
}

#[tokio::test]
async fn trailers_cross_in_both_directions() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client
        .send("POST / HTTP/1.1\r\nhost: price\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n")
        .await;
    let mut app = pair.app.accept().await;
    let head = app.head().await;
    assert_eq!(header(&head, "te"), Some("trailers"));
    assert_eq!(header(&head, "trailer"), Some("x-sum"));
    assert_eq!(app.until("\r\n\r\n").await, "2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n");
    app.send("HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\nx-end: 2\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(client.until("\r\n\r\n").await, "2\r\ncd\r\n0\r\nx-end: 2\r\n\r\n");
    // The connection is in order afterwards.
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    app.head().await;
    app.send(OK).await;
    client.head().await;
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_order() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let mut app = None;
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", Some("1234")),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n", None),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some("0")),
        ("DELETE", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some("0")),
    ] {
        client.send(format!("{method} / HTTP/1.1\r\nhost: price\r\n\r\n")).await;
        let app = match &mut app {
            Some(app) => app,
            None => app.insert(pair.app.accept().await),
        };
        assert!(app.head().await.starts_with(method));
        app.send(answer).await;
        let head = client.head().await;
        assert_eq!(head.lines().next(), answer.lines().next());
        assert_eq!(header(&head, "content-length"), length, "{method} {answer}");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_becomes_one_with_an_end() {
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.asked(GET).await;
    app.send("HTTP/1.0 200 OK\r\n\r\nall of it").await;
    drop(app);
    let head = client.head().await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    assert!(client.until("0\r\n\r\n").await.contains("all of it"));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_application_and_neither_loses_a_byte() {
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.asked(GET).await;
    let length = 64 << 20;
    app.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
    let body = vec![b'x'; length];
    let taken = app.send_until_stuck(&body).await;
    assert!(taken < length, "everything was taken from the application");
    let rest = async { app.send(&body[taken..]).await };
    let read = async {
        client.head().await;
        client.exactly(length).await.len()
    };
    assert_eq!(tokio::join!(rest, read).1, length);
}

#[tokio::test]
async fn an_application_that_does_not_read_stops_the_client() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let length = 64 << 20;
    client.send(format!("PUT / HTTP/1.1\r\nhost: price\r\ncontent-length: {length}\r\n\r\n")).await;
    let body = vec![b'x'; length];
    let taken = client.send_until_stuck(&body).await;
    assert!(taken < length, "everything was taken from the client");
    let mut app = pair.app.accept().await;
    app.head().await;
    let rest = async { client.send(&body[taken..]).await };
    assert_eq!(tokio::join!(rest, app.exactly(length)).1.len(), length);
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn the_application_decides_whether_the_client_continues() {
    // Far away, so that only the application can open the way.
    let limits = Limits { continue_timeout: Duration::from_secs(3600), ..Limits::default() };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let request = "PUT / HTTP/1.1\r\nhost: price\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";

    let mut client = pair.client().await;
    client.send(request).await;
    let mut app = pair.app.accept().await;
    assert_eq!(header(&app.head().await, "expect"), Some("100-continue"));
    app.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ab").await;
    assert_eq!(app.exactly(2).await, b"ab");
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));

    let mut client = pair.client().await;
    client.send(request).await;
    // The connection used before is too old for a PUT only if it waited; either may serve.
    app.head().await;
    app.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await;
    assert!(client.head().await.starts_with("HTTP/1.1 417 "));
    assert_eq!(client.exactly(2).await, b"no");
}

#[tokio::test]
async fn a_client_that_waits_for_an_application_which_knows_no_continue_is_not_stuck() {
    let limits = Limits { continue_timeout: Duration::from_millis(50), ..Limits::default() };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let (mut client, mut app) = pair
        .asked("PUT / HTTP/1.1\r\nhost: price\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ab").await;
    assert_eq!(app.exactly(2).await, b"ab");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_upload_is_delivered() {
    let pair = Pair::start().await;
    let (mut client, mut app) =
        pair.asked("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 10000000\r\n\r\nsome of it").await;
    app.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbig!").await;
    drop(app);
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(client.exactly(4).await, b"big!");
}

#[tokio::test]
async fn an_early_hint_is_dropped_and_the_answer_is_not() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let answer = format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{OK}");
    let (_, head) = pair.exchange(&mut client, "GET / HTTP/1.1\r\nhost: price\r\n\r\n", &answer).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(pair.price.metric("outrigger_informational_dropped_total"), 1.0);
}

#[tokio::test]
async fn a_half_finished_upload_is_aborted_when_it_stands_still() {
    let limits = Limits { body_timeout: Duration::from_millis(100), ..Limits::default() };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let (mut client, mut app) =
        pair.asked("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 10\r\n\r\nabc").await;
    let (body, _) = app.rest().await;
    assert_eq!(body, b"abc");
    assert!(client.head().await.starts_with("HTTP/1.1 408 "));
    assert_ne!(client.rest().await.1, End::Reset);
}
