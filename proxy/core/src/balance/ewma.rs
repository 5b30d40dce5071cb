//! What an endpoint costs: its latency as it was seen lately, times the requests that are under way there.
//!
//! The estimate follows Linkerd's peak-EWMA: a slower sample raises it at once, faster ones lower it exponentially. Unlike
//! there, it falls more slowly at use while requests are in flight, so that one request finds out whether a slow endpoint
//! has recovered, not a herd; failures are averaged in as very slow answers, so that a fast failure attracts nobody; and
//! estimates are compared in coarse steps, so that endpoints that are about equal share.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::Cost;

/// How fast a sample is forgotten, seconds.
const DECAY: f32 = 10.0;

/// The estimate before the first sample, seconds.
const DEFAULT: f32 = 0.030;

/// How fast that is forgotten, seconds: within a few seconds the first request comes, however fast the others are.
const DEFAULT_DECAY: f32 = 1.0;

/// So long after its last sample an estimate stands, seconds; then it falls. Without this, the one of two equals that is
/// used less, perhaps because of its weight, would always look a little better.
const QUIET: f32 = 1.0;

/// So much more slowly an estimate falls at use while requests are in flight. Not never: a stream may last for days.
const IN_FLIGHT_DECAY: f32 = 8.0;

/// What a failure counts as at least, seconds.
const PENALTY: f32 = 5.0;

/// No estimate is lower, seconds: differences below are noise, and a load of zero would ignore what is in flight.
const FLOOR: f32 = 0.000_1;

/// Two bits of the mantissa are compared, four steps per doubling.
const STEPS: u32 = !((1 << 21) - 1);

/// The estimated latency of an endpoint, shared by all threads without a lock.
///
/// One atomic word: the seconds as `f32`, and the moment of the last sample in 1/64 s since `created`. Of the samples of
/// one such tick the first is averaged in, and every one that is slower than the estimate; so a busy endpoint's word is
/// mostly read. The moment wraps after 776 days without any sample.
#[derive(Debug)]
pub struct PeakEwma {
    created: Instant,
    /// 0: no sample yet.
    word: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Estimate {
    seconds: f32,
    tick: u32,
}

impl PeakEwma {
    /// Of an endpoint that is new at `now`.
    pub fn new(now: Instant) -> Self {
        Self { created: now, word: AtomicU64::new(0) }
    }

    /// A request was answered after `rtt`, by whatever is not a failure.
    pub fn record(&self, now: Instant, rtt: Duration) {
        let sample = rtt.as_secs_f32().max(FLOOR);
        self.update(
            now,
            sample,
            |estimate, weight| {
                if sample > estimate { sample } else { mix(estimate, sample, weight) }
            },
        );
    }

    /// A request failed after `rtt`, or the endpoint said that it has too much to do.
    pub fn penalise(&self, now: Instant, rtt: Duration) {
        let sample = rtt.as_secs_f32().max(FLOOR);
        self.update(now, sample.max(PENALTY), |estimate, weight| {
            mix(estimate, sample.max(PENALTY).max(estimate), weight).max(sample)
        });
    }

    /// What one more request costs with `in_flight` under way: seconds of latency, and as many for each of those.
    ///
    /// Before the first answer each request under way doubles it: the default may be far too low, and only a few
    /// requests are risked to find out.
    pub fn cost(&self, now: Instant, in_flight: u64) -> Cost {
        let estimate = Estimate::of(self.word.load(Relaxed));
        let slower = if in_flight == 0 { 1.0 } else { IN_FLIGHT_DECAY };
        let idle = f64::from(f32::from_bits(self.seconds(estimate, now, slower).to_bits() & STEPS));
        let times = match estimate {
            Some(_) => in_flight as f64,
            // No endpoint has a thousand before its first answer.
            None => f64::from(u32::try_from(in_flight).unwrap_or(u32::MAX).min(1000)).exp2() - 1.0,
        };
        Cost { idle, under_way: idle * times }
    }

    /// [`cost`](Self::cost) as one number, for an endpoint of average weight. The lower the better.
    pub fn load(&self, now: Instant, in_flight: u64) -> f64 {
        let Cost { idle, under_way } = self.cost(now, in_flight);
        idle + under_way
    }

    /// The estimate, to be shown: without samples it falls.
    pub fn latency(&self, now: Instant) -> Duration {
        let estimate = Estimate::of(self.word.load(Relaxed));
        Duration::try_from_secs_f32(self.seconds(estimate, now, 1.0)).unwrap_or(Duration::MAX)
    }

    /// The estimate as it is at `now`, having fallen since the last sample.
    fn seconds(&self, estimate: Option<Estimate>, now: Instant, slower: f32) -> f32 {
        let tick = self.tick(now);
        let (seconds, quiet, decay) = match estimate {
            Some(estimate) => (estimate.seconds, estimate.age(tick) - QUIET, DECAY),
            None => (DEFAULT, seconds_of(tick), DEFAULT_DECAY),
        };
        // The exponential is most of what a cost takes, and a busy endpoint was sampled just now.
        if quiet <= 0.0 { seconds } else { (seconds * (-quiet / (decay * slower)).exp()).max(FLOOR) }
    }

    /// `next` makes the new estimate of the old one and the weight that it keeps; the first sample is taken as it is.
    fn update(&self, now: Instant, first: f32, next: impl Fn(f32, f32) -> f32) {
        let tick = self.tick(now);
        let _unchanged = self.word.fetch_update(Relaxed, Relaxed, |word| {
            let Some(estimate) = Estimate::of(word) else {
                return Some(Estimate { seconds: first, tick }.word());
            };
            let age = estimate.age(tick);
            let seconds = next(estimate.seconds, (-age / DECAY).exp());
            // Exact: within a tick it is either the same number or a peak.
            let changed = seconds.to_bits() != estimate.seconds.to_bits();
            let tick = if age == 0.0 { estimate.tick } else { tick };
            (changed || tick != estimate.tick).then(|| Estimate { seconds, tick }.word())
        });
    }

    fn tick(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.created);
        let ticks = since.as_secs().wrapping_mul(64) + u64::from(since.subsec_nanos() / 15_625_000);
        // The low half.
        u32::try_from(ticks & u64::from(u32::MAX)).unwrap_or_default()
    }
}

impl Estimate {
    fn of(word: u64) -> Option<Self> {
        let half = |half: u64| u32::try_from(half & u64::from(u32::MAX)).unwrap_or_default();
        (word != 0).then(|| Self { seconds: f32::from_bits(half(word)), tick: half(word >> 32) })
    }

    /// Never 0, as no estimate is.
    fn word(self) -> u64 {
        u64::from(self.tick) << 32 | u64::from(self.seconds.to_bits())
    }

    /// Seconds from the last sample to `tick`; none if another thread's clock was read later.
    fn age(self, tick: u32) -> f32 {
        let age = tick.wrapping_sub(self.tick);
        // A thread is less than 17 minutes late.
        if age > u32::MAX - (1 << 16) { 0.0 } else { seconds_of(age) }
    }
}

/// Of a number of ticks, exact to seven digits.
fn seconds_of(ticks: u32) -> f32 {
    ticks as f32 / 64.0
}

fn mix(old: f32, new: f32, weight: f32) -> f32 {
    old * weight + new * (1.0 - weight)
}

#[cfg(test)]
mod tests;
