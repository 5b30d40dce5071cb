//! What an application is taken to have had to do with an exchange that its client gave up.

use std::{collections::VecDeque, time::Duration};

use outrigger_core::overload::Concurrency;
use prometheus_client::registry::Registry;
use tokio::time::advance;

use super::*;

const STEP: Duration = Duration::from_millis(10);

/// How far a request gets.
#[derive(Debug, Clone, Copy)]
enum Far {
    /// No connection to the application was free.
    Waiting,
    /// The client has not sent all of it.
    InPart,
    Whole,
}

struct Application {
    concurrency: Arc<Concurrency>,
    telemetry: Telemetry,
}

impl Application {
    fn new() -> Self {
        let concurrency = Arc::new(Concurrency::new(Instant::now().into_std(), true));
        Self { concurrency, telemetry: Telemetry::new(&mut Registry::default(), None) }
    }

    fn request(&self, far: Far) -> Exchange {
        let record = Record::new(Direction::Inbound, Party::downstream(([127, 0, 0, 1], 1).into(), None));
        let mut exchange = Exchange::begin(&self.telemetry, &Arc::default(), record);
        let now = Instant::now().into_std();
        exchange.hold_place(Place::take(&self.concurrency, now, false, &self.telemetry).ok());
        if !matches!(far, Far::InPart) {
            // One without a body is whole with its head.
            exchange.set_upload(&Upload::none(Idle::new(Duration::ZERO)));
        }
        if !matches!(far, Far::Waiting) {
            exchange.stamp(|stamps| stamps.handed_on = Some(now));
        }
        exchange
    }

    async fn answer(&self) {
        let mut exchange = self.request(Far::Whole);
        advance(STEP).await;
        exchange.stamp(|stamps| stamps.response_head = Some(Instant::now().into_std()));
        exchange.leave_answered(StatusCode::OK);
    }
}

/// Whether an application is taken for overloaded that answers as it always did, while more and more clients come whose
/// requests get so `far`, and leave after half a second, or have no more time then.
async fn is_limited(far: Far, late: bool) -> bool {
    let application = Application::new();
    for _ in 0..200 {
        application.answer().await;
    }
    let mut waiting = VecDeque::new();
    for _ in 0..200 {
        waiting.extend((0..9).map(|_| (Instant::now(), application.request(far))));
        application.answer().await;
        for _ in 0..3 {
            let Some((begun, mut exchange)) = waiting.pop_front_if(|(begun, _)| begun.elapsed() >= 50 * STEP)
            else {
                continue;
            };
            if matches!(far, Far::Waiting) {
                exchange.stamp(|stamps| stamps.queued = begun.elapsed());
            }
            if late {
                exchange.leave_late();
            }
        }
    }
    assert_eq!(usize::try_from(application.concurrency.inside()).unwrap(), waiting.len());
    application.concurrency.limit().is_some()
}

/// Beyond that mimalloc takes another way, of some two hundred instructions.
#[test]
fn what_is_known_of_an_exchange_is_a_small_piece_of_memory() {
    let size = size_of::<Inner>();
    assert!(size < 1024, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn an_application_is_slow_only_with_requests_that_it_has_whole() {
    for late in [false, true] {
        assert!(is_limited(Far::Whole, late).await);
        assert!(!is_limited(Far::InPart, late).await);
    }
    assert!(!is_limited(Far::Waiting, false).await);
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_some_and_has_no_connection_for_others_in_time_has_too_much_to_do() {
    assert!(is_limited(Far::Waiting, true).await);
}
