//! The application's side of the proxy, where the application misbehaves: over HTTP/2, and over HTTP/1 with bodies that
//! are on their way.

use bytes::Bytes;
use h2::{Reason as Code, server};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use outrigger_proxy::{http::Limits, settings::InboundProtocol};

use crate::support::{
    OK, Options, Pair, header, log,
    raw::{End, soon},
    streams::{
        App, Call, Client, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, block, get, piece,
        post, whole,
    },
};

/// The application speaks HTTP/2.
async fn pair() -> Pair {
    with(Limits::default()).await
}

async fn with(limits: Limits) -> Pair {
    Pair::with(&Options { limits, protocol: InboundProtocol::Http2, ..Options::default() }).await
}

async fn logged(direction: &str, id: &str, reason: &str) {
    log::line(&[("direction", direction), ("request_id", id), ("reason", reason)]).await;
}

fn named(mut request: Request<()>, id: &'static str) -> Request<()> {
    request.headers_mut().insert("x-request-id", HeaderValue::from_static(id));
    request
}

#[tokio::test]
async fn a_stream_that_is_reset_before_its_answer_is_a_502_and_the_others_go_on() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let other = client.send(get("/other"), true).await;
    let mut app = App::accept(&pair.app).await;
    let held = app.call().await;
    for code in [Code::NO_ERROR, Code::CANCEL, Code::INTERNAL_ERROR, Code::ENHANCE_YOUR_CALM] {
        let sent = client.send(get("/"), true).await;
        app.call().await.respond.send_reset(code);
        let answer = sent.answer().await.unwrap();
        assert_eq!(answer.status(), 502, "{code}");
        assert!(answer.text().contains("upstream_reset") || answer.text().contains("bad_response"), "{code}");
    }
    held.ok("fine");
    assert_eq!(other.answer().await.unwrap().text(), "fine");
}

#[tokio::test]
async fn a_response_that_is_reset_never_looks_whole_whatever_the_code() {
    let pair = pair().await;
    for (id, code) in [
        ("reset-0", Code::NO_ERROR),
        ("reset-8", Code::CANCEL),
        ("reset-2", Code::INTERNAL_ERROR),
        ("reset-7", Code::REFUSED_STREAM),
    ] {
        let mut client = pair.streams().await;
        let sent = client.send(named(get("/"), id), true).await;
        let mut app = App::accept(&pair.app).await;
        let mut call = app.call().await;
        let mut body = call.answer(200, false);
        body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let (_, mut stream) = sent.response.await.unwrap().into_parts();
        assert_eq!(piece(&mut stream).await.unwrap().unwrap(), "abc");
        body.send_reset(code);
        let error =
            piece(&mut stream).await.unwrap_or_else(|| panic!("{code} looks like an end")).unwrap_err();
        assert!(error.is_reset() && error.is_remote(), "{code}: {error}");
        assert_ne!(error.reason(), Some(Code::NO_ERROR));
        let line = log::line(&[("direction", "outbound"), ("request_id", id)]).await;
        assert!(matches!(line["reason"].as_str(), "stream_reset" | "response_truncated"), "{code}: {line:?}");

        let mut client = pair.client().await;
        client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
        let mut call = app.call().await;
        let mut body = call.answer(200, false);
        body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        client.until("abc").await;
        body.send_reset(code);
        assert_eq!(client.rest().await.1, End::Reset, "{code}");
        app.driver.abort();
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_is_sent_again_whatever_its_method() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut sent = client.send(named(post("/"), "refused"), false).await;
    sent.body.send_data(Bytes::from_static(b"abc"), true).unwrap();
    let mut app = App::accept(&pair.app).await;
    app.call().await.respond.send_reset(Code::REFUSED_STREAM);
    let mut again = app.call().await;
    assert_eq!(piece(again.request.body_mut()).await.unwrap().unwrap(), "abc");
    again.ok("ok");
    assert_eq!(sent.answer().await.unwrap().status(), 200);
    let line = log::line(&[("direction", "outbound"), ("request_id", "refused")]).await;
    assert_eq!(line["attempts"], "2");
}

#[tokio::test]
async fn an_application_that_says_goodbye_finishes_what_it_began_and_gets_nothing_new_there() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let first = client.send(get("/first"), true).await;
    let mut app = Frames::server(pair.app.accept().await).await;
    let begun = app.until(HEADERS).await.stream;
    app.send(GOAWAY, 0, 0, [0, 0, 0, 1, 0, 0, 0, 0]).await;
    // Once this is answered the goodbye was heard.
    app.send(PING, 0, 0, b"heard it").await;
    while app.until(PING).await.payload != b"heard it" {}
    let second = client.send(get("/second"), true).await;
    let mut next = App::accept(&pair.app).await;
    next.call().await.ok("second");
    assert_eq!(second.answer().await.unwrap().text(), "second");
    app.send(HEADERS, END_HEADERS | END_STREAM, begun, block(&[(":status", "204")])).await;
    assert_eq!(first.answer().await.unwrap().status(), 204);
}

