//! HTTP/2 clients that do a lot of what is allowed: they pay for it, and nobody else does.

use std::time::{Duration, Instant};

use h2::Reason as Code;
use outrigger_proxy::http::Limits;

use crate::{
    hostile_http2::{logged, pair, still_serves, with},
    support::{
        OK,
        raw::Raw,
        streams::{
            CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM,
            SETTINGS, WINDOW_UPDATE, block, frame, get, request,
        },
    },
};

#[tokio::test]
async fn a_head_that_never_ends_is_cut_by_its_size_and_by_the_number_of_its_frames() {
    let pair = pair().await;
    for piece in [16_000_usize, 1, 0] {
        let mut client = pair.frames().await;
        client.send(HEADERS, END_STREAM, 1, block(&request("GET", "/"))).await;
        let field = block(&[("x", "y".repeat(piece))]);
        let field = if piece == 0 { Vec::new() } else { field };
        let mut frames = 0;
        let ended = loop {
            if client.raw().try_send(&frame(CONTINUATION, 0, 1, &field)).await.is_err() {
                break client.goaway().await;
            }
            frames += 1;
            if let Some(goaway) = client.waiting(GOAWAY).await {
                break Some(goaway.code());
            }
            assert!(frames < 20_000, "{frames} frames of {piece} bytes were taken");
        };
        if let Some(code) = ended {
            assert!(
                matches!(code, Code::ENHANCE_YOUR_CALM | Code::COMPRESSION_ERROR | Code::PROTOCOL_ERROR),
                "{code}"
            );
        }
    }
    still_serves(&pair).await;
}

#[tokio::test]
async fn a_field_that_grows_when_it_is_decoded_is_refused() {
    let limits = Limits { head_bytes: 8 * 1024, ..Limits::default() };
    let pair = with(limits).await;
    let mut client = pair.frames().await;
    // One field of 4000 bytes in the table, and then a byte for each time it is meant.
    let mut bomb = block(&request("GET", "/"));
    bomb.push(0x40);
    bomb.extend(&block(&[("x", "y".repeat(4_000))])[1..]);
    bomb.extend([0xbe; 10_000]);
    client.send(HEADERS, END_STREAM | END_HEADERS, 1, &bomb).await;
    assert_eq!(client.goaway().await, Some(Code::ENHANCE_YOUR_CALM));
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn floods_of_frames_that_mean_nothing_are_answered_at_their_own_pace_or_cut() {
    let pair = pair().await;
    const MUCH: usize = 32 << 20;
    for (what, kind, flags, stream, payload, most) in [
        ("pings", PING, 0, 0, &b"12345678"[..], MUCH),
        ("settings", SETTINGS, 0, 0, b"\0\x03\0\0\0\x64", MUCH),
        // These ask for no answer, and nothing is kept of them.
        ("priorities", PRIORITY, 0, 1, b"\0\0\0\x03\x10", 4 << 20),
        ("windows", WINDOW_UPDATE, 0, 0, b"\0\0\0\x01", 4 << 20),
        ("empty data", DATA, 0, 1, b"", 4 << 20),
    ] {
        let mut client = pair.frames().await;
        let mut app = None;
        if kind == DATA {
            client.headers(0, 1, &request("POST", "/")).await;
            let accepted = app.insert(pair.app.accept().await);
            accepted.head().await;
        }
        // None of the answers is read: whoever answers must not keep them all.
        let flood = frame(kind, flags, stream, payload).repeat(1024);
        let taken = client.raw().send_at_most(&flood, most, Duration::from_secs(1)).await;
        assert!(taken < MUCH, "{what}: {taken} bytes were taken");
    }
    still_serves(&pair).await;
}

/// One exchange of a client that does nothing wrong; how long it took.
async fn victim(client: &mut Raw, app: &mut Raw) -> Duration {
    let begin = Instant::now();
    client.send("GET /victim HTTP/1.1\r\nhost: price\r\n\r\n").await;
    assert!(app.head().await.starts_with("GET /victim "));
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    client.exactly(2).await;
    begin.elapsed()
}

/// A burst of requests that are reset at once, on streams from `first` on.
fn resets(first: u32, count: u32) -> Vec<u8> {
    let head = block(&request("GET", "/reset"));
    let pair = |number| {
        let stream = first + 2 * number;
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head), reset].concat()
    };
    (0..count).flat_map(pair).collect()
}

#[tokio::test]
async fn a_client_that_resets_what_it_opens_is_cut_and_another_one_keeps_its_time() {
    // CVE-2023-44487.
    let pair = pair().await;
    let (mut client, mut app) = pair.asked("GET /first HTTP/1.1\r\nhost: price\r\n\r\n").await;
    app.send(OK).await;
    client.head().await;
    client.exactly(2).await;
    let outbound = pair.front.path.outbound();
    let attack = async {
        for _ in 0..20 {
            let mut attacker = Frames::client(outbound).await;
            let mut stream = 1;
            while stream < 20_000 && attacker.raw().try_send(resets(stream, 200)).await.is_ok() {
                stream += 400;
            }
            // It may have been cut while there was still something in the kernel to read.
            let code = attacker.goaway().await;
            assert!(code.is_none_or(|code| code == Code::ENHANCE_YOUR_CALM), "{code:?}");
        }
    };
    let victim = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            slowest = slowest.max(victim(&mut client, &mut app).await);
        }
        slowest
    };
    let ((), slowest) = tokio::join!(attack, victim);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test]
async fn resets_of_many_clients_at_once_do_not_break_the_connection_that_all_share() {
    let pair = pair().await;
    let (mut client, mut app) = pair.asked("GET /victim HTTP/1.1\r\nhost: price\r\n\r\n").await;
    // Each stays below what gets it cut; together they are far above it.
    let mut attackers = Vec::new();
    for _ in 0..40 {
        attackers.push(pair.frames().await);
    }
    for round in 0..10 {
        for attacker in &mut attackers {
            attacker.raw().send(resets(1 + round * 40, 20)).await;
        }
        for attacker in &mut attackers {
            attacker.send(PING, 0, 0, b"whatever").await;
            while attacker.until(PING).await.payload != b"whatever" {}
        }
    }
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    let opened = "outrigger_upstream_connections_opened_total{direction=\"outbound\"}";
    assert_eq!(pair.front.metric(opened), 1.0);
}

#[tokio::test]
async fn a_client_that_makes_the_proxy_reset_its_streams_is_cut() {
    // CVE-2025-8671: each request is followed by what its stream has to be reset for.
    let pair = pair().await;
    let mut attacker = pair.frames().await;
    let head = block(&request("GET", "/reset"));
    for stream in (1..6000).step_by(2) {
        let overflow = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        let both = [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head), overflow].concat();
        if attacker.raw().try_send(both).await.is_err() {
            break;
        }
    }
    let code = attacker.goaway().await;
    assert!(code.is_none_or(|code| code == Code::ENHANCE_YOUR_CALM), "{code:?}");
    logged(attacker.address(), "bad_request").await;
    // Some of the requests may have come through before they were reset.
    let mut client = pair.streams().await;
    let sent = client.send(get("/fine"), true).await;
    let answer = async {
        loop {
            let mut app = pair.app.accept().await;
            if app.try_head().await.is_some_and(|head| head.starts_with("GET /fine ")) {
                app.send(OK).await;
                return app;
            }
        }
    };
    let (answer, _app) = tokio::join!(sent.answer(), answer);
    assert_eq!(answer.unwrap().status(), 200);
}
