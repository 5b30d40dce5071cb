//! Streams on which nothing moves any more: they hold nobody up, and end when nobody wants them.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client;
use outrigger_core::model::{Resilience, Timeouts};
use outrigger_proxy::http::Limits;
use tokio::task::JoinSet;

use crate::{
    mesh_leg::{OPENED, exchange, pair, with},
    support::{
        Pair,
        raw::soon,
        streams::{App, Client, get, piece, post},
    },
};

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
    assert_eq!(pair.front.states.of(&pair.endpoint()).in_flight(), u64::try_from(count).unwrap());
    let connections = pair.front.metric(OPENED);
    assert!(connections <= f64::from(u32::try_from(count / 256).unwrap()) + 1.0, "{connections}");
}

#[tokio::test]
async fn a_stalled_stream_holds_nobody_up() {
    nobody_is_held_up_by(1, 256 * 1024).await;
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
