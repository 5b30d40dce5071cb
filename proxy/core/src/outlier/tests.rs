//! When an endpoint is ejected, for how long, and how it comes back.

mod everybody;
mod model;

use std::thread;

use proptest::prelude::*;

use super::*;
use crate::balance::Cost;

const SECOND: Duration = Duration::from_secs(1);
const CONNECT: Verdict = Verdict::Failure(Failure::Connect);
const BROKEN: Verdict = Verdict::Failure(Failure::Application);

/// A destination, with a clock.
struct Set {
    now: Instant,
    policy: Outlier,
    ejections: Ejections,
    members: Vec<Arc<Accrual>>,
}

impl Set {
    fn new(size: usize) -> Self {
        let now = Instant::now();
        let members: Vec<_> = (0..size).map(|_| Arc::new(Accrual::new(now))).collect();
        let set = Self { now, policy: Outlier::default(), ejections: Ejections::new(), members };
        set.update();
        set
    }

    fn update(&self) {
        self.ejections.update(self.now, self.members.clone(), &self.policy);
    }

    /// Ends `times` attempts at one endpoint, each admitted if it can be, else begun before it was ejected.
    fn record(&self, index: usize, verdict: Verdict, times: u32) {
        for _ in 0..times {
            self.end(index, self.members[index].admit(self.now).unwrap_or(Admission::Open), verdict);
        }
    }

    fn end(&self, index: usize, admission: Admission, verdict: Verdict) {
        let ending = Ending { now: self.now, verdict, random: u64::MAX };
        self.ejections.record(&self.members[index], admission, ending, &self.policy);
    }

    fn standing(&self, index: usize) -> Standing {
        self.members[index].standing(self.now)
    }

    fn is_healthy(&self, index: usize) -> bool {
        self.standing(index) == Standing::Healthy
    }

    fn healthy(&self) -> usize {
        (0..self.members.len()).filter(|index| self.is_healthy(*index)).count()
    }

    fn until(&self, index: usize) -> Duration {
        match self.standing(index) {
            Standing::Ejected { until, .. } => until - self.now,
            other => panic!("{other:?}"),
        }
    }

    fn probe(&self, index: usize) -> Probe {
        match self.members[index].admit(self.now) {
            Some(Admission::Probe(probe)) => probe,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn seven_failures_in_a_row_eject_and_six_do_not() {
    let mut set = Set::new(3);
    set.record(0, CONNECT, 6);
    assert!(set.is_healthy(0));
    set.record(0, CONNECT, 1);
    let until = set.now + set.until(0);
    assert_eq!(set.standing(0), Standing::Ejected { until, why: Failure::Connect, times: 1 });
    assert!((SECOND..=SECOND * 3 / 2).contains(&set.until(0)));
    assert_eq!(set.members[0].cost(set.now, Cost::from(1.0)), None);
    assert!(set.members[0].admit(set.now).is_none());
    set.now = until;
    assert_eq!(set.standing(0), Standing::Probing { why: Failure::Connect, times: 1 });
}

#[test]
fn any_success_begins_the_count_anew() {
    let set = Set::new(3);
    for _ in 0..10 {
        set.record(0, CONNECT, 6);
        set.record(0, Verdict::Success, 1);
    }
    assert!(set.is_healthy(0));
}

#[test]
fn a_client_that_leaves_never_counts_in_either_direction() {
    let set = Set::new(3);
    set.record(0, CONNECT, 6);
    set.record(0, Verdict::Ignored, 100);
    assert!(set.is_healthy(0));
    set.record(0, CONNECT, 1);
    assert!(!set.is_healthy(0));
}

#[test]
fn a_policy_of_zero_ejects_nobody_and_takes_everybody_back() {
    let mut set = Set::new(3);
    set.record(0, CONNECT, 7);
    set.policy.consecutive_failures = 0;
    set.update();
    assert_eq!(set.healthy(), 3);
    set.record(0, CONNECT, 100);
    assert_eq!(set.healthy(), 3);
}

#[test]
fn exactly_one_request_probes_and_its_success_brings_the_endpoint_back() {
    let mut set = Set::new(3);
    set.record(0, CONNECT, 7);
    set.now += 2 * SECOND;
    // Whoever draws it takes it.
    assert_eq!(set.members[0].cost(set.now, Cost::from(9.0)), Some(Cost::default()));
    let probe = set.probe(0);
    assert_eq!(set.members[0].cost(set.now, Cost::from(9.0)), None);
    assert!(set.members[0].admit(set.now).is_none());
    set.end(0, Admission::Probe(probe), Verdict::Success);
    assert!(set.is_healthy(0));
    set.record(0, CONNECT, 6);
    assert!(set.is_healthy(0), "the failures of before are forgotten");
}

#[test]
fn a_probe_without_a_verdict_is_given_back() {
    let mut set = Set::new(3);
    set.record(0, CONNECT, 7);
    set.now += 2 * SECOND;
    drop(set.probe(0));
    assert!(matches!(set.standing(0), Standing::Probing { times: 1, .. }));
    let cancelled = set.probe(0);
    set.end(0, Admission::Probe(cancelled), Verdict::Ignored);
    let third = set.probe(0);
    set.end(0, Admission::Probe(third), Verdict::Success);
    assert!(set.is_healthy(0));
}

#[test]
fn each_failed_probe_doubles_the_time_up_to_the_longest() {
    let mut set = Set::new(3);
    set.record(0, CONNECT, 7);
    let mut seconds = Vec::new();
    for _ in 0..9 {
        let until = set.until(0);
        seconds.push(until.as_secs());
        set.now += until;
        let probe = set.probe(0);
        set.end(0, Admission::Probe(probe), CONNECT);
    }
    // The random number is the largest: nothing is added, and at the longest all of the third is taken off.
    assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 40, 40, 40]);
}

#[test]
fn a_healthy_while_lets_the_time_shrink_again() {
    let mut set = Set::new(3);
    set.record(0, CONNECT, 7);
    for _ in 0..3 {
        set.now += set.until(0);
        let probe = set.probe(0);
        set.end(0, Admission::Probe(probe), CONNECT);
    }
    set.now += set.until(0);
    let probe = set.probe(0);
    set.end(0, Admission::Probe(probe), Verdict::Success);
    // Four ejections; two steps back, one on.
    set.now += 130 * SECOND;
    set.record(0, CONNECT, 7);
    assert!(matches!(set.standing(0), Standing::Ejected { times: 3, .. }));
    set.now += set.until(0);
    let probe = set.probe(0);
    set.end(0, Admission::Probe(probe), Verdict::Success);
    set.now += 3600 * SECOND;
    set.record(0, CONNECT, 7);
    assert!(matches!(set.standing(0), Standing::Ejected { times: 1, .. }));
}

#[test]
fn requests_that_began_before_an_ejection_neither_end_nor_lengthen_it() {
    let set = Set::new(3);
    set.record(0, CONNECT, 7);
    let before = set.standing(0);
    set.end(0, Admission::Open, Verdict::Success);
    for _ in 0..50 {
        set.end(0, Admission::Open, CONNECT);
    }
    assert_eq!(set.standing(0), before);
}

#[test]
fn the_cap_is_a_tenth_at_least_one_and_leaves_half() {
    let policy = Outlier::default();
    for (size, expected) in [(0, 0), (1, 0), (2, 1), (3, 1), (10, 1), (19, 1), (20, 2), (100, 10)] {
        assert_eq!(cap(size, &policy), expected, "{size}");
    }
    let half = Outlier { max_ejected_percent: 50, ..Outlier::default() };
    for (size, expected) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (100, 50)] {
        assert_eq!(cap(size, &half), expected, "{size}");
    }
    let none = Outlier { max_ejected_percent: 0, ..Outlier::default() };
    assert_eq!((cap(1, &none), cap(2, &none), cap(1000, &none)), (0, 1, 1));
}

