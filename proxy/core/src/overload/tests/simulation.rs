//! An application with so many places, requests that come at random moments, and virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use super::super::{Admission, Concurrency, Ended};

/// Seconds since the start -> a figure that holds then.
pub(super) type Course<'a> = &'a dyn Fn(f64) -> f64;

/// An application: how many requests it works on at a time, and how long each takes it on average, in seconds.
#[derive(Clone, Copy)]
pub(super) struct Application<'a> {
    pub(super) places: Course<'a>,
    pub(super) takes: Course<'a>,
    pub(super) spread: Spread,
}

/// How the times of an application are distributed, and by which random numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spread {
    /// Each takes exactly as long.
    Exact(u64),
    /// Exponentially.
    Exponential(u64),
}

/// What holds has to hold for each of these.
pub(super) const SPREADS: [Spread; 5] = [
    Spread::Exact(7),
    Spread::Exponential(1),
    Spread::Exponential(3),
    Spread::Exponential(4),
    Spread::Exponential(7),
];

/// As many places as there are requests.
pub(super) fn unbounded(_: f64) -> f64 {
    1e9
}

/// What became of a request.
#[derive(Clone, Copy)]
struct Outcome {
    at: f64,
    took: Option<f64>,
}

/// What became of all.
pub(super) struct Outcomes(Vec<Outcome>);

/// Splitmix64.
struct Random(u64);

impl Random {
    /// Exponential with mean 1.
    fn exponential(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap()) / f64::from(u32::MAX);
        -(1.0 - uniform * 0.999_999).ln()
    }
}

/// Sends `rate` requests a second for so many seconds through a limit that knows nothing at the begin.
pub(super) fn run(rate: Course<'_>, application: Application<'_>, seconds: f64) -> Outcomes {
    let start = Instant::now();
    let instant = |seconds: f64| start + Duration::from_secs_f64(seconds);
    let nanos = |seconds: f64| Duration::from_secs_f64(seconds).as_nanos();
    let concurrency = Concurrency::new(start, true);
    let (Spread::Exact(seed) | Spread::Exponential(seed)) = application.spread;
    let mut random = Random(seed);
    let mut outcomes = Vec::new();
    // When a request comes, or (with its index) when one is answered.
    let mut events = BinaryHeap::from([Reverse((0_u128, None))]);
    let (mut waiting, mut busy) = (VecDeque::new(), 0.0);
    while let Some(Reverse((at, answered))) = events.pop() {
        let now = Duration::from_nanos(u64::try_from(at).unwrap()).as_secs_f64();
        match answered {
            None if now > seconds => continue,
            None => {
                events.push(Reverse((at + nanos(random.exponential() / rate(now)), None)));
                outcomes.push(Outcome { at: now, took: None });
                match concurrency.admit(instant(now)) {
                    Admission::Refused { .. } => {}
                    Admission::Admitted | Admission::Tolerated => waiting.push_back(outcomes.len() - 1),
                }
            }
            Some(index) => {
                busy -= 1.0;
                let outcome: &mut Outcome = &mut outcomes[index];
                let took = now - outcome.at;
                outcome.took = Some(took);
                concurrency.end(instant(now), Ended::Answered(Duration::from_secs_f64(took)));
            }
        }
        while busy < (application.places)(now)
            && let Some(index) = waiting.pop_front()
        {
            busy += 1.0;
            let factor = match application.spread {
                Spread::Exact(_) => 1.0,
                Spread::Exponential(_) => random.exponential(),
            };
            events.push(Reverse((at + nanos((application.takes)(now) * factor), Some(index))));
        }
    }
    Outcomes(outcomes)
}

impl Outcomes {
    fn during(&self, span: &Range<f64>) -> impl Iterator<Item = &Outcome> {
        let span = span.clone();
        self.0.iter().filter(move |outcome| span.contains(&outcome.at))
    }

    /// Requests refused of those that came then.
    pub(super) fn refused(&self, span: Range<f64>) -> usize {
        self.during(&span).filter(|outcome| outcome.took.is_none()).count()
    }

    /// Part of them that was refused.
    pub(super) fn share_refused(&self, span: Range<f64>) -> f64 {
        let all = self.during(&span).count();
        f64::from(u32::try_from(self.refused(span)).unwrap()) / f64::from(u32::try_from(all).unwrap())
    }

    /// Requests served per second.
    pub(super) fn served(&self, span: Range<f64>) -> f64 {
        let served = self.during(&span).filter(|outcome| outcome.took.is_some()).count();
        f64::from(u32::try_from(served).unwrap()) / (span.end - span.start)
    }

    /// How long 99 of 100 of those that were served took at most, seconds.
    pub(super) fn p99(&self, span: Range<f64>) -> f64 {
        let mut took: Vec<_> = self.during(&span).filter_map(|outcome| outcome.took).collect();
        took.sort_by(f64::total_cmp);
        took[took.len() * 99 / 100]
    }
}
