//! When to publish a change: the first at once, further ones at growing distances while they keep coming.

use std::time::Duration;

use tokio::time::Instant;

/// The distance after a single change.
const SHORTEST: Duration = Duration::from_millis(100);
/// The distance in a storm.
const LONGEST: Duration = Duration::from_secs(1);

/// Decides when a change is published that was noticed now.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    last: Option<Instant>,
    distance: Duration,
}

impl Debounce {
    /// When a change that waits may be published; not after `now`: at once.
    pub(super) fn due(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| last + self.distance)
    }

    /// Something was published.
    pub(super) fn published(&mut self, now: Instant) {
        // Twice the distance without a change is calm; a change that had to wait is a storm in the making.
        let calm = self.last.is_none_or(|last| now.duration_since(last) >= 2 * self.distance);
        self.distance = if calm { SHORTEST } else { (2 * self.distance).min(LONGEST) };
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_goes_at_once_and_a_storm_is_spread() {
        let mut now = Instant::now();
        let mut debounce = Debounce::default();
        let mut waits = Vec::new();
        for _ in 0..7 {
            let due = debounce.due(now).max(now);
            waits.push(due.duration_since(now).as_millis());
            now = due;
            debounce.published(now);
        }
        assert_eq!(waits, [0, 100, 200, 400, 800, 1000, 1000]);
        now += Duration::from_secs(5);
        assert!(debounce.due(now) <= now, "calm: at once again");
        debounce.published(now);
        assert_eq!(debounce.due(now), now + SHORTEST);
    }
}
