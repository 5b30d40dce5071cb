//! Names of fields whose values are others in each message.
//!
//! Such a value is of no use to HPACK's table of what was sent, and what is `sensitive` is kept out of it (RFC 7541 §7.1.3). But a
//! name that is in the table is not written out again, and names come in with values. So a connection lets a value in now and then:
//! what is let in later pushes it out in the end. Not more often, for all values of a name are compared with each new one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use http::HeaderValue;
use tokio::time::Instant;

/// As often a value is let in. A `date` in each answer, which is another one each second, takes about a minute to fill the table.
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

    /// Whether a value is to be let in `now`; says so once each time. Two threads at once may both be told so: it does no harm.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let age = now.saturating_duration_since(self.born);
        let due = self.next.load(Ordering::Relaxed) <= millis(age);
        if due {
            self.next.store(millis(age.saturating_add(EVERY)), Ordering::Relaxed);
        }
        due
    }

    /// Keeps `value` out of the table, but for now and then.
    pub(crate) fn mark(&self, value: &mut HeaderValue, now: Instant) {
        value.set_sensitive(!self.is_due(now));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_value_is_let_in_and_another_one_after_a_while() {
        let naming = Naming::new();
        let mut value = HeaderValue::from_static("1");
        let mut let_in = Vec::new();
        for second in 0..45 {
            naming.mark(&mut value, Instant::now());
            if !value.is_sensitive() {
                let_in.push(second);
            }
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(let_in, [0, 20, 40]);
    }
}