#[tokio::test]
async fn what_came_after_a_goodbye_is_sent_elsewhere_and_what_was_begun_is_not() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut begun = client.send(named(post("/begun"), "begun"), false).await;
    begun.body.send_data(Bytes::from_static(b"abc"), true).unwrap();
    let mut app = Frames::server(pair.app.accept().await).await;
    let first = app.until(HEADERS).await.stream;
    let mut late = client.send(named(post("/late"), "late"), false).await;
    late.body.send_data(Bytes::from_static(b"abc"), true).unwrap();
    app.until(HEADERS).await;
    let last = [&first.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    app.send(GOAWAY, 0, 0, last).await;
    let mut next = App::accept(&pair.app).await;
    let call = next.call().await;
    assert_eq!(call.path(), "/late");
    call.ok("late");
    assert_eq!(late.answer().await.unwrap().text(), "late");
    // Then it is gone, with what it had begun: that may have been done.
    drop(app);
    assert_eq!(begun.answer().await.unwrap().status(), 502);
    logged("inbound", "begun", "upstream_reset").await;
    assert_eq!(log::line(&[("direction", "outbound"), ("request_id", "begun")]).await.get("attempts"), None);
}

#[tokio::test]
async fn an_application_that_allows_one_stream_at_a_time_gets_one_at_a_time_on_a_connection() {
    let limits = Limits { app_connections: 1, ..Limits::default() };
    let pair = with(limits).await;
    let mut client = pair.streams().await;
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(client.send(get("/"), true).await);
    }
    let mut one = server::Builder::new();
    one.max_concurrent_streams(1);
    let mut app = App::with(&pair.app, &one).await;
    for _ in 0..5 {
        app.call().await.ok("ok");
    }
    for sent in sent {
        assert_eq!(sent.answer().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn an_application_that_allows_no_stream_is_not_overrun_with_connections() {
    let limits = Limits { queue_timeout: std::time::Duration::from_millis(100), ..Limits::default() };
    let pair = with(limits).await;
    let mut client = pair.streams().await;
    let sent = client.send(get("/"), true).await;
    let mut none = server::Builder::new();
    none.max_concurrent_streams(0);
    let _app = App::with(&pair.app, &none).await;
    let answer = sent.answer().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("connection_limit"), "{}", answer.text());
    assert!(pair.price.metric("outrigger_upstream_connections_opened_total{direction=\"inbound\"}") <= 3.0);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_delivered_and_the_upload_ends() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut sent = client.send(post("/"), false).await;
    sent.body.send_data(Bytes::from_static(b"some of it"), false).unwrap();
    let mut app = App::accept(&pair.app).await;
    let mut call = app.call().await;
    call.answer(413, false).send_data(Bytes::from_static(b"big!"), true).unwrap();
    drop(call);
    let answer = sent.answer().await.unwrap();
    assert_eq!((answer.status(), answer.text()), (413, "big!"));
    // The connections are in order, on all three legs.
    let sent = client.send(get("/next"), true).await;
    app.call().await.ok("next");
    assert_eq!(sent.answer().await.unwrap().text(), "next");
}

#[tokio::test]
async fn nonsense_from_an_http2_application_is_a_502() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let two: &[(&str, &str)] = &[(":status", "200"), ("content-length", "2"), ("content-length", "3")];
    for fields in [
        &[("x-first", "1"), (":status", "200")][..],
        &[("x-status", "200")],
        &[(":status", "two")],
        &[(":status", "200"), ("connection", "close")],
        &[(":status", "200"), ("content-length", "-1")],
        &[(":status", "101")],
        two,
    ] {
        let sent = client.send(get("/"), true).await;
        let mut app = Frames::server(pair.app.accept().await).await;
        let stream = app.until(HEADERS).await.stream;
        app.send(HEADERS, END_HEADERS | END_STREAM, stream, block(fields)).await;
        let answer = sent.answer().await.unwrap();
        assert_eq!(answer.status(), 502, "{fields:?}");
        assert!(
            answer.text().contains("bad_response") || answer.text().contains("upstream_reset"),
            "{}",
            answer.text()
        );
        drop(app);
    }
}

