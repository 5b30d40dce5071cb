//! Buckets, sums and merging, against plain arithmetic.

use proptest::prelude::*;

use super::*;
use crate::telemetry::{AppMakeup, LAST_BUCKET, Makeup, Phase, bucket_index, bucket_lower, bucket_upper};

const MS: Duration = Duration::from_millis(1);

fn recorded(totals: impl IntoIterator<Item = Duration>) -> Sparse {
    let histogram = Histogram::new();
    for total in totals {
        histogram.record(total, &PhaseTimes::default(), None);
    }
    histogram.snapshot()
}

fn close(found: Duration, expected: Duration) -> bool {
    (found.as_secs_f64() / expected.as_secs_f64() - 1.0).abs() < 0.091
}

#[test]
fn bounds_are_powers_of_the_eighth_root_of_two() {
    for index in FIRST_BUCKET..=LAST_BUCKET {
        let exact = (f64::from(index) / 8.0).exp2();
        let bound = bucket_upper(index).as_secs_f64();
        assert!((bound - exact).abs() <= 1.1e-9, "{index}: {bound} {exact}");
        assert_eq!(bucket_index(bucket_upper(index)), index);
        if index < LAST_BUCKET {
            assert_eq!(bucket_index(bucket_upper(index) + Duration::from_nanos(1)), index + 1);
        }
    }
    assert_eq!(bucket_upper(0), Duration::from_secs(1));
    assert_eq!(bucket_upper(LAST_BUCKET - 1), Duration::from_secs(64));
    assert_eq!(bucket_lower(FIRST_BUCKET), Duration::ZERO);
    assert!(bucket_upper(FIRST_BUCKET) >= Duration::from_micros(50));
    assert!(bucket_upper(FIRST_BUCKET) < Duration::from_micros(52));
}

#[test]
fn the_ends_take_what_lies_beyond_them() {
    assert_eq!(bucket_index(Duration::ZERO), FIRST_BUCKET);
    assert_eq!(bucket_index(Duration::from_secs(65)), LAST_BUCKET);
    assert_eq!(bucket_index(Duration::MAX), LAST_BUCKET);
}

#[test]
fn an_empty_histogram_answers_nothing() {
    let empty = Histogram::new().snapshot();
    assert!(empty.is_empty());
    assert_eq!(empty.quantile(0.5), None);
    assert_eq!(empty.mean(), Duration::ZERO);
    assert_eq!(Makeup::slowest(&empty, 10_000), None);
}

#[test]
fn quantiles_are_within_a_buckets_width() {
    let sparse = recorded((1..=1000).map(|millis| MS * millis));
    for (q, millis) in [(0.0, 1), (0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1000)] {
        let found = sparse.quantile(q).unwrap();
        assert!(close(found, MS * millis), "{q}: {found:?}");
    }
    assert_eq!(sparse.mean(), Duration::from_micros(500_500));
}

#[test]
fn beyond_the_last_bound_a_quantile_is_the_mean_there() {
    let sparse = recorded([Duration::from_secs(100), Duration::from_secs(300)]);
    assert_eq!(sparse.quantile(0.99), Some(Duration::from_secs(200)));
}

#[test]
fn short_phases_do_not_vanish_in_rounding() {
    let histogram = Histogram::new();
    let phases: PhaseTimes = [(Phase::ServerProxy, Duration::from_nanos(700))].into_iter().collect();
    for _ in 0..1000 {
        histogram.record(Duration::from_micros(60), &phases, None);
    }
    let sum = histogram.snapshot().sum();
    assert_eq!(sum.phase(Phase::ServerProxy), Duration::from_micros(700));
    assert_eq!(sum.count, 1000);
}

