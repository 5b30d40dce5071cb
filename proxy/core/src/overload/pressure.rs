//! How long what is ready to run waits for its turn on one thread, and what part of new requests is refused for it.
//!
//! ```text
//! request -> Pressure::probe: time for one? -> a task that is made ready, last in line -> its turn -> Pressure::observe
//!         -> Pressure::admit
//! ```

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::Admission;

/// From one probe to the next, at least.
const INTERVAL: Duration = Duration::from_millis(10);
/// A delay that is over the bound for no longer is a pause, and no overload.
const PATIENCE: Duration = Duration::from_millis(100);
/// One that is over it for so long is no passing matter.
const LASTING: Duration = Duration::from_secs(1);
/// What was seen longer ago says nothing.
const STALE: Duration = Duration::from_secs(1);
/// Some are always let in: how else would it be seen that it is over.
const MOST: u64 = 950;

/// The delay of one thread. Written by that thread, read by any; no locks.
///
/// Once delays have been over `bound` for 100 ms, requests are refused at random: none at the bound, 95 % at three times the bound, in
/// proportion between. So much is refused as keeps the delay there, for refusing costs less than serving.
#[derive(Debug)]
pub struct Pressure {
    base: Instant,
    bound: u64,
    /// When a probe that is on its way began; 0: none is. Moments are microseconds after `base`, and one more.
    asked: AtomicU64,
    /// When the last one came through, and how long it took.
    seen: AtomicU64,
    delay: AtomicU64,
    /// Since when delays are over the bound; 0: they are not.
    over: AtomicU64,
}

impl Pressure {
    /// Of a thread that begins at `now`.
    pub fn new(now: Instant, bound: Duration) -> Self {
        Self {
            base: now,
            bound: micros(bound).max(1),
            asked: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            delay: AtomicU64::new(0),
            over: AtomicU64::new(0),
        }
    }

    /// Whether a probe is to be sent through the line now; it ends with [`observe`](Self::observe).
    #[must_use]
    pub fn probe(&self, now: Instant) -> bool {
        let now = self.moment(now);
        let due = self.asked.load(Relaxed) == 0 && now >= self.seen.load(Relaxed) + micros(INTERVAL);
        if due {
            self.asked.store(now, Relaxed);
        }
        due
    }

    /// A probe came through.
    pub fn observe(&self, now: Instant) {
        let now = self.moment(now);
        let asked = self.asked.swap(0, Relaxed);
        if asked == 0 {
            return;
        }
        let delay = now.saturating_sub(asked);
        self.delay.store(delay, Relaxed);
        self.seen.store(now, Relaxed);
        if delay <= self.bound {
            self.over.store(0, Relaxed);
        } else if self.over.load(Relaxed) == 0 {
            self.over.store(now, Relaxed);
        }
    }

    /// Whether a new request may be taken. `random`: uniform over all of `u32`, drawn only if it is needed.
    pub fn admit(&self, now: Instant, random: impl FnOnce() -> u32) -> Admission {
        let over = self.over.load(Relaxed);
        let moment = self.moment(now);
        if over == 0 || moment < over.saturating_add(micros(PATIENCE)) {
            return Admission::Admitted;
        }
        let excess = self.delay_at(moment).saturating_sub(self.bound);
        let share = (excess.saturating_mul(MOST) / self.bound.saturating_mul(2)).min(MOST);
        if u64::from(random()) * 1000 >= share << 32 {
            return Admission::Admitted;
        }
        Admission::Refused { lasting: moment >= over.saturating_add(micros(LASTING)) }
    }

    /// How long the last probe took, or the one on its way has taken if that is longer; zero if there was none lately.
    pub fn delay(&self, now: Instant) -> Duration {
        Duration::from_micros(self.delay_at(self.moment(now)))
    }

    fn delay_at(&self, now: u64) -> u64 {
        let last = self.delay.load(Relaxed);
        match self.asked.load(Relaxed) {
            0 if now > self.seen.load(Relaxed).saturating_add(micros(STALE)) => 0,
            0 => last,
            asked => last.max(now.saturating_sub(asked)),
        }
    }

    fn moment(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.base)) + 1
    }
}