#[tokio::test]
async fn an_application_that_speaks_http1_where_http2_is_declared_is_no_hang() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let sent = client.send(get("/"), true).await;
    for _ in 0..3 {
        let mut app = pair.app.accept().await;
        app.send("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
        app.rest().await;
        if !pair.app.is_called().await {
            break;
        }
    }
    let answer = sent.answer().await.unwrap();
    assert!(matches!(answer.status(), 502 | 503), "{}", answer.status());
}

#[tokio::test]
async fn a_length_that_the_body_does_not_keep_to_breaks_the_response_off() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    for (length, body) in [("5", "abc"), ("2", "abc")] {
        let sent = client.send(get("/"), true).await;
        let mut app = Frames::server(pair.app.accept().await).await;
        let stream = app.until(HEADERS).await.stream;
        let fields = [(":status", "200"), ("content-length", length)];
        app.send(HEADERS, END_HEADERS, stream, block(&fields)).await;
        app.send(DATA, END_STREAM, stream, body).await;
        // Its head is taken back, if it was not on its way yet.
        assert!(sent.answer().await.map_or(true, |answer| answer.status() == 502), "{length}");
        drop(app);
    }
}

#[tokio::test]
async fn an_application_that_is_gone_in_the_middle_of_a_body_breaks_the_response_off() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let sent = client.send(named(get("/"), "gone-in-the-middle"), true).await;
    let mut app = Frames::server(pair.app.accept().await).await;
    let stream = app.until(HEADERS).await.stream;
    app.send(HEADERS, END_HEADERS, stream, block(&[(":status", "200")])).await;
    app.send(DATA, 0, stream, "abc").await;
    let (_, mut body) = sent.response.await.unwrap().into_parts();
    assert_eq!(piece(&mut body).await.unwrap().unwrap(), "abc");
    drop(app);
    assert!(piece(&mut body).await.unwrap().is_err());
    logged("outbound", "gone-in-the-middle", "response_truncated").await;
}

