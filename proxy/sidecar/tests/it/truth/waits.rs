//! Each phase of which the delay is inside the sidecars: for a place, for another attempt, for an answer from discovery,
//! for the own application's connection.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use outrigger_core::{
    model::{Resilience, Retry, RetryBudget, ServiceName, TrafficLimits},
    telemetry::Phase,
};
use outrigger_proxy::{
    http::Limits,
    outbound::{Discover, Resolving},
    snapshot::Snapshot,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    measure::{Delay, truth, unused_id},
    stage::{By, Stage},
};
use crate::support::Options;

/// The one place there is, is taken by another request, for so long as the application takes to answer it.
async fn taken_place(phase: Phase, way: By, limits: Limits, resilience: Resilience) {
    truth(phase, async |trial| {
        let options = Options { limits: limits.clone(), ..Options::default() };
        let stage = Stage::with(options, resilience.clone()).await;
        let (mut caller, mut other) = (stage.caller(way).await, stage.caller(way).await);
        let place = Delay::default();
        let request = async |id: &str| {
            stage.app.answering.set(place.take().unwrap());
            let taken = async {
                assert_eq!(other.call(&unused_id()).await, 200);
                match phase {
                    // It is free as soon as the application has answered.
                    Phase::ServerProxy => stage.app.answering.ended(),
                    _ => Instant::now(),
                }
            };
            let waiting = async {
                stage.app.answering.begun().await;
                let asked = Instant::now();
                assert_eq!(caller.call(id).await, 200);
                asked
            };
            let (free, asked) = tokio::join!(taken, waiting);
            place.note(free - asked);
        };
        trial.run(&place, request).await;
    })
    .await;
}

pub(super) fn one_connection() -> Resilience {
    let limits = TrafficLimits { connections: 1, ..TrafficLimits::default() };
    Resilience { limits, ..Resilience::default() }
}

#[tokio::test]
async fn a_request_that_waits_for_a_stream_of_the_shared_connection_is_queued() {
    let limits = Limits { http2_streams: 1, ..Limits::default() };
    taken_place(Phase::Queue, By::Shared, limits, one_connection()).await;
}

#[tokio::test]
async fn a_request_that_waits_for_a_connection_of_its_own_is_queued() {
    taken_place(Phase::Queue, By::Own, Limits::default(), one_connection()).await;
}

#[tokio::test]
async fn a_request_that_waits_for_the_inbounds_connection_to_the_application_is_charged_to_the_server_proxy()
{
    let limits = Limits { app_connections: 1, ..Limits::default() };
    taken_place(Phase::ServerProxy, By::Shared, limits, Resilience::default()).await;
}

/// The policy of a destination that may always be asked again, nearly at once.
pub(super) fn retried() -> Resilience {
    let budget = RetryBudget { percent: 100, min_per_second: 1000, ..RetryBudget::default() };
    let pause = Duration::from_millis(1);
    let retry = Retry { backoff_base: pause, backoff_max: pause, ..Retry::enabled() };
    Resilience { retry, budget, ..Resilience::default() }
}

#[tokio::test]
async fn an_attempt_that_failed_and_the_pause_after_it_are_charged_to_the_retry() {
    let Retry { backoff_base, backoff_max, .. } = Retry::default();
    let mut resilience = retried();
    resilience.retry = Retry { backoff_base, backoff_max, ..resilience.retry };
    for way in [By::Shared, By::Own] {
        truth(Phase::Retry, async |trial| {
            let stage = Stage::with(Options::default(), resilience.clone()).await;
            let (mut caller, retried) = (stage.caller(way).await, Delay::default());
            let request = async |id: &str| {
                stage.app.refuses.store(true, Ordering::Relaxed);
                stage.app.refusing.set(retried.take().unwrap());
                stage.app.arrivals();
                assert_eq!(caller.call(id).await, 200);
                // The pause in between is random: what was spent is seen by the application.
                let arrivals = stage.app.arrivals();
                assert_eq!(arrivals.len(), 2);
                retried.note(arrivals[1] - arrivals[0]);
            };
            trial.run(&retried, request).await;
        })
        .await;
    }
}

/// Knows one service more than the snapshot in force, and takes its time to say so.
#[derive(Default)]
struct Slow {
    delay: Delay,
    snapshot: Mutex<Option<Arc<Snapshot>>>,
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slow").finish_non_exhaustive()
    }
}

impl Discover for Slow {
    fn resolve<'a>(&'a self, _service: &'a ServiceName, _timeout: Duration) -> Resolving<'a> {
        Box::pin(async {
            self.delay.spend().await;
            let snapshot = self.snapshot.lock().clone();
            Ok(snapshot.unwrap())
        })
    }

    fn touch(&self, _service: &ServiceName) {}
}

#[tokio::test]
async fn a_request_that_waits_for_discovery_is_charged_to_the_client_proxy() {
    truth(Phase::ClientProxy, async |trial| {
        let discovery = Arc::new(Slow::default());
        let discover: Option<Arc<dyn Discover>> = Some(Arc::clone(&discovery) as _);
        let stage = Stage::with(Options { discover, ..Options::default() }, Resilience::default()).await;
        let snapshot = stage.snapshot("demo/late", stage.relay.address, &Resilience::default());
        *discovery.snapshot.lock() = Some(Arc::new(snapshot));
        let mut caller = stage.caller(By::Shared).await;
        let request = async |id: &str| assert_eq!(caller.call_host("late", id).await, 200);
        trial.run(&discovery.delay, request).await;
    })
    .await;
}