#[test]
fn the_slowest_share_is_made_of_its_own_phases_only() {
    let histogram = Histogram::new();
    let app = |time: Duration| [(Phase::App, time)].into_iter().collect();
    let queue = |time: Duration| [(Phase::Queue, time), (Phase::App, MS)].into_iter().collect();
    for _ in 0..990 {
        histogram.record(MS * 2, &app(MS * 2), Some(MS));
    }
    for _ in 0..10 {
        histogram.record(MS * 100, &queue(MS * 97), None);
    }
    let slowest = Makeup::slowest(&histogram.snapshot(), 10_000).unwrap();
    assert_eq!(slowest.requests, 10);
    assert_eq!(slowest.mean(), MS * 100);
    assert!(slowest.above < MS * 100 && slowest.above > MS * 90);
    for (phase, time) in slowest.phases() {
        let expected = match phase {
            Phase::Queue => MS * 97,
            Phase::App => MS,
            _ => Duration::ZERO,
        };
        assert_eq!(time, expected, "{phase}");
    }
    assert_eq!(slowest.unexplained(), MS * 2);
    assert_eq!(slowest.app().requests, 0);
    let all = Makeup::slowest(&histogram.snapshot(), 1_000_000).unwrap();
    assert_eq!(all.requests, 1000);
    // Of 990 requests it is known: 1 ms each, and 1 ms of the application's own.
    let known = Duration::from_micros(990);
    assert_eq!(all.app(), AppMakeup { requests: 990, own: known, waiting: known });
    // One more than the ten takes the whole next bucket in.
    assert_eq!(Makeup::slowest(&histogram.snapshot(), 10_001).unwrap().requests, 1000);
    assert_eq!(Makeup::slowest(&histogram.snapshot(), 0).unwrap().requests, 10);
}

#[test]
fn the_parts_of_the_application_add_up_to_it_where_they_are_known() {
    let histogram = Histogram::new();
    let app = |time: Duration| [(Phase::App, time)].into_iter().collect::<PhaseTimes>();
    histogram.record(MS * 10, &app(MS * 10), Some(MS * 7));
    histogram.record(MS * 10, &app(MS * 10), Some(Duration::ZERO));
    histogram.record(MS * 10, &app(MS * 10), None);
    // More than the phase is cut to it.
    histogram.record(MS * 10, &app(MS * 2), Some(MS * 3));
    let sum = histogram.snapshot().sum();
    assert_eq!(sum.app, AppSplit { requests: 3, own_us: 13_000, waiting_us: 9_000 });
    assert_eq!(sum.phase(Phase::App), MS * 32);
}

#[test]
fn a_delta_is_what_was_added_since() {
    let histogram = Histogram::new();
    histogram.record(MS, &PhaseTimes::default(), None);
    histogram.record(MS * 50, &PhaseTimes::default(), None);
    let before = histogram.snapshot();
    assert!(histogram.snapshot().since(&before).is_empty());
    histogram.record(MS * 50, &PhaseTimes::default(), None);
    histogram.record(MS * 200, &PhaseTimes::default(), None);
    let mut delta = histogram.snapshot().since(&before);
    assert_eq!(delta, recorded([MS * 50, MS * 200]));
    delta.merge(&before);
    assert_eq!(delta, histogram.snapshot());
}

proptest! {
    #[test]
    fn merging_equals_recording_together(
        here in proptest::collection::vec(0..100_000_u64, 0..50),
        there in proptest::collection::vec(0..100_000_u64, 0..50),
    ) {
        let micros = |all: &[u64]| all.iter().map(|us| Duration::from_micros(*us)).collect::<Vec<_>>();
        let mut merged = recorded(micros(&here));
        merged.merge(&recorded(micros(&there)));
        prop_assert_eq!(merged, recorded(micros(&[here, there].concat())));
    }

    #[test]
    fn every_total_lies_in_its_bucket(nanos in 1..200_000_000_000_u64) {
        let total = Duration::from_nanos(nanos);
        let index = bucket_index(total);
        prop_assert!(total > bucket_lower(index));
        prop_assert!(total <= bucket_upper(index) || index == LAST_BUCKET);
    }

    #[test]
    fn a_quantile_never_falls_as_q_rises(totals in proptest::collection::vec(1..1_000_000_u64, 1..50), a in 0.0..1.0, b in 0.0..1.0) {
        let sparse = recorded(totals.into_iter().map(Duration::from_micros));
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        prop_assert!(sparse.quantile(low) <= sparse.quantile(high));
    }
}