#[tokio::test]
async fn trailers_of_an_application_cross_without_what_belongs_to_a_connection() {
    let pair = Pair::start().await;
    let (mut client, mut app) =
        pair.asked("GET / HTTP/1.1\r\nhost: price\r\nte: trailers\r\nconnection: te\r\n\r\n").await;
    app.send("HTTP/1.1 200 OK\r\ntrailer: x-end, connection, keep-alive, transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\nx-end: 2\r\nconnection: close\r\nkeep-alive: timeout=5\r\nupgrade: x\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(client.until("\r\n\r\n").await, "2\r\ncd\r\n0\r\nx-end: 2\r\n\r\n");
}

#[tokio::test]
async fn a_pooled_connection_that_breaks_in_the_middle_of_a_long_upload_costs_the_request_and_no_byte_of_it()
{
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.acquainted().await;
    // Idempotent, but no longer whole here when the application goes.
    let chunk = format!("20000\r\n{}\r\n", "x".repeat(0x20000));
    client.send(format!("PUT / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")).await;
    app.head().await;
    app.exactly(100_000).await;
    drop(app);
    client.send("1\r\ny\r\n0\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert!(!pair.app.is_called().await, "the rest of a body was sent as the whole");
}

#[tokio::test]
async fn a_short_upload_to_a_pooled_connection_that_breaks_is_sent_again_from_its_begin() {
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.acquainted().await;
    client.send("PUT / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    app.until("3\r\nabc\r\n").await;
    drop(app);
    let mut app = pair.app.accept().await;
    app.until("3\r\nabc\r\n").await;
    client.send("3\r\ndef\r\n0\r\n\r\n").await;
    assert_eq!(app.until("0\r\n\r\n").await, "3\r\ndef\r\n0\r\n\r\n");
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

/// Answers with a head and trailers, and nothing in between; `declared`: the head names them.
fn answer_with_trailers_only(call: &mut Call, declared: bool) {
    let mut head = Response::builder().status(200);
    if declared {
        head = head.header("trailer", "x-sum");
    }
    let mut body = call.respond.send_response(head.body(()).unwrap(), false).unwrap();
    let trailers = [(HeaderName::from_static("x-sum"), HeaderValue::from_static("0"))];
    body.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
}

#[tokio::test]
async fn trailers_of_an_answer_without_data_arrive() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut request = get("/");
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let sent = client.send(request, true).await;
    let mut app = App::accept(&pair.app).await;
    answer_with_trailers_only(&mut app.call().await, false);
    let (head, body) = soon("a response", sent.response).await.unwrap().into_parts();
    assert_eq!((head.status.as_u16(), head.headers.get("content-length")), (200, None));
    let (body, trailers) = whole(body).await.unwrap();
    assert_eq!((body.as_slice(), &trailers.unwrap()["x-sum"]), (&b""[..], &HeaderValue::from_static("0")));
}

#[tokio::test]
async fn a_client_of_http1_gets_the_trailers_of_an_answer_without_data_that_its_head_has_named() {
    let pair = pair().await;
    let mut app = None;
    for (declared, body) in [(true, "0\r\nx-sum: 0\r\n\r\n"), (false, "0\r\n\r\n")] {
        let mut client = pair.client().await;
        client.send("GET / HTTP/1.1\r\nhost: price\r\nte: trailers\r\nconnection: te\r\n\r\n").await;
        let app = match &mut app {
            Some(app) => app,
            None => app.insert(App::accept(&pair.app).await),
        };
        answer_with_trailers_only(&mut app.call().await, declared);
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let framing = (header(&head, "transfer-encoding"), header(&head, "content-length"));
        assert_eq!(framing, (Some("chunked"), None), "{head}");
        assert_eq!(client.until("\r\n\r\n").await, body, "{head}");
    }
}

/// A client and an application, by hand, whose connections have one whole exchange behind them.
async fn answered(pair: &Pair) -> (Client, Frames) {
    let mut client = pair.streams().await;
    let first = client.send(get("/first"), true).await;
    let mut app = Frames::server(pair.app.accept().await).await;
    let stream = app.until(HEADERS).await.stream;
    app.headers(END_STREAM, stream, &[(":status", "204")]).await;
    assert_eq!(first.answer().await.unwrap().status(), 204);
    (client, app)
}

#[tokio::test]
async fn a_get_that_meets_a_closed_connection_is_sent_once_more_and_no_oftener() {
    let pair = pair().await;
    let (mut client, mut app) = answered(&pair).await;
    let second = client.send(get("/second"), true).await;
    app.until(HEADERS).await;
    // As if it had been gone before: not a word of what it did with the request.
    drop(app);
    let mut next = App::accept(&pair.app).await;
    let call = next.call().await;
    assert_eq!(call.path(), "/second");
    call.ok("again");
    assert_eq!(second.answer().await.unwrap().text(), "again");
    let third = client.send(get("/third"), true).await;
    assert_eq!(next.call().await.path(), "/third");
    drop(next);
    let mut last = App::accept(&pair.app).await;
    assert_eq!(last.call().await.path(), "/third");
    drop(last);
    assert_eq!(third.answer().await.unwrap().status(), 502);
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn a_post_that_meets_a_closed_connection_is_not_sent_again() {
    let pair = pair().await;
    let (mut client, mut app) = answered(&pair).await;
    let second = client.send(post("/second"), true).await;
    // Where a moment has passed it comes on a new connection.
    tokio::select! {
        _ = app.until(HEADERS) => drop(app),
        new = pair.app.accept() => {
            let mut new = Frames::server(new).await;
            new.until(HEADERS).await;
            drop(new);
        }
    }
    assert_eq!(second.answer().await.unwrap().status(), 502);
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn a_stream_that_is_reset_is_no_closed_connection() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let first = client.send(get("/first"), true).await;
    let mut app = App::accept(&pair.app).await;
    app.call().await.ok("fine");
    first.answer().await.unwrap();
    let second = client.send(get("/second"), true).await;
    app.call().await.respond.send_reset(Code::INTERNAL_ERROR);
    assert_eq!(second.answer().await.unwrap().status(), 502);
    assert!(!pair.app.is_called().await);
}
