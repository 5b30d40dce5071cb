//! How long bodies may stand still, and who says so: the destination's policy, on both sides of the mesh.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use outrigger_core::model::{Resilience, Timeouts};
use outrigger_proxy::{http::Limits, settings::InboundProtocol};

use crate::support::{
    Options, Pair, log,
    raw::{End, soon},
    streams::{App, get, piece, post},
};

const SOON: Duration = Duration::from_millis(500);
/// Longer than an inbound sidecar allows beyond what it is told.
const LONG: Duration = Duration::from_millis(2000);

/// Without a policy bodies may stand still for [`SOON`] here.
fn impatient() -> Limits {
    Limits { body_timeout: SOON, ..Limits::default() }
}

async fn with(limits: Limits, protocol: InboundProtocol, idle: Option<Duration>) -> Pair {
    let pair = Pair::with(&Options { limits, protocol, ..Options::default() }).await;
    let timeouts = Timeouts { idle, ..Timeouts::default() };
    pair.resilient(2, &[pair.endpoint()], Resilience { timeouts, ..Resilience::default() });
    pair
}

fn send(body: &mut SendStream<Bytes>, data: &'static str) {
    body.send_data(Bytes::from_static(data.as_bytes()), false).unwrap();
}

#[tokio::test]
async fn a_response_that_stands_still_ends_when_the_policy_says_so() {
    let pair = with(Limits::default(), InboundProtocol::Http1, Some(SOON)).await;
    let (mut client, mut app) =
        pair.asked("GET / HTTP/1.1\r\nhost: price\r\nx-request-id: still-1\r\n\r\n").await;
    let begin = Instant::now();
    app.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    client.until("abc").await;
    assert_eq!(client.rest().await.1, End::Reset);
    assert!(begin.elapsed() >= SOON, "{:?}", begin.elapsed());
    log::line(&[("direction", "outbound"), ("request_id", "still-1"), ("reason", "stream_timeout")]).await;
    // The application is not left alone with it.
    app.rest().await;
}

#[tokio::test]
async fn a_stream_may_stand_still_for_longer_than_by_default_if_the_policy_says_so() {
    // Zero is for ever.
    for idle in [Duration::from_secs(60), Duration::ZERO] {
        let pair = with(impatient(), InboundProtocol::Http2, Some(idle)).await;
        let mut client = pair.streams().await;
        let mut sent = client.send(post("/"), false).await;
        let mut app = App::accept(&pair.app).await;
        let mut call = app.call().await;
        let mut body = call.answer(200, false);
        let (_, mut stream) = soon("a response", &mut sent.response).await.unwrap().into_parts();
        pair.passed(LONG).await;
        send(&mut body, "down");
        assert_eq!(piece(&mut stream).await.unwrap().unwrap(), "down");
        send(&mut sent.body, "up");
        assert_eq!(piece(call.request.body_mut()).await.unwrap().unwrap(), "up");
    }
}

#[tokio::test]
async fn a_reader_may_pause_for_longer_than_by_default_if_the_policy_says_so() {
    let pair = with(impatient(), InboundProtocol::Http1, Some(Duration::from_secs(60))).await;
    for version in [1, 2] {
        let (mut one, mut two) = (pair.client().await, pair.streams().await);
        let mut sent = None;
        if version == 1 {
            one.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
        } else {
            sent = Some(two.send(get("/"), true).await);
        }
        let mut app = pair.app.accept().await;
        app.head().await;
        app.send("HTTP/1.1 200 OK\r\n\r\n").await;
        let mut taken = app.send_at_most(&[b'x'; 64 * 1024], usize::MAX, LONG).await;
        taken += app.send_at_most(b"y", 1, Duration::ZERO).await;
        drop(app);
        let read = match sent {
            None => {
                one.head().await;
                let mut read = 0;
                while !one.until("\r\n").await.starts_with('0') {
                    read += one.until("\r\n").await.len() - 2;
                }
                read
            }
            Some(sent) => sent.answer().await.unwrap().body.len(),
        };
        assert_eq!(read, taken, "{version}");
    }
}

#[tokio::test]
async fn a_stream_of_which_one_direction_moves_does_not_stand_still() {
    tokio::join!(moving(true), moving(false));
}

/// Moves one direction many times within what both sidecars allow, for longer than either does, and then neither.
async fn moving(downwards: bool) {
    const IDLE: Duration = Duration::from_secs(3);
    let pair = with(Limits::default(), InboundProtocol::Http2, Some(IDLE)).await;
    let mut client = pair.streams().await;
    let mut sent = client.send(post("/"), false).await;
    let mut app = App::accept(&pair.app).await;
    let mut call = app.call().await;
    let mut body = call.answer(200, false);
    let (_, mut stream) = soon("a response", &mut sent.response).await.unwrap().into_parts();
    let begin = Instant::now();
    // The callee's sidecar allows a second more.
    while begin.elapsed() < IDLE + LONG {
        pair.passed(IDLE / 12).await;
        if downwards {
            send(&mut body, "x");
            assert_eq!(piece(&mut stream).await.unwrap().unwrap(), "x");
        } else {
            send(&mut sent.body, "x");
            assert_eq!(piece(call.request.body_mut()).await.unwrap().unwrap(), "x");
        }
    }
    let over = soon("the end", async { stream.data().await.unwrap() }).await;
    assert!(over.unwrap_err().is_reset(), "{downwards}");
}

#[tokio::test]
async fn the_callees_own_limit_bounds_what_policies_allow() {
    let limits = Limits { inbound_idle: SOON, ..Limits::default() };
    let pair = with(limits, InboundProtocol::Http2, Some(Duration::ZERO)).await;
    let mut client = pair.streams().await;
    let sent = client.send(get("/"), true).await;
    let mut app = App::accept(&pair.app).await;
    let mut call = app.call().await;
    let _body = call.answer(200, false);
    let (_, mut stream) = sent.response.await.unwrap().into_parts();
    let over = soon("the end", async { stream.data().await.unwrap() }).await;
    assert!(over.unwrap_err().is_reset());
    assert!(call.request.headers().get("outrigger-idle").is_none());
}

#[tokio::test]
async fn an_upload_of_which_an_application_takes_nothing_ends_when_the_policy_says_so() {
    let pair = with(Limits::default(), InboundProtocol::Http1, Some(SOON)).await;
    let (mut client, _app) =
        pair.asked("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 1000000000\r\n\r\n").await;
    // More than all buffers on the way hold, and none of it is read.
    let taken = client.send_at_most(&[0; 64 * 1024], usize::MAX, Duration::from_secs(5)).await;
    assert!(taken < 64 << 20, "{taken}");
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
}
