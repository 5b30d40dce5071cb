//! How many retries there may be, over all requests of this process to a destination (GEP-3388).

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::{
    model::RetryBudget,
    window::{Event, Window},
};

/// 64 s in slots of half a second: the longest interval of a policy, and what it takes to cover it wholly. 1 KiB.
type Requests = Window<128, 500>;

/// The requests and retries of the last seconds, shared by all threads. Counting a request takes no lock; granting a
/// retry, which is rarer, takes a short one, so that the bound is exact.
///
/// At every retry that is granted, with it, the retries of the last `interval` are at most the larger of
/// `percent` % of the requests of the last `interval` and `min_per_second * interval`. So no interval has more than the
/// larger of the two, the requests taken over the interval that ends with its last retry. The share counts requests by
/// half seconds and leaves out a slot that is not wholly inside; it may be that much stricter, never laxer.
///
/// Beyond the share, retries come at `min_per_second`, with a burst of at most one second's worth: a destination that
/// breaks does not meet a whole interval's reserve at once.
#[derive(Debug)]
pub struct Budget {
    /// Common: requests; rare: retries.
    counts: Requests,
    /// Leaf, held for as long as a hundred loads; never across an await.
    reserve: Mutex<Reserve>,
}

/// A token bucket for the retries beyond the share.
#[derive(Debug)]
struct Reserve {
    /// The latest moment that any thread came with: what one granted in a slot, the next one sees.
    now: Instant,
    tokens: f64,
}

impl Budget {
    /// Of a destination that is new at `now`.
    pub fn new(now: Instant) -> Self {
        Self { counts: Requests::new(now), reserve: Mutex::new(Reserve { now, tokens: f64::INFINITY }) }
    }

    /// Counts one request of a client; retries are not counted here.
    pub fn request(&self, now: Instant) {
        self.counts.add(now, Event::Common);
    }

    /// Takes leave for one retry, under the policy in force. What was taken is not given back.
    #[must_use]
    pub fn try_retry(&self, now: Instant, policy: &RetryBudget) -> bool {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        let now = reserve.refill(now, f64::from(policy.min_per_second));
        let retries = self.counts.sum(now, Requests::covering(policy.interval)).rare;
        let requests = self.counts.sum(now, Requests::within(policy.interval)).common;
        let within_share = retries < requests * u64::from(policy.percent) / 100;
        let granted = within_share || (retries < at_least(policy) && reserve.take());
        if granted {
            self.counts.add(now, Event::Rare);
        }
        granted
    }
}

impl Reserve {
    /// Adds what came since the last call, at most `rate`; returns a moment that never goes back.
    fn refill(&mut self, now: Instant, rate: f64) -> Instant {
        let passed = now.saturating_duration_since(self.now);
        self.now = self.now.max(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * rate).min(rate);
        self.now
    }

    fn take(&mut self) -> bool {
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// `min_per_second` over the interval.
fn at_least(policy: &RetryBudget) -> u64 {
    let millis = u64::try_from(policy.interval.as_millis()).unwrap_or(u64::MAX);
    u64::from(policy.min_per_second).saturating_mul(millis) / 1000
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn granted(budget: &Budget, now: Instant, policy: &RetryBudget) -> usize {
        (0..10_000).take_while(|_| budget.try_retry(now, policy)).count()
    }

    #[test]
    fn without_requests_there_is_the_reserve_of_a_second() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let policy = RetryBudget::default();
        assert_eq!(granted(&budget, start, &policy), 10);
        assert_eq!(granted(&budget, start + 100 * MILLI, &policy), 1);
        assert_eq!(granted(&budget, start + 600 * SECOND, &policy), 10);
    }

    #[test]
    fn the_reserve_comes_at_its_rate() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let policy = RetryBudget::default();
        let total: usize = (0..6000).map(|tenth| granted(&budget, start + tenth * 10 * MILLI, &policy)).sum();
        // 60 s at 10/s, less what the coarser window holds back.
        assert!((560..=610).contains(&total), "{total}");
    }

    #[test]
    fn of_many_requests_that_all_fail_a_fifth_is_retried() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let policy = RetryBudget::default();
        let mut retries = 0;
        for milli in 0..60_000 {
            let now = start + milli * MILLI;
            budget.request(now);
            if budget.try_retry(now, &policy) && milli >= 10_000 {
                retries += 1;
            }
        }
        assert!((9_000..=10_000).contains(&retries), "{retries}");
    }

    #[test]
    fn nothing_is_allowed_where_the_policy_allows_nothing() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let policy = RetryBudget { percent: 0, min_per_second: 0, ..RetryBudget::default() };
        for _ in 0..1000 {
            budget.request(start);
        }
        assert!(!budget.try_retry(start, &policy));
    }

    #[test]
    fn a_policy_that_changes_counts_from_the_next_retry_on() {
        let start = Instant::now();
        let budget = Budget::new(start);
        for _ in 0..1000 {
            budget.request(start);
        }
        let percent = |percent| RetryBudget { percent, min_per_second: 0, ..RetryBudget::default() };
        assert_eq!(granted(&budget, start, &percent(10)), 100);
        assert_eq!(granted(&budget, start, &percent(15)), 50);
        assert_eq!(granted(&budget, start, &percent(5)), 0);
    }

    #[test]
    fn threads_together_do_not_exceed_the_budget() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let policy = RetryBudget::default();
        for _ in 0..5000 {
            budget.request(start);
        }
        let total: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let (budget, policy) = (&budget, &policy);
                    // Clocks read on both sides of a slot's edge.
                    let now = start + (498 + thread) * MILLI;
                    scope.spawn(move || (0..2000).filter(|_| budget.try_retry(now, policy)).count())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 1000);
    }

    fn policy() -> impl Strategy<Value = RetryBudget> {
        (0..=100_u32, 1..=60_u64, 0..20_u32).prop_map(|(percent, seconds, min_per_second)| RetryBudget {
            percent,
            interval: Duration::from_secs(seconds),
            min_per_second,
        })
    }

    proptest! {
        #[test]
        fn no_interval_has_more_retries_than_allowed(
            policy in policy(),
            steps in prop::collection::vec((0..900_u32, 0..30_u32, 0..30_u32), 1..120),
        ) {
            let start = Instant::now();
            let budget = Budget::new(start);
            let (mut now, mut requests, mut retries) = (start, Vec::new(), Vec::new());
            for (step, arriving, failing) in steps {
                now += step * MILLI;
                for _ in 0..arriving {
                    budget.request(now);
                    requests.push(now);
                }
                for _ in 0..failing {
                    if budget.try_retry(now, &policy) {
                        retries.push(now);
                    }
                }
                let recent = |events: &[Instant]| {
                    events.iter().filter(|event| now.duration_since(**event) < policy.interval).count() as u64
                };
                let share = recent(&requests) * u64::from(policy.percent) / 100;
                prop_assert!(retries.last() != Some(&now) || recent(&retries) <= share.max(at_least(&policy)));
            }
        }
    }
}