#[test]
fn a_lone_endpoint_and_a_destination_that_is_down_keep_taking_requests() {
    let lone = Set::new(1);
    lone.record(0, CONNECT, 100);
    assert!(lone.is_healthy(0));
    let down = Set::new(20);
    for index in 0..20 {
        down.record(index, CONNECT, 100);
    }
    assert_eq!(down.healthy(), 18);
}

#[test]
fn a_set_that_shrinks_takes_back_who_would_return_first() {
    let mut set = Set::new(20);
    set.record(3, CONNECT, 7);
    set.now += SECOND / 2;
    set.record(5, CONNECT, 7);
    assert_eq!(set.healthy(), 18);
    let (three, five) = (Arc::clone(&set.members[3]), Arc::clone(&set.members[5]));
    set.members.truncate(10);
    set.update();
    assert_eq!(three.standing(set.now), Standing::Healthy);
    assert!(matches!(five.standing(set.now), Standing::Ejected { .. }));
    set.members = vec![five];
    set.update();
    assert!(set.is_healthy(0));
}

#[test]
fn an_endpoint_that_left_holds_no_place_and_its_old_probe_decides_nothing() {
    let mut set = Set::new(2);
    set.record(0, CONNECT, 7);
    set.now += 2 * SECOND;
    let probe = set.probe(0);
    let gone = std::mem::replace(&mut set.members[0], Arc::new(Accrual::new(set.now)));
    set.update();
    set.record(1, CONNECT, 7);
    assert!(!set.is_healthy(1), "there is room again");
    let ending = Ending { now: set.now, verdict: CONNECT, random: 0 };
    set.ejections.record(&gone, Admission::Probe(probe), ending, &set.policy);
    assert_eq!(gone.standing(set.now), Standing::Healthy);
    // Nor is one ejected that is in no set.
    for _ in 0..50 {
        set.ejections.record(&gone, Admission::Open, ending, &set.policy);
    }
    assert_eq!(gone.standing(set.now), Standing::Healthy);
}

#[test]
fn one_claim_is_given_however_many_threads_ask() {
    let mut set = Set::new(3);
    set.record(0, CONNECT, 7);
    set.now += 2 * SECOND;
    let probes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| set.members[0].admit(set.now))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(probes.len(), 1);
}

#[test]
fn threads_together_keep_the_cap() {
    let set = Set::new(20);
    thread::scope(|scope| {
        for thread in 0..4 {
            let set = &set;
            scope.spawn(move || {
                for request in 0..5_000 {
                    set.record((request + thread * 5) % 20, CONNECT, 1);
                    assert!(set.healthy() >= 18);
                }
            });
        }
    });
    assert_eq!(set.healthy(), 18);
}

proptest! {
    #[test]
    fn an_ejection_is_as_long_as_documented(
        base in 100..=3_600_000_u64,
        more in 1..=24_u32,
        times in 1..200_u32,
        random: u64,
    ) {
        let base_ejection = Duration::from_millis(base);
        let policy = Outlier { base_ejection, max_ejection: base_ejection * more, ..Outlier::default() };
        let plain = base_ejection.saturating_mul(2_u32.saturating_pow(times - 1)).min(policy.max_ejection);
        let lasts = duration(&policy, times, random);
        let nanosecond = Duration::from_nanos(1);
        prop_assert!(lasts <= policy.max_ejection && lasts <= plain * 3 / 2);
        prop_assert!(lasts + nanosecond * 2 >= plain || lasts + nanosecond * 2 >= policy.max_ejection * 2 / 3);
    }
}
