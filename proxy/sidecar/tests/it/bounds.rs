//! How long a peer may do nothing, and how much of it is kept meanwhile.

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason as Code, client, server};
use outrigger_proxy::{http::Limits, settings::InboundProtocol};

use crate::support::{
    OK, Options, Pair, log,
    raw::{End, soon},
    streams::{
        App, CONTINUATION, Client, END_HEADERS, END_STREAM, HEADERS, block, get, piece, post, request,
    },
};

const SOON: Duration = Duration::from_millis(500);

async fn with(limits: Limits, protocol: InboundProtocol) -> Pair {
    Pair::with(&Options { limits, protocol, ..Options::default() }).await
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_goodbye_and_a_busy_one_is_not() {
    let pair = with(Limits { idle_timeout: SOON, ..Limits::default() }, InboundProtocol::Http1).await;
    let mut busy = pair.frames().await;
    busy.get(1, "/held").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    let mut idle = pair.frames().await;
    assert_eq!(idle.goaway().await, Some(Code::NO_ERROR));
    app.send(OK).await;
    assert_eq!(busy.until(HEADERS).await.status(), 200);
    assert_eq!(busy.goaway().await, Some(Code::NO_ERROR));
}

#[tokio::test]
async fn a_head_in_frames_that_never_ends_is_given_up() {
    let pair = with(Limits { idle_timeout: SOON, ..Limits::default() }, InboundProtocol::Http1).await;
    let mut client = pair.frames().await;
    client.send(HEADERS, END_STREAM, 1, block(&request("GET", "/"))).await;
    client.send(CONTINUATION, 0, 1, b"").await;
    // It does not even read the goodbye.
    let (_, end) = client.raw().rest().await;
    assert_eq!(end, End::Clean);
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_response_is_given_up_and_so_is_what_it_holds() {
    let limits = Limits { body_timeout: SOON, ..Limits::default() };
    // Of either version: by the socket, and by the window.
    for version in [1, 2] {
        let pair = with(limits.clone(), InboundProtocol::Http1).await;
        let mut unread = client::Builder::new();
        unread.initial_window_size(1024);
        let (mut one, mut two) =
            (pair.client().await, Client::with(pair.front.path.outbound(), &unread).await);
        let mut sent = None;
        if version == 1 {
            one.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
        } else {
            sent = Some(two.send(get("/"), true).await);
        }
        let mut app = pair.app.accept().await;
        app.head().await;
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
        let taken = app.send_at_most(&[0; 64 * 1024], usize::MAX, Duration::from_secs(5)).await;
        assert!(taken < 64 << 20, "{taken}");
        // Its connection was given up, not only left alone.
        assert!(app.try_send(b"x").await.is_err(), "{version}");
        soon("the end of what is in flight", async {
            while pair.front.states.of(&pair.endpoint()).in_flight() != 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        if let Some(sent) = sent {
            // The others of its connection go on.
            let other = two.send(get("/other"), true).await;
            let mut app = pair.app.accept().await;
            app.head().await;
            app.send(OK).await;
            assert_eq!(other.answer().await.unwrap().text(), "ok");
            assert!(sent.answer().await.is_err());
            let address = two.address.to_string();
            log::line(&[("downstream.addr", &address), ("status", "200"), ("reason", "stream_timeout")])
                .await;
        }
    }
}

#[tokio::test]
async fn an_application_that_takes_nothing_of_an_upload_is_given_up() {
    let limits = Limits { body_timeout: SOON, ..Limits::default() };
    let pair = with(limits, InboundProtocol::Http2).await;
    let mut client = pair.streams().await;
    let mut sent = client.send(post("/"), false).await;
    let mut small = server::Builder::new();
    small.initial_window_size(1024);
    let mut app = App::with(&pair.app, &small).await;
    let mut call = app.call().await;
    sent.body.send_data(vec![0; 16 * 1024].into(), true).unwrap();
    let answer = soon("an answer", &mut sent.response).await.unwrap();
    assert_eq!(answer.status(), 502);
    let over = std::future::poll_fn(|cx| call.respond.poll_reset(cx));
    assert_eq!(soon("the end at the application", over).await.unwrap(), Code::CANCEL);
}

#[tokio::test]
async fn a_stream_that_its_client_does_not_read_leaves_the_others_of_its_connection_theirs() {
    let pair = with(Limits::default(), InboundProtocol::Http1).await;
    let mut client = pair.streams().await;
    let stalled = client.send(get("/stalled"), true).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n").await;
    app.send(vec![b'x'; 60_000]).await;
    for _ in 0..10 {
        let other = client.send(get("/other"), true).await;
        pair.next_head(&mut app).await;
        app.send(OK).await;
        assert_eq!(other.answer().await.unwrap().text(), "ok");
    }
    assert_eq!(stalled.answer().await.unwrap().body.len(), 60_000);
}

#[tokio::test]
async fn slow_but_steady_is_not_still() {
    let limits = Limits { body_timeout: SOON, ..Limits::default() };
    let pair = with(limits, InboundProtocol::Http2).await;
    let mut client = pair.streams().await;
    let mut sent = client.send(post("/"), false).await;
    let mut app = App::accept(&pair.app).await;
    let mut call = app.call().await;
    let mut body = call.answer(200, false);
    let (_, mut stream) = soon("a response", &mut sent.response).await.unwrap().into_parts();
    // Twice as long as may pass without anything, in steps that are shorter.
    for _ in 0..8 {
        sent.body.send_data(Bytes::from_static(b"up"), false).unwrap();
        assert_eq!(piece(call.request.body_mut()).await.unwrap().unwrap(), "up");
        body.send_data(Bytes::from_static(b"down"), false).unwrap();
        assert_eq!(piece(&mut stream).await.unwrap().unwrap(), "down");
        pair.passed(SOON / 4).await;
    }
    sent.body.send_data(Bytes::new(), true).unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    while let Some(rest) = piece(&mut stream).await {
        assert_eq!(rest.unwrap(), "");
    }
}

#[tokio::test]
async fn a_preface_and_nothing_else_is_an_idle_connection() {
    let pair = with(Limits { idle_timeout: SOON, ..Limits::default() }, InboundProtocol::Http1).await;
    let mut client = pair.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.rest().await;
    let mut client = pair.frames().await;
    client.headers(END_STREAM | END_HEADERS, 1, &request("GET", "/")).await;
    pair.app.accept().await.head().await;
}
