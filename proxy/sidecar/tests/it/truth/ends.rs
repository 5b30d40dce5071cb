//! Requests that do not go straight through: refused, retried, cut short, answered early. Nothing of their time is counted
//! twice, and none is lost.

use std::{sync::atomic::Ordering, time::Duration};

use outrigger_core::{model::Resilience, telemetry::Phase};
use outrigger_proxy::http::Limits;
use outrigger_tls::mesh;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use super::{
    measure::{Delay, Measured, REST, Times, several, truth, unused_id},
    stage::{By, Relay, Stage, head},
    waits::{one_connection, retried},
};
use crate::support::Options;

/// For how long the requests here may take in all.
const TIMEOUT: Duration = Duration::from_millis(150);
/// Longer than that.
const NEVER: Duration = Duration::from_secs(5);

fn in_time(resilience: Resilience) -> Resilience {
    let mut resilience = resilience;
    resilience.timeouts.request = Some(TIMEOUT);
    resilience
}

/// As exactly as that is told where there is no request to compare with.
const ABOUT: Duration = Duration::from_micros(150_000 / 20 + 1_000);

/// All of the time until the deadline is in `phases`.
fn was_spent_on(measured: &Measured, phases: &[Phase]) {
    let all = measured.together(phases);
    assert!(all.abs_diff(TIMEOUT) <= ABOUT, "{phases:?} are {all:?} of {measured:?}");
    for phase in Phase::ALL.into_iter().filter(|phase| !phases.contains(phase)) {
        assert!(measured.least(phase) <= ABOUT, "{phase} in {measured:?}");
    }
    assert!(measured.unexplained() <= ABOUT, "{measured:?}");
}

#[tokio::test]
async fn a_second_attempt_that_runs_out_of_time_is_not_charged_to_the_client_proxy() {
    let stage = Stage::with(Options::default(), in_time(retried())).await;
    let mut caller = stage.caller(By::Shared).await;
    let measured = several(async |id| {
        stage.app.refuses.store(true, Ordering::Relaxed);
        stage.app.silent.store(true, Ordering::Relaxed);
        assert_eq!(caller.call(id).await, 504);
    })
    .await;
    was_spent_on(&measured, &[Phase::Retry, Phase::Upstream]);
}

