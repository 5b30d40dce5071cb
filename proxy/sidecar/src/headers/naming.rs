//! Names of fields whose values are others in each message.
//!
//! Such a value is of no use to HPACK's table of what was sent, and what is `sensitive` is kept out of it (RFC 7541 §7.1.3). But a
//! name that is in the table is not written out again, and names come in with values. So a connection lets a value in now and then:
//! what is let in later pushes it out in the end.
//!
//! Each new value is compared with all of its name that are there, some 75 instructions each, and one that is there saves some 1,000: of
//! fifteen the table is better without. Where nothing else pushes them out they would become forty, so that is done ever more seldom.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// As often a value is let in at first, and where it is pushed out again. A `date` in each answer, which is another one each second, takes
/// about a minute to fill the table.
const EVERY: Duration = Duration::from_secs(20);

/// Of one connection, and one name.
#[derive(Debug)]
pub(crate) struct Naming {
    born: Instant,
    /// When the next value is let in, milliseconds after that.
    next: AtomicU64,
}

impl Naming {
    /// Of a connection that begins.
    pub(crate) fn new() -> Self {
        Self { born: Instant::now(), next: AtomicU64::new(0) }
    }

    /// Whether a value is to be let in `now`; says so once each time. `pushed`: whether others push it out again; else the connection
    /// has to become twice as old before the next one: after a day they are fourteen. Two threads at once may both be told so: it
    /// does no harm.
    pub(crate) fn is_due(&self, now: Instant, pushed: impl FnOnce() -> bool) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let age = now.saturating_duration_since(self.born);
        let due = self.next.load(Ordering::Relaxed) <= millis(age);
        if due {
            let wait = if pushed() { EVERY } else { EVERY.max(age) };
            self.next.store(millis(age.saturating_add(wait)), Ordering::Relaxed);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// The seconds in which a value is let in, of so many.
    async fn let_in(pushed: bool, seconds: u64) -> Vec<u64> {
        let naming = Naming::new();
        let mut let_in = Vec::new();
        for second in 0..seconds {
            if naming.is_due(Instant::now(), || pushed) {
                let_in.push(second);
            }
            advance(Duration::from_secs(1)).await;
        }
        let_in
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_value_is_let_in_and_another_one_after_a_while() {
        assert_eq!(let_in(true, 65).await, [0, 20, 40, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_pushes_them_out_they_never_become_many() {
        assert_eq!(let_in(false, 650).await, [0, 20, 40, 80, 160, 320, 640]);
        assert_eq!(let_in(false, 24 * 3600).await.len(), 14);
    }
}
