//! The limit by itself: counting, bounds, what is not enforced.

mod accept_queue;
mod healthy;
mod simulation;
mod too_much;
mod waiting;

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

/// An application that was calm, at 100 requests a second of 10 ms, and is full now: as many are inside as may be, more than
/// 100, and one is answered each 10 ms.
fn overloaded(enforced: bool) -> (Concurrency, Instant) {
    let mut now = Instant::now();
    let concurrency = Concurrency::new(now, enforced);
    for _ in 0..200 {
        assert_eq!(concurrency.admit(now), Admission::Admitted);
        now += 10 * MILLI;
        concurrency.end(now, Ended::Answered(10 * MILLI));
    }
    for round in 0..400 {
        for _ in 0..2 {
            let _any = concurrency.admit(now);
        }
        now += 10 * MILLI;
        concurrency.end(now, Ended::Answered(round * 5 * MILLI));
        if let Some(limit) = concurrency.limit() {
            while concurrency.inside() < limit {
                concurrency.enter();
            }
            return (concurrency, now);
        }
    }
    panic!("no limit after 400 answers");
}

#[test]
fn a_limit_that_is_in_force_refuses_and_says_when_it_has_lasted() {
    let (concurrency, now) = overloaded(true);
    let limit = concurrency.limit().unwrap();
    assert!(limit > 100 && concurrency.inside() == limit);
    assert_eq!(concurrency.admit(now), Admission::Refused { lasting: false });
    assert_eq!(concurrency.admit(now + 900 * MILLI), Admission::Refused { lasting: false });
    assert_eq!(concurrency.admit(now + 1000 * MILLI), Admission::Refused { lasting: true });
}

#[test]
fn a_limit_goes_when_it_had_no_work_for_a_second() {
    let (concurrency, now) = overloaded(true);
    assert_eq!(concurrency.admit(now), Admission::Refused { lasting: false });
    assert_eq!(concurrency.admit(now + 1000 * MILLI), Admission::Admitted);
    assert_eq!(concurrency.limit(), None);
}

#[test]
fn what_is_never_refused_is_counted_all_the_same() {
    let (concurrency, now) = overloaded(true);
    let before = concurrency.inside();
    concurrency.enter();
    assert_eq!(concurrency.inside(), before + 1);
    concurrency.end(now, Ended::Untold);
    assert_eq!(concurrency.inside(), before);
}

#[test]
fn a_limit_that_is_not_enforced_says_whom_it_would_refuse() {
    let (concurrency, now) = overloaded(false);
    let before = concurrency.inside();
    assert_eq!(concurrency.admit(now), Admission::Tolerated);
    assert_eq!(concurrency.inside(), before + 1);
    assert_eq!(concurrency.admit(now + 1000 * MILLI), Admission::Admitted, "it has gone by then");
}

#[test]
fn requests_that_nobody_waits_for_any_longer_tell_as_much_as_answers() {
    let mut now = Instant::now();
    let concurrency = Concurrency::new(now, true);
    for _ in 0..200 {
        let _admitted = concurrency.admit(now);
        now += 10 * MILLI;
        concurrency.end(now, Ended::Answered(10 * MILLI));
    }
    // Of ten requests, one is answered, and the clients of three go away after 500 ms.
    for _ in 0..200 {
        for _ in 0..10 {
            let _any = concurrency.admit(now);
        }
        now += 10 * MILLI;
        concurrency.end(now, Ended::Answered(490 * MILLI));
        for _ in 0..3 {
            concurrency.end(now, Ended::GivenUp(500 * MILLI));
        }
    }
    assert!(concurrency.limit().is_some());
}

proptest! {
    #[test]
    fn a_limit_is_never_too_small_never_exceeded_and_never_for_ever(
        full in any::<bool>(),
        steps in prop::collection::vec((0..40_u32, 0..12_u32, 0..12_u32, 0..4000_u32, 0..6_u8), 1..400),
    ) {
        let (concurrency, mut now) = if full {
            overloaded(true)
        } else {
            let now = Instant::now();
            (Concurrency::new(now, true), now)
        };
        let mut inside = concurrency.inside();
        for (pause, arriving, ending, took, how) in steps {
            now += pause * MILLI;
            for _ in 0..arriving {
                let limit = concurrency.limit();
                let refused = matches!(concurrency.admit(now), Admission::Refused { .. });
                prop_assert!(!refused || limit.is_some_and(|limit| inside >= limit));
                prop_assert!(refused || concurrency.limit().is_none_or(|limit| inside < limit));
                inside += u32::from(!refused);
            }
            for _ in 0..ending.min(inside) {
                let took = took * MILLI;
                concurrency.end(now, match how {
                    0 => Ended::Untold,
                    1 => Ended::GivenUp(took),
                    2 => Ended::NotTaken(took),
                    _ => Ended::Answered(took),
                });
                inside -= 1;
            }
            prop_assert_eq!(concurrency.inside(), inside);
            prop_assert!(concurrency.limit().is_none_or(|limit| limit >= LEAST));
        }
        // Requests usually took 4 s at most.
        prop_assert_eq!(concurrency.admit(now + 8000 * MILLI), Admission::Admitted);
    }
}
