//! Counts over the last seconds, by all threads and without a lock: a ring of slots, each one atomic word.
//!
//! Counting is a load and an add, both relaxed. Nothing ticks: a slot is emptied by the first that counts in it again, and
//! whoever sums skips the slots of earlier turns.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A word is the turn of the ring in 20 bits and two counts of 22 bits each. A slot that nothing touches for exactly 2^20
/// turns (months) would show its old counts once; a count that wraps needs millions of requests in one slot.
const BITS: u32 = 22;
const COUNT: u64 = (1 << BITS) - 1;
const TURNS: u64 = (1 << 20) - 1;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request, an answer.
    Common,
    /// What is rarer and counted beside it: a retry, a failure.
    Rare,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) common: u64,
    pub(crate) rare: u64,
}

/// `SLOTS` slots of `MILLIS` milliseconds each.
#[derive(Debug)]
pub(crate) struct Window<const SLOTS: usize, const MILLIS: u64> {
    base: Instant,
    words: [AtomicU64; SLOTS],
}

impl<const SLOTS: usize, const MILLIS: u64> Window<SLOTS, MILLIS> {
    /// Empty. Time before `base` counts as `base`.
    pub(crate) fn new(base: Instant) -> Self {
        Self { base, words: array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Counts one. Nothing is counted for a `now` that is a whole turn behind that of other threads.
    pub(crate) fn add(&self, now: Instant, event: Event) {
        let one = match event {
            Event::Common => 1,
            Event::Rare => 1 << BITS,
        };
        let Some((word, turn)) = self.slot(self.number(now)) else { return };
        let mut current = word.load(Relaxed);
        loop {
            let age = turn.wrapping_sub(current >> (2 * BITS)) & TURNS;
            if age == 0 {
                word.fetch_add(one, Relaxed);
                return;
            }
            if age > TURNS / 2 {
                return;
            }
            match word.compare_exchange_weak(current, (turn << (2 * BITS)) | one, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) => current = other,
            }
        }
    }

    /// What was counted in the slot of `now` and the `slots - 1` before it.
    pub(crate) fn sum(&self, now: Instant, slots: u64) -> Counts {
        let last = self.number(now);
        let first = last.saturating_sub(slots.saturating_sub(1));
        let mut counts = Counts::default();
        for (word, turn) in (first..=last).filter_map(|number| self.slot(number)) {
            let word = word.load(Relaxed);
            if word >> (2 * BITS) == turn {
                counts.common += word & COUNT;
                counts.rare += (word >> BITS) & COUNT;
            }
        }
        counts
    }

    /// As many slots as lie wholly within the last `time`, that of now included; at least one.
    pub(crate) fn within(time: Duration) -> u64 {
        (millis(time) / MILLIS).clamp(1, Self::slots())
    }

    /// As many slots as cover the last `time` wholly, whenever in its slot now is.
    pub(crate) fn covering(time: Duration) -> u64 {
        (millis(time).div_ceil(MILLIS) + 1).min(Self::slots())
    }

    fn slots() -> u64 {
        u64::try_from(SLOTS).unwrap_or(u64::MAX)
    }

    fn number(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.base)) / MILLIS
    }

    fn slot(&self, number: u64) -> Option<(&AtomicU64, u64)> {
        let place = usize::try_from(number % Self::slots()).ok()?;
        Some((self.words.get(place)?, (number / Self::slots()) & TURNS))
    }
}

/// Whole milliseconds; cheaper than the 128 bits of `Duration::as_millis`.
fn millis(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1000).saturating_add(u64::from(time.subsec_millis()))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    type Small = Window<4, 100>;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_slot_is_forgotten_after_a_turn() {
        let base = Instant::now();
        let window = Small::new(base);
        window.add(base, Event::Common);
        window.add(base + 399 * MILLI, Event::Rare);
        assert_eq!(window.sum(base + 399 * MILLI, 4), Counts { common: 1, rare: 1 });
        assert_eq!(window.sum(base + 400 * MILLI, 4), Counts { common: 0, rare: 1 });
        window.add(base + 400 * MILLI, Event::Common);
        assert_eq!(window.sum(base + 400 * MILLI, 1), Counts { common: 1, rare: 0 });
    }

    #[test]
    fn a_thread_far_behind_counts_nothing() {
        let base = Instant::now();
        let window = Small::new(base);
        window.add(base + 400 * MILLI, Event::Common);
        window.add(base, Event::Common);
        assert_eq!(window.sum(base + 400 * MILLI, 4).common, 1);
    }

    #[test]
    fn no_count_is_lost_between_threads() {
        let base = Instant::now();
        let window = Small::new(base);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        window.add(base + 150 * MILLI, Event::Common);
                        window.add(base + 150 * MILLI, Event::Rare);
                    }
                });
            }
        });
        assert_eq!(window.sum(base + 150 * MILLI, 1), Counts { common: 40_000, rare: 40_000 });
    }

    #[test]
    fn slots_within_a_time_and_slots_that_cover_it() {
        assert_eq!((Small::within(99 * MILLI), Small::covering(99 * MILLI)), (1, 2));
        assert_eq!((Small::within(200 * MILLI), Small::covering(200 * MILLI)), (2, 3));
        assert_eq!((Small::within(1000 * MILLI), Small::covering(1000 * MILLI)), (4, 4));
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_events_between_the_bounds(
            steps in prop::collection::vec(0..90_u32, 1..60),
            time in 100..300_u32,
        ) {
            let base = Instant::now();
            let window = Small::new(base);
            let mut events = Vec::new();
            let mut now = base;
            for step in steps {
                now += step * MILLI;
                window.add(now, Event::Common);
                events.push(now);
                let since = |span: Duration| {
                    events.iter().filter(|event| now.duration_since(**event) < span).count() as u64
                };
                let time = time * MILLI;
                prop_assert!(window.sum(now, Small::within(time)).common <= since(time));
                if Small::covering(time) <= 4 {
                    prop_assert!(window.sum(now, Small::covering(time)).common >= since(time));
                }
            }
        }
    }
}
