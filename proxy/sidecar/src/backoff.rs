//! How long to wait before the next try: doubling, bounded, jittered, so that a thousand proxies do not come back to a
//! restarted control plane in the same instant.

use std::time::Duration;

/// A sequence of waits. Pure: the random numbers are the caller's.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Towards the control plane: 100 ms to 10 s, well below the 30 s for which it keeps a registration.
    pub(crate) const CONTROL_PLANE: Self = Self::new(Duration::from_millis(100), Duration::from_secs(10));

    /// Waits from `base`, doubling up to `cap`.
    pub(crate) const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// The next wait; `random` in [0, 1) spreads it over the upper half, so that it never shrinks to nothing.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let whole = self.base.saturating_mul(1_u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        whole.min(self.cap).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// After a session that lived for `lived`: only a long one is a success. A peer that accepts and closes at once
    /// must not be hammered.
    pub(crate) fn session_lived(&mut self, lived: Duration) {
        if lived >= self.cap {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_within_their_upper_half() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let (mut low, mut high) = (backoff.clone(), backoff.clone());
            assert_eq!(low.next(0.0), Duration::from_millis(whole) / 2);
            assert_eq!(high.next(1.0), Duration::from_millis(whole));
            backoff.next(0.5);
        }
    }

    #[test]
    fn only_a_session_that_lasted_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for _ in 0..100 {
            backoff.next(0.5);
        }
        backoff.session_lived(Duration::from_millis(999));
        assert_eq!(backoff.next(1.0), Duration::from_secs(1));
        backoff.session_lived(Duration::from_secs(1));
        assert_eq!(backoff.next(1.0), Duration::from_millis(100));
    }
}
