//! Which endpoints have no room, as one caller sees it, and whether another one may have.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A refusal says something for so long; one that has lasted at the endpoint, for so long.
const ONE: Duration = Duration::from_secs(1);
const LASTING: Duration = Duration::from_secs(10);

/// What one endpoint refused for want of room. Shared by all threads, without a lock.
#[derive(Debug)]
pub struct Refusals {
    base: Instant,
    /// Milliseconds after `base` until which it counts as having none; 0: never yet.
    until: AtomicU64,
}

impl Refusals {
    /// None yet at `now`.
    pub fn new(now: Instant) -> Self {
        Self { base: now, until: AtomicU64::new(0) }
    }

    /// It refused a request; `lasting`: it says that it has been doing so, and is not to be asked again.
    pub fn note(&self, now: Instant, lasting: bool) {
        let until = self.millis(now + if lasting { LASTING } else { ONE });
        self.until.fetch_max(until, Relaxed);
    }

    /// Whether it has no room, as far as is known.
    pub fn is_full(&self, now: Instant) -> bool {
        self.millis(now) < self.until.load(Relaxed)
    }

    fn millis(&self, now: Instant) -> u64 {
        let time = now.saturating_duration_since(self.base);
        time.as_secs().saturating_mul(1000).saturating_add(u64::from(time.subsec_millis()))
    }
}

/// An endpoint of a destination, in the eyes of a request that was refused by another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// The request was sent there.
    pub tried: bool,
    /// See [`Refusals::is_full`].
    pub full: bool,
}

/// Whether a request that was refused for want of room may be sent to another one of these endpoints: there is one that has room as
/// far as is known, and most of them have. Where most have none, it is the destination that is overloaded, and whatever is
/// sent again is one request more for it.
pub fn has_relief(endpoints: impl IntoIterator<Item = Other>) -> bool {
    let (mut all, mut full, mut open) = (0_usize, 0_usize, false);
    for endpoint in endpoints {
        all += 1;
        full += usize::from(endpoint.full);
        open |= !endpoint.tried && !endpoint.full;
    }
    open && full * 2 <= all
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_refusal_counts_for_a_second_and_one_that_lasts_for_ten() {
        let start = Instant::now();
        let refusals = Refusals::new(start);
        assert!(!refusals.is_full(start));
        refusals.note(start, false);
        assert!(refusals.is_full(start + 999 * MILLI) && !refusals.is_full(start + 1000 * MILLI));
        refusals.note(start, true);
        refusals.note(start + 5 * MILLI, false);
        assert!(refusals.is_full(start + 9_999 * MILLI) && !refusals.is_full(start + 10_000 * MILLI));
    }

    #[test]
    fn a_refused_request_goes_elsewhere_unless_most_have_no_room() {
        let relief = |endpoints: &[(bool, bool)]| {
            has_relief(endpoints.iter().map(|&(tried, full)| Other { tried, full }))
        };
        let (refused, open, full, passed) = ((true, true), (false, false), (false, true), (true, false));
        assert!(!relief(&[]));
        assert!(!relief(&[refused]));
        assert!(relief(&[refused, open]));
        assert!(!relief(&[refused, full]));
        assert!(!relief(&[refused, passed]), "nobody is left");
        assert!(!relief(&[refused, full, open]));
        assert!(relief(&[refused, full, open, open]));
    }
}
