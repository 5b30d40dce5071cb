//! Streams on which nothing moves any more: they hold nobody up, and end when nobody wants them.

use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{client, server};
use outrigger_core::model::{Resilience, Timeouts};
use outrigger_proxy::{http::Limits, settings::InboundProtocol};
use tokio::task::JoinSet;

use crate::{
    mesh_leg::{OPENED, exchange, pair, with},
    support::{
        Options, Pair,
        raw::soon,
        streams::{App, Client, get, piece, post},
    },
};

/// What a stream may have on the way if nothing else is set.
const USUAL_WINDOW: u32 = 256 * 1024;

/// Holds `count` responses of which nobody reads anything, each with more on the way than all windows hold.
async fn nobody_is_held_up_by(count: usize, window: u32) {
    let pair = with(Limits { http2_window: window, ..Limits::default() }).await;
    let mut unread = client::Builder::new();
    unread.initial_window_size(window).initial_connection_window_size(1 << 30);
    let piece = vec![b'x'; usize::try_from(window).unwrap()];
    let (mut clients, mut held) = (Vec::new(), Vec::new());
    for number in 0..count {
        if number % 200 == 0 {
            clients.push(Client::with(pair.front.path.outbound(), &unread).await);
        }
        let sent = clients.last_mut().unwrap().send(get("/stalled"), true).await;
        let mut app = pair.app.accept().await;
        app.head().await;
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
        // The client's window, the one between the sidecars, and what each of the two has in hand.
        for _ in 0..8 {
            app.send(&piece).await;
        }
        held.push((sent, app));
    }
    let mut client = pair.client().await;
    let mut app = None;
    for _ in 0..20 {
        let begin = Instant::now();
        exchange(&pair, &mut client, &mut app).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
    are_still_there(&pair, count).await;
}

/// Exactly `count` streams are under way when the last of the others has ended, on as many connections as they need.
async fn are_still_there(pair: &Pair, count: usize) {
    let destination = pair.front.states.of(&pair.endpoint());
    soon("the end of the others", async {
        while destination.in_flight() > u64::try_from(count).unwrap() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(destination.in_flight(), u64::try_from(count).unwrap());
    let connections = pair.front.metric(OPENED);
    assert!(connections <= f64::from(u32::try_from(count / 256).unwrap()) + 1.0, "{connections}");
}

#[tokio::test]
async fn a_stalled_stream_holds_nobody_up() {
    nobody_is_held_up_by(1, USUAL_WINDOW).await;
}

#[tokio::test]
async fn a_hundred_stalled_streams_hold_nobody_up() {
    nobody_is_held_up_by(100, 64 * 1024).await;
}

#[tokio::test]
async fn a_thousand_stalled_streams_hold_nobody_up() {
    nobody_is_held_up_by(1000, 16 * 1024).await;
}

#[tokio::test]
async fn a_hundred_stalled_streams_with_the_usual_windows_hold_nobody_up() {
    nobody_is_held_up_by(100, USUAL_WINDOW).await;
}

/// Holds `count` uploads of which the application takes nothing any more, each with more on the way than all windows
/// hold, and makes others.
async fn no_upload_is_held_up_by(count: usize, window: u32) {
    let limits = Limits { http2_window: window, ..Limits::default() };
    let streams = limits.http2_streams;
    let pair = Pair::with(&Options { limits, protocol: InboundProtocol::Http2, ..Options::default() }).await;
    // Each of its streams has a window, and enough of the connection's.
    let mut unread = server::Builder::new();
    unread.initial_window_size(window).initial_connection_window_size(1 << 30);
    let piece_of_it = Bytes::from(vec![b'x'; usize::try_from(window).unwrap()]);
    let (mut clients, mut apps, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        if number % 200 == 0 {
            clients.push(pair.streams().await);
        }
        let mut sent = clients.last_mut().unwrap().send(post("/stalled"), false).await;
        // The application's window, the one between the sidecars, the client's, and what each of the two has in hand.
        for _ in 0..8 {
            sent.body.send_data(piece_of_it.clone(), false).unwrap();
        }
        if number % streams == 0 {
            apps.push(App::with(&pair.app, &unread).await);
        }
        let mut call = apps.last_mut().unwrap().call().await;
        let mut read = 0;
        while read < piece_of_it.len() {
            let begin = soon("the begin of an upload", call.request.body_mut().data()).await;
            read += begin.unwrap().unwrap().len();
        }
        held.push((sent, call));
    }
    let mut client = pair.streams().await;
    let app = apps.last_mut().unwrap();
    for _ in 0..20 {
        let begin = Instant::now();
        let mut sent = client.send(post("/"), false).await;
        sent.body.send_data(piece_of_it.clone(), true).unwrap();
        let mut call = app.call().await;
        let mut read = 0;
        while let Some(data) = piece(call.request.body_mut()).await {
            read += data.unwrap().len();
        }
        assert_eq!(read, piece_of_it.len());
        call.ok("ok");
        assert_eq!(sent.answer().await.unwrap().text(), "ok");
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
    are_still_there(&pair, count).await;
}

#[tokio::test]
async fn a_stalled_upload_holds_nobody_up() {
    Box::pin(no_upload_is_held_up_by(1, USUAL_WINDOW)).await;
}

#[tokio::test]
async fn a_hundred_stalled_uploads_with_the_usual_windows_hold_nobody_up() {
    Box::pin(no_upload_is_held_up_by(100, USUAL_WINDOW)).await;
}

#[tokio::test]
async fn a_thousand_stalled_uploads_hold_nobody_up() {
    Box::pin(no_upload_is_held_up_by(1000, 16 * 1024)).await;
}

/// Beyond the mesh it is the application that says how much room its streams have in common (roadmap, known limits).
#[tokio::test]
async fn a_stalled_upload_that_fills_an_applications_connection_holds_up_bodies_there_and_no_heads() {
    // What a connection has in common unless an application says otherwise (RFC 9113 §6.9.2).
    const COMMON: usize = 65_535;
    let pair = Pair::with(&Options { protocol: InboundProtocol::Http2, ..Options::default() }).await;
    let (mut first, mut second) = (pair.streams().await, pair.streams().await);
    let mut stalled = first.send(post("/stalled"), false).await;
    stalled.body.send_data(vec![b'x'; 2 * COMMON].into(), false).unwrap();
    let mut app = App::accept(&pair.app).await;
    let mut call = app.call().await;
    let mut read = 0;
    while read < COMMON {
        read += soon("the begin of it", call.request.body_mut().data()).await.unwrap().unwrap().len();
    }
    let mut sent = second.send(post("/"), false).await;
    sent.body.send_data("ab".into(), true).unwrap();
    let mut held = app.call().await;
    let bodiless = second.send(get("/"), true).await;
    app.call().await.ok("ok");
    assert_eq!(bodiless.answer().await.unwrap().text(), "ok");
    let data = poll_fn(|cx| Poll::Ready(held.request.body_mut().poll_data(cx).is_ready())).await;
    assert!(!data, "it found room");
    // It comes when the application has read on.
    call.request.body_mut().flow_control().release_capacity(COMMON).unwrap();
    while read < 2 * COMMON {
        read += piece(call.request.body_mut()).await.unwrap().unwrap().len();
    }
    assert_eq!(piece(held.request.body_mut()).await.unwrap().unwrap(), "ab");
}

#[tokio::test]
async fn stalled_streams_of_small_pieces_hold_nobody_up() {
    const PIECE: Bytes = Bytes::from_static(&[b'x'; 16]);
    let pair = Pair::start().await;
    // It does not mind what it has to keep.
    let mut patient = client::Builder::new();
    patient.data_frame_budget(usize::MAX).initial_connection_window_size(1 << 24);
    let mut client = Client::with(pair.front.path.outbound(), &patient).await;
    let mut app = None;
    let (mut held, mut stuck) = (Vec::new(), JoinSet::new());
    for _ in 0..12 {
        held.push(client.send(get("/stalled"), true).await);
        let app = match &mut app {
            Some(app) => app,
            None => app.insert(App::accept(&pair.app).await),
        };
        let mut body = app.call().await.answer(200, false);
        stuck.spawn(async move {
            // Until nothing more is taken of it.
            let patience = Duration::from_secs(1);
            loop {
                body.reserve_capacity(PIECE.len());
                let room = tokio::time::timeout(patience, poll_fn(|cx| body.poll_capacity(cx))).await;
                if !matches!(room, Ok(Some(Ok(_)))) || body.send_data(PIECE, false).is_err() {
                    return body;
                }
            }
        });
    }
    let _bodies = stuck.join_all().await;
    let mut app = app.unwrap();
    for _ in 0..20 {
        let sent = client.send(get("/"), true).await;
        app.call().await.ok("ok");
        assert_eq!(sent.answer().await.unwrap().text(), "ok");
    }
    assert_eq!(pair.front.metric(OPENED), 1.0, "the connection that all share broke");
    for sent in held {
        let (_, mut stream) = sent.response.await.unwrap().into_parts();
        assert_eq!(piece(&mut stream).await.unwrap().unwrap(), PIECE);
    }
}

/// Waits until the inbound sidecar has counted a request that its caller gave up.
async fn given_up(pair: &Pair, status: &str) {
    let metric = format!(
        "outrigger_requests_total{{direction=\"inbound\",status=\"{status}\",reason=\"client_closed\"}}"
    );
    soon("the end at the other sidecar", async {
        while pair.price.metric(&metric) != 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_stands_still_ends_with_its_client() {
    let pair = pair().await;
    let mut client = pair.streams().await;
    let mut sent = client.send(post("/"), false).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    // More than all windows and sockets on the way hold, and the application reads none of it.
    fill(&mut sent.body).await;
    sent.body.send_reset(h2::Reason::CANCEL);
    given_up(&pair, "none").await;
    let state = pair.front.states.of(&pair.endpoint());
    assert_eq!(state.in_flight(), 0);
    app.rest().await;
}

#[tokio::test]
async fn an_upload_that_stands_still_ends_with_its_deadline() {
    let pair = pair().await;
    let timeouts = Timeouts { request: Some(Duration::from_millis(600)), ..Timeouts::default() };
    pair.resilient(2, &[pair.endpoint()], Resilience { timeouts, ..Resilience::default() });
    let mut client = pair.streams().await;
    let mut sent = client.send(post("/"), false).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    fill(&mut sent.body).await;
    let answer = soon("an answer", &mut sent.response).await.unwrap();
    assert_eq!(answer.status(), 504);
    let metric = "outrigger_requests_total{direction=\"inbound\"";
    soon("the end at the other sidecar", async {
        while pair.price.metric(metric) != 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    app.rest().await;
}

/// Sends until nothing more is taken for a while.
async fn fill(body: &mut h2::SendStream<Bytes>) {
    loop {
        body.reserve_capacity(64 * 1024);
        let room = poll_fn(|cx| body.poll_capacity(cx));
        match tokio::time::timeout(Duration::from_millis(200), room).await {
            Ok(Some(Ok(room))) => body.send_data(vec![0; room].into(), false).unwrap(),
            Ok(_) => return,
            Err(_stuck) => return,
        }
    }
}
