//! How long certificates of workloads live. A setting: one that was shorter at the last start says nothing of those that
//! were issued before.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// What there is to know of the certificates that were issued, and are. Kept over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafLife {
    /// How long one lives, by the settings in force.
    pub life: Duration,
    /// When the last one has expired that was issued while the settings said more.
    pub longer_until: SystemTime,
}

impl LeafLife {
    /// Of a mesh in which none was issued.
    pub fn first(life: Duration) -> Self {
        Self { life, longer_until: SystemTime::UNIX_EPOCH }
    }

    /// From a start at `now` on, whose settings say `life`.
    #[must_use]
    pub fn started(self, life: Duration, now: SystemTime) -> Self {
        let longer_until = if life < self.life { self.until(now) } else { self.longer_until };
        Self { life, longer_until }
    }

    /// When the last one has expired of all that were issued up to `at`: now, or since the last start.
    pub fn until(self, at: SystemTime) -> SystemTime {
        self.longer_until.max(at + self.life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_life_does_not_shorten_what_was_issued() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (day, hour) = (Duration::from_hours(24), Duration::from_hours(1));
        let first = LeafLife::first(day);
        assert_eq!(first.until(at(7)), at(7) + day);
        let shorter = first.started(hour, at(100));
        assert_eq!(shorter.until(at(200)), at(100) + day);
        assert_eq!(shorter.until(at(100) + day), at(100) + day + hour);
        assert_eq!(shorter.started(hour, at(300)), shorter, "a restart changes nothing");
        // Longer again, and shorter again.
        let longer = shorter.started(day * 2, at(400));
        assert_eq!(longer.until(at(500)), at(500) + day * 2);
        assert_eq!(longer.started(hour, at(600)).until(at(700)), at(600) + day * 2);
    }
}
