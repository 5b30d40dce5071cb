//! What one endpoint's estimate does with samples, failures and time.

use std::thread;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn close(latency: Duration, expected: Duration) -> bool {
    latency.abs_diff(expected) <= expected / 50
}

#[test]
fn a_new_endpoint_has_the_default_which_the_first_sample_replaces() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    assert!(close(ewma.latency(start), millis(30)));
    assert!(ewma.latency(start + SECOND) < millis(12));
    ewma.record(start + millis(100), millis(2));
    assert!(close(ewma.latency(start + millis(100)), millis(2)));
}

#[test]
fn a_slower_sample_counts_at_once_and_faster_ones_by_time() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    ewma.record(start, millis(10));
    ewma.record(start, millis(100));
    assert!(close(ewma.latency(start), millis(100)));
    ewma.record(start, millis(10));
    assert!(close(ewma.latency(start), millis(100)), "no time has passed");
    ewma.record(start + 10 * SECOND, millis(10));
    // 10 + 90 / e
    assert!(close(ewma.latency(start + 10 * SECOND), Duration::from_micros(43_109)));
}

#[test]
fn an_endpoint_without_samples_is_not_avoided_for_ever() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    ewma.record(start, 60 * SECOND);
    assert!(ewma.load(start + 30 * SECOND, 0) < ewma.load(start, 0) / 10.0);
    assert!(ewma.load(start + 150 * SECOND, 0) <= 0.000_1);
    // A stream that lasts for days does not hold it for ever either.
    assert!(ewma.load(start + 1200 * SECOND, 1) <= 0.000_2);
}

#[test]
fn an_estimate_falls_more_slowly_while_a_request_finds_out() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    ewma.record(start, SECOND);
    let later = start + 50 * SECOND;
    assert!(ewma.load(later, 0) < 0.01);
    assert!(ewma.load(later, 1) >= 1.0);
}

#[test]
fn requests_in_flight_count_at_once() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    ewma.record(start, millis(8));
    let load = |in_flight| ewma.load(start, in_flight);
    assert!((load(9) / load(0) - 10.0).abs() < 1e-6);
}

#[test]
fn before_the_first_answer_each_request_in_flight_doubles_the_load() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    let load = |in_flight| ewma.load(start, in_flight);
    assert!((load(9) / load(0) - 512.0).abs() < 1e-3);
    assert!(load(u64::MAX).is_finite());
}

#[test]
fn about_equal_estimates_cost_the_same() {
    let start = Instant::now();
    let load = |micros| {
        let ewma = PeakEwma::new(start);
        ewma.record(start, Duration::from_micros(micros));
        ewma.load(start, 0).to_bits()
    };
    assert_eq!(load(5000), load(5100));
    assert_ne!(load(5000), load(6300));
}

#[test]
fn a_failure_never_makes_an_endpoint_look_faster() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    ewma.record(start, 20 * SECOND);
    ewma.penalise(start + 10 * SECOND, millis(1));
    assert!(ewma.latency(start + 10 * SECOND) >= 19 * SECOND);
    let fresh = PeakEwma::new(start);
    fresh.penalise(start, millis(1));
    assert!(close(fresh.latency(start), 5 * SECOND));
}

#[test]
fn failures_are_averaged_in_by_time() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    ewma.record(start, millis(5));
    ewma.penalise(start + millis(100), millis(1));
    // 5 ms, and 1 % of 5 s.
    let once = ewma.latency(start + millis(100));
    assert!(once > millis(45) && once < millis(60), "{once:?}");
    // A timeout is also a peak.
    ewma.penalise(start + millis(100), 2 * SECOND);
    assert!(close(ewma.latency(start + millis(100)), 2 * SECOND));
}

#[test]
fn a_thread_that_is_late_does_no_harm() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start + SECOND);
    ewma.record(start + 5 * SECOND, millis(10));
    ewma.record(start + 4 * SECOND, millis(5));
    assert!(close(ewma.latency(start + 4 * SECOND), millis(10)));
    ewma.record(start, millis(20));
    assert!(close(ewma.latency(start + 5 * SECOND), millis(20)));
}

#[test]
fn threads_agree_on_the_peak() {
    let start = Instant::now();
    let ewma = PeakEwma::new(start);
    thread::scope(|scope| {
        for thread in 1..=4 {
            let ewma = &ewma;
            scope.spawn(move || {
                for sample in 1..1000 {
                    ewma.record(start, Duration::from_micros(sample * thread));
                }
            });
        }
    });
    assert!(close(ewma.latency(start), Duration::from_micros(3996)));
}

proptest! {
    #[test]
    fn any_history_leaves_an_estimate_within_what_was_seen(
        steps in proptest::collection::vec((0..u64::MAX / 4, 0..1_u64 << 40, any::<bool>()), 1..40),
        in_flight: u64,
    ) {
        let start = Instant::now();
        let ewma = PeakEwma::new(start);
        let mut slowest = Duration::from_secs(5);
        for (at, rtt, fails) in steps {
            let (now, rtt) = (start + Duration::from_nanos(at), Duration::from_nanos(rtt));
            slowest = slowest.max(rtt);
            if fails { ewma.penalise(now, rtt) } else { ewma.record(now, rtt) }
            let latency = ewma.latency(now);
            prop_assert!(latency >= Duration::from_micros(99) && latency <= slowest * 101 / 100);
            let load = ewma.load(now, in_flight);
            prop_assert!(load.is_finite() && load > 0.0);
        }
    }
}
