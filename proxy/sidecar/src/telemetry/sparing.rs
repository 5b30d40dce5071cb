//! Lines that somebody else can cause at will are said sparingly: a log that a stranger fills hides everything else.
//! The metrics count each case.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many lines in each window.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// The bound on one kind of line.
#[derive(Debug, Default)]
pub(super) struct Sparing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl Sparing {
    /// Whether a line may be said at `now`; if so, how many were not since the last one.
    pub(super) fn say(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            state.since = Some(now);
            state.said = 0;
        }
        if state.said >= LINES {
            state.unsaid += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_counted_and_told_of_in_the_next_window() {
        let (sparing, start) = (Sparing::default(), Instant::now());
        let said = (0..1000).filter(|_| sparing.say(start).is_some()).count();
        assert_eq!(said, 20);
        assert_eq!(sparing.say(start + WINDOW), Some(980));
        assert_eq!(sparing.say(start + WINDOW), Some(0));
    }
}