fn micros(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const BOUND: Duration = Duration::from_millis(200);

    fn refuses(pressure: &Pressure, now: Instant, random: u32) -> bool {
        matches!(pressure.admit(now, || random), Admission::Refused { .. })
    }

    /// Sends one probe that takes `delay`; returns when it is through.
    fn pass(pressure: &Pressure, now: Instant, delay: Duration) -> Instant {
        assert!(pressure.probe(now));
        pressure.observe(now + delay);
        now + delay
    }

    #[test]
    fn there_is_one_probe_at_a_time_and_not_too_many() {
        let now = Instant::now();
        let pressure = Pressure::new(now, BOUND);
        assert!(pressure.probe(now + 10 * MILLI));
        assert!(!pressure.probe(now + 500 * MILLI));
        pressure.observe(now + 501 * MILLI);
        assert!(!pressure.probe(now + 510 * MILLI));
        assert!(pressure.probe(now + 511 * MILLI));
    }

    #[test]
    fn a_pause_refuses_nobody_and_what_lasts_does() {
        let start = Instant::now() + 20 * MILLI;
        let pressure = Pressure::new(start - 20 * MILLI, BOUND);
        let after = pass(&pressure, start, 700 * MILLI);
        assert!(!refuses(&pressure, after, 0));
        let after = pass(&pressure, after + 10 * MILLI, MILLI);
        assert!(!refuses(&pressure, after + 200 * MILLI, 0));
        let after = pass(&pressure, after + 200 * MILLI, 700 * MILLI);
        let after = pass(&pressure, after + 10 * MILLI, 700 * MILLI);
        assert_eq!(pressure.admit(after, || 0), Admission::Refused { lasting: false });
        assert_eq!(pressure.admit(after + 1000 * MILLI, || 0), Admission::Refused { lasting: true });
        assert!(!refuses(&pressure, after, u32::MAX), "some are always let in");
    }

    #[test]
    fn more_is_refused_the_longer_the_delay() {
        let start = Instant::now();
        let mut before = 0;
        for delay in [201, 250, 300, 400, 500, 600, 5000] {
            let pressure = Pressure::new(start, BOUND);
            let after = pass(&pressure, start + 20 * MILLI, delay * MILLI);
            let after = pass(&pressure, after + 100 * MILLI, delay * MILLI);
            let refused = (0..1000_u32).filter(|n| refuses(&pressure, after, n * 4_294_967)).count();
            assert!(refused >= before && refused <= 951, "{delay} ms: {refused}");
            before = refused;
        }
        assert!(before >= 949, "{before}");
    }

    #[test]
    fn what_was_long_ago_counts_for_nothing_and_what_is_still_under_way_does() {
        let start = Instant::now();
        let pressure = Pressure::new(start, BOUND);
        let after = pass(&pressure, start + 20 * MILLI, 700 * MILLI);
        let after = pass(&pressure, after + 100 * MILLI, 700 * MILLI);
        assert_eq!(pressure.delay(after), 700 * MILLI);
        assert!(!refuses(&pressure, after + 1001 * MILLI, 0));
        assert_eq!(pressure.delay(after + 1001 * MILLI), Duration::ZERO);
        assert!(pressure.probe(after + 20 * MILLI));
        assert_eq!(pressure.delay(after + 1520 * MILLI), 1500 * MILLI);
        assert!(refuses(&pressure, after + 1520 * MILLI, 0));
    }

    /// A thread that serves what is in line: a request takes 1 ms, refusing one 0.2 ms.
    #[test]
    fn at_three_times_what_it_can_do_the_delay_stays_bounded_and_most_of_its_time_goes_to_requests() {
        let start = Instant::now();
        let pressure = Pressure::new(start, BOUND);
        let (mut now, mut line, mut probe) = (start, std::collections::VecDeque::new(), None);
        let (mut arrived, mut served, mut longest, mut state) = (0_u32, 0_u32, Duration::ZERO, 1_u32);
        let load = |now: Instant| if now - start < 10_000 * MILLI { 3000 } else { 500 };
        let mut next = start;
        let mut recovered = None;
        while now < start + 15_000 * MILLI {
            while next <= now {
                line.push_back(next);
                arrived += 1;
                next += Duration::from_secs(1) / load(next);
            }
            let Some(begun) = line.pop_front() else {
                now = next;
                continue;
            };
            if probe.is_some_and(|at| begun >= at) {
                pressure.observe(now);
                probe = None;
            }
            if pressure.probe(now) {
                probe = Some(now);
            }
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let refused = refuses(&pressure, now, state);
            now += if refused { 200 * MILLI / 1000 } else { MILLI };
            served += u32::from(!refused && now - start < 10_000 * MILLI);
            if now - start > 2000 * MILLI {
                longest = longest.max(now - begun);
            }
            if now - start > 10_000 * MILLI {
                recovered = if refused { None } else { recovered.or(Some(now)) };
            }
        }
        assert!(arrived > 30_000);
        assert!(longest < 4 * BOUND, "{longest:?}");
        // Of 10 s, refusing 5 of 6 takes 5.
        assert!(served > 4_000, "{served}");
        assert!(recovered.unwrap() - start < 12_000 * MILLI);
    }
}
