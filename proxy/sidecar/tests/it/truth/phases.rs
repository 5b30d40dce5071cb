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
    stage::{By, Relay, Stage, WINDOW, head},
};

/// Until a client that does not read has filled whatever there is on the way to it.
const FULL: Duration = Duration::from_millis(150);

/// At most so many bytes of a connection wait in the kernel to be sent.
fn held_by_the_kernel() -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap_or_default();
    limits.split_whitespace().last().map_or(4 << 20, |most| most.parse().unwrap())
}

/// The application answers late, to a client that comes by `way`.
async fn slow_application(way: By, hints: bool) {
    truth(Phase::App, async |trial| {
        let stage = Stage::start().await;
        stage.app.hints.store(hints, Ordering::Relaxed);
        let mut caller = stage.caller(way).await;
        trial.run(&stage.app.answering, async |id| assert_eq!(caller.call(id).await, 200)).await;
    })
    .await;
}

#[tokio::test]
async fn an_application_that_takes_its_time_is_charged_to_the_application() {
    for way in [By::Shared, By::Own] {
        slow_application(way, false).await;
    }
}

#[tokio::test]
async fn what_an_application_says_before_its_answer_does_not_end_its_time() {
    for way in [By::Shared, By::Own] {
        slow_application(way, true).await;
    }
}

#[tokio::test]
async fn a_client_that_sends_slowly_is_charged_to_the_upload() {
    for way in [By::Shared, By::Own, By::Http2] {
        truth(Phase::Upload, async |trial| {
            let stage = Stage::start().await;
            let mut caller = stage.caller(way).await;
            trial.run(&stage.app.uploading, async |id| assert_eq!(caller.upload(id).await, 200)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_network_that_is_slow_is_charged_to_the_network() {
    for way in [By::Shared, By::Own] {
        truth(Phase::Network, async |trial| {
            let stage = Stage::start().await;
            let mut caller = stage.caller(way).await;
            trial.run(&stage.relay.passing, async |id| assert_eq!(caller.call(id).await, 200)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn an_application_that_streams_slowly_is_charged_to_the_stream() {
    for way in [By::Shared, By::Http2] {
        truth(Phase::Stream, async |trial| {
            let stage = Stage::start().await;
            let mut caller = stage.caller(way).await;
            trial.run(&stage.app.streaming, async |id| assert_eq!(caller.call(id).await, 200)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_handshake_that_takes_its_time_is_charged_to_the_connection() {
    for way in [By::Shared, By::Own] {
        truth(Phase::Connect, async |trial| {
            let stage = Stage::start().await;
            let (mut caller, opening) = (stage.caller(way).await, Delay::new());
            let request = async |id: &str| {
                // Nobody has a connection to this address yet.
                let relay = Relay::new(stage.price.path.inbound()[0], Arc::clone(&opening)).await;
                stage.publish(relay.address, &Resilience::default());
                assert_eq!(caller.call(id).await, 200);
            };
            trial.run(&opening, request).await;
        })
        .await;
    }
}

#[tokio::test]
async fn an_inbound_whose_figures_never_come_is_charged_to_the_upstream_and_never_to_the_network() {
    for way in [By::Shared, By::Own] {
        truth(Phase::Upstream, async |trial| {
            let stage = Stage::start().await;
            let mut caller = stage.caller(way).await;
            let request = async |id: &str| {
                stage.warm(&mut caller).await;
                stage.app.silent.store(true, Ordering::Relaxed);
                let cut = async {
                    stage.app.silenced.notified().await;
                    stage.relay.cut();
                };
                let (status, ()) = tokio::join!(caller.upload(id), cut);
                assert_eq!(status, 502);
            };
            trial.run(&stage.app.answering, request).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_charged_to_the_stream() {
    let length = held_by_the_kernel() + (1 << 20);
    truth(Phase::Stream, async |trial| {
        let stage = Stage::start().await;
        stage.app.large.store(length, Ordering::Relaxed);
        let (mut raw, pause) = (stage.bounded(128 * 1024).await, Delay::default());
        let request = async |id: &str| {
            raw.send(head("GET", "price", id) + "\r\n").await;
            raw.head().await;
            stage.app.is_heard();
            // All that is held on the way is full before the delay begins, and would be without it.
            sleep(FULL).await;
            pause.spend().await;
            raw.exactly(length).await;
        };
        trial.run(&pause, request).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_charged_to_the_stream_to_its_last_byte() {
    for beyond in [1, 20_000] {
        truth(Phase::Stream, async |trial| {
            let stage = Stage::start().await;
            stage.app.large.store(WINDOW + beyond, Ordering::Relaxed);
            let (mut caller, pause) = (stage.caller(By::Http2).await, Delay::default());
            trial.run(&pause, async |id| caller.read_slowly(id, &pause).await).await;
        })
        .await;
    }
}