#[tokio::test]
async fn a_second_attempt_whose_answer_is_no_better_than_the_first_ones_is_charged_to_the_retry() {
    let mut resilience = retried();
    resilience.retry.attempts = 1;
    truth(Phase::Retry, async |trial| {
        let stage = Stage::with(Options::default(), resilience.clone()).await;
        let mut caller = stage.caller(By::Shared).await;
        let request = async |id: &str| {
            stage.warm(&mut caller).await;
            stage.app.refuses.store(true, Ordering::Relaxed);
            stage.app.silent.store(true, Ordering::Relaxed);
            let cut = async {
                stage.app.silenced.notified().await;
                stage.relay.cut();
            };
            let (status, ()) = tokio::join!(caller.call(id), cut);
            assert_eq!(status, 503);
        };
        trial.run(&stage.app.answering, request).await;
        assert_eq!(stage.front.metric("outrigger_timings_clamped_total"), 0.0);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_could_not_be_made_is_charged_to_the_retry_and_the_next_one_to_itself() {
    let mut resilience = retried();
    resilience.timeouts.connect = Some(TIMEOUT);
    let stage = Stage::start().await;
    for mut caller in [stage.caller(By::Shared).await, stage.caller(By::Own).await] {
        let measured = several(async |id| {
            let opening = Delay::new();
            opening.set(NEVER);
            let relay = Relay::new(stage.price.path.inbound()[0], opening).await;
            stage.publish(relay.address, &resilience);
            assert_eq!(caller.call(id).await, 200);
        })
        .await;
        assert!(measured.least(Phase::Retry) >= TIMEOUT, "{measured:?}");
        let connect = measured.least(Phase::Connect);
        assert!(connect > Duration::ZERO && connect < TIMEOUT / 2, "{measured:?}");
        assert!(measured.unexplained() <= ABOUT, "{measured:?}");
    }
}

#[tokio::test]
async fn an_application_that_closes_instead_of_answering_is_charged_for_the_time_until_then() {
    truth(Phase::App, async |trial| {
        let stage = Stage::start().await;
        stage.app.closes.store(true, Ordering::Relaxed);
        let mut caller = stage.caller(By::Shared).await;
        trial.run(&stage.app.answering, async |id| assert_eq!(caller.upload(id).await, 502)).await;
    })
    .await;
}

#[tokio::test]
async fn a_wait_for_a_connection_that_the_deadline_ends_is_charged_to_the_connection() {
    let stage = Stage::start().await;
    for mut caller in [stage.caller(By::Shared).await, stage.caller(By::Own).await] {
        let measured = several(async |id| {
            let opening = Delay::new();
            opening.set(NEVER);
            let relay = Relay::new(stage.price.path.inbound()[0], opening).await;
            stage.publish(relay.address, &in_time(Resilience::default()));
            assert_eq!(caller.call(id).await, 504);
        })
        .await;
        was_spent_on(&measured, &[Phase::Connect]);
    }
}

#[tokio::test]
async fn a_wait_for_a_place_that_the_deadline_ends_is_queued() {
    let limits = Limits { http2_streams: 1, ..Limits::default() };
    let stage = Stage::with(Options { limits, ..Options::default() }, one_connection()).await;
    let host = format!("price\r\noutrigger-timeout: {}ms", TIMEOUT.as_millis());
    for way in [By::Shared, By::Own] {
        stage.relay.cut();
        let (mut caller, mut other) = (stage.caller(way).await, stage.caller(way).await);
        let measured = several(async |id| {
            stage.app.answering.set(2 * TIMEOUT);
            let waiting = async {
                stage.app.answering.begun().await;
                assert_eq!(caller.call_host(&host, id).await, 504);
            };
            let (status, ()) = tokio::join!(other.call("other"), waiting);
            assert_eq!(status, 200);
        })
        .await;
        was_spent_on(&measured, &[Phase::Queue]);
    }
}

#[tokio::test]
async fn what_a_request_waited_before_it_had_to_be_sent_again_is_not_counted_again() {
    let stage = Stage::with(Options::default(), one_connection()).await;
    let (mut caller, mut other) = (stage.caller(By::Own).await, stage.caller(By::Own).await);
    let measured = several(async |id| {
        stage.app.answering.set(TIMEOUT);
        let waiting = async {
            stage.app.answering.begun().await;
            stage.relay.breaks.store(true, Ordering::Relaxed);
            assert_eq!(caller.call(id).await, 200);
        };
        let (status, ()) = tokio::join!(other.call("other"), waiting);
        assert_eq!(status, 200);
    })
    .await;
    let retry = measured.together(&[Phase::Retry]);
    assert!(retry + ABOUT >= TIMEOUT, "{measured:?}");
    assert!(measured.least(Phase::Queue) <= ABOUT, "{measured:?}");
    assert!(measured.least(Phase::Network) > Duration::ZERO, "{measured:?}");
}

#[tokio::test]
async fn an_answer_before_the_requests_end_ends_the_upload() {
    truth(Phase::Upload, async |trial| {
        let stage = Stage::start().await;
        stage.app.early.store(true, Ordering::Relaxed);
        let request = async |id: &str| {
            let mut raw = stage.raw().await;
            raw.send(head("POST", "price", id) + "content-length: 100000\r\n\r\na").await;
            assert!(raw.head().await.starts_with("HTTP/1.1 413 "));
        };
        trial.run(&stage.app.answering, request).await;
    })
    .await;
}

#[tokio::test]
async fn figures_larger_than_the_time_that_passed_are_cut_counted_and_not_passed_on() {
    let stage = Stage::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    stage.publish(listener.local_addr().unwrap(), &Resilience::default());
    let config = mesh::server_config(&stage.price.identity, &[mesh::ALPN_H1]);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"0\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        let figures = "v=1, total=9000000, upload=0, app=9000000";
        let answer = format!("HTTP/1.1 200 OK\r\noutrigger-timing: {figures}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _closed = stream.read_buf(&mut request).await;
    });
    let mut raw = stage.raw().await;
    raw.send(
        "PUT / HTTP/1.1\r\nhost: price\r\nx-request-id: liar\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    .await;
    let answer = raw.head().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("outrigger-timing"), "{answer}");
    let times = Times::of("liar").await;
    assert_eq!(times.get(Phase::Network), Duration::ZERO);
    assert!(times.get(Phase::App) > Duration::ZERO && times.get(Phase::App) <= times.total, "{times:?}");
    assert_eq!(stage.front.metric("outrigger_timings_clamped_total"), 1.0);
}

#[tokio::test]
async fn what_no_phase_accounts_for_is_exported_and_less_than_2_percent() {
    let stage = Stage::start().await;
    let mut caller = stage.caller(By::Shared).await;
    let labels = "{destination=\"demo/price\",port=\"80\",rule=\"\",class=\"request\"";
    let unexplained =
        || stage.front.metric(&format!("outrigger_edge_phase_seconds_total{labels},phase=\"unexplained\"}}"));
    let total = || stage.front.metric(&format!("outrigger_edge_duration_seconds_sum{labels}}}"));
    let mut shares = Vec::new();
    for _ in 0..15 {
        // The other sidecar's lines are written meanwhile, and not during the next request.
        sleep(REST).await;
        let before = (unexplained(), total());
        let id = unused_id();
        caller.call(&id).await;
        Times::of(&id).await;
        shares.push((unexplained() - before.0) / (total() - before.1));
    }
    shares.sort_by(f64::total_cmp);
    assert!(shares[7] <= 0.02, "{shares:?}");
}
