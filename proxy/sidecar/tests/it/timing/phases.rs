//! Each phase of which the delay is outside the sidecars: in the client, on the way, in the application; and for each way
//! on which it is another piece of code that has to tell the truth.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use outrigger_core::{model::Resilience, telemetry::Phase};

use tokio::time::sleep;

use super::{
    measure::{Delay, truth},
    stage::{Caller, Relay, Stage, WINDOW, head},
};

/// Until a client that does not read has filled whatever there is on the way to it.
const FULL: Duration = Duration::from_millis(150);

/// At most so many bytes of a connection wait in the kernel to be sent.
fn held_by_the_kernel() -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap_or_default();
    limits.split_whitespace().last().map_or(4 << 20, |most| most.parse().unwrap())
}

async fn slow_application(stage: &Stage, mut caller: Caller) {
    truth(Phase::App, &stage.app.answering, async |id| assert_eq!(caller.call(id).await, 200)).await;
}

#[tokio::test]
async fn an_application_that_takes_its_time_is_charged_to_the_application() {
    let stage = Stage::start().await;
    slow_application(&stage, stage.http1().await).await;
    slow_application(&stage, stage.own_leg().await).await;
}

#[tokio::test]
async fn what_an_application_says_before_its_answer_does_not_end_its_time() {
    let stage = Stage::start().await;
    stage.app.hints.store(true, Ordering::Relaxed);
    slow_application(&stage, stage.http1().await).await;
    slow_application(&stage, stage.own_leg().await).await;
}

async fn slow_client(stage: &Stage, mut caller: Caller) {
    truth(Phase::Upload, &stage.app.uploading, async |id| assert_eq!(caller.upload(id).await, 200)).await;
}

#[tokio::test]
async fn a_client_that_sends_slowly_is_charged_to_the_upload() {
    let stage = Stage::start().await;
    slow_client(&stage, stage.http1().await).await;
    slow_client(&stage, stage.own_leg().await).await;
    slow_client(&stage, stage.http2().await).await;
}

async fn slow_network(stage: &Stage, mut caller: Caller) {
    truth(Phase::Network, &stage.relay.passing, async |id| assert_eq!(caller.call(id).await, 200)).await;
}

#[tokio::test]
async fn a_network_that_is_slow_is_charged_to_the_network() {
    let stage = Stage::start().await;
    slow_network(&stage, stage.http1().await).await;
    slow_network(&stage, stage.own_leg().await).await;
}

async fn slow_answer(stage: &Stage, mut caller: Caller) {
    truth(Phase::Stream, &stage.app.streaming, async |id| assert_eq!(caller.call(id).await, 200)).await;
}

#[tokio::test]
async fn an_application_that_streams_slowly_is_charged_to_the_stream() {
    let stage = Stage::start().await;
    slow_answer(&stage, stage.http1().await).await;
    slow_answer(&stage, stage.http2().await).await;
}

async fn slow_handshake(stage: &Stage, mut caller: Caller) {
    let opening = Delay::new();
    truth(Phase::Connect, &opening, async |id| {
        // Nobody has a connection to this address yet.
        let relay = Relay::new(stage.price.path.inbound()[0], Arc::clone(&opening)).await;
        stage.publish(relay.address, &Resilience::default());
        assert_eq!(caller.call(id).await, 200);
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_takes_its_time_is_charged_to_the_connection() {
    let stage = Stage::start().await;
    slow_handshake(&stage, stage.http1().await).await;
    slow_handshake(&stage, stage.own_leg().await).await;
}

async fn no_figures(stage: &Stage, mut caller: Caller) {
    truth(Phase::Upstream, &stage.app.answering, async |id| {
        stage.warm(&mut caller).await;
        stage.app.silent.store(true, Ordering::Relaxed);
        let cut = async {
            stage.app.silenced.notified().await;
            stage.relay.cut();
        };
        let (status, ()) = tokio::join!(caller.upload(id), cut);
        assert_eq!(status, 502);
    })
    .await;
}

#[tokio::test]
async fn an_inbound_whose_figures_never_come_is_charged_to_the_upstream_and_never_to_the_network() {
    let stage = Stage::start().await;
    no_figures(&stage, stage.http1().await).await;
    no_figures(&stage, stage.own_leg().await).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_charged_to_the_stream() {
    let stage = Stage::start().await;
    let length = held_by_the_kernel() + (1 << 20);
    stage.app.large.store(length, Ordering::Relaxed);
    let mut raw = stage.bounded(128 * 1024).await;
    let pause = Delay::default();
    truth(Phase::Stream, &pause, async |id| {
        raw.send(head("GET", "price", id) + "\r\n").await;
        raw.head().await;
        // All that is held on the way is full before the delay begins, and would be without it.
        sleep(FULL).await;
        pause.spend().await;
        raw.exactly(length).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_charged_to_the_stream_to_its_last_byte() {
    let stage = Stage::start().await;
    let mut caller = stage.http2().await;
    let pause = Delay::default();
    for beyond in [1, 20_000] {
        stage.app.large.store(WINDOW + beyond, Ordering::Relaxed);
        truth(Phase::Stream, &pause, async |id| caller.read_slowly(id, &pause).await).await;
    }
}
