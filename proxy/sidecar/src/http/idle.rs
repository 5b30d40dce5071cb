//! How long an exchange may be without a byte, in either direction of its body: the two share one clock, so that a stream
//! of which only one direction moves is not idle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// No timeout: longer than anything runs, and no moment that cannot be computed.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// When a byte of an exchange moved last, and for how long none may.
#[derive(Debug)]
pub(crate) struct Idle {
    timeout: Duration,
    born: Instant,
    /// Microseconds after that.
    moved: AtomicU64,
}

impl Idle {
    /// Nothing may move for `timeout`; zero: for as long as it likes.
    pub(crate) fn new(timeout: Duration) -> Arc<Self> {
        Self::since(Instant::now(), timeout)
    }

    /// The same, of an exchange that begins at `born`.
    pub(super) fn since(born: Instant, timeout: Duration) -> Arc<Self> {
        let timeout = if timeout.is_zero() { FOR_EVER } else { timeout };
        Arc::new(Self { timeout, born, moved: AtomicU64::new(0) })
    }

    /// When the exchange began.
    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// A direction has moved, and does not now; returns the moment.
    pub(super) fn moved(&self) -> Instant {
        let now = Instant::now();
        let age = now.saturating_duration_since(self.born).as_micros();
        self.moved.fetch_max(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
        now
    }

    /// When it has been idle for too long, as far as is known, for a direction that stands still `since` then.
    pub(super) fn end(&self, since: Instant) -> Instant {
        let moved = self.born + Duration::from_micros(self.moved.load(Ordering::Relaxed));
        since.max(moved) + self.timeout
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::http::patience::Patience;

    const IDLE: Duration = Duration::from_secs(10);

    async fn stand_still(idle: &Idle, patience: &mut Patience) -> Duration {
        let begin = Instant::now();
        poll_fn(|cx| patience.poll_idle(cx, idle)).await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_direction_that_stands_still_is_not_idle_while_the_other_one_moves() {
        let idle = Idle::new(IDLE);
        let mut still = Patience::new(None);
        let moving = async {
            let mut moving = Patience::new(None);
            for _ in 0..7 {
                sleep(Duration::from_secs(6)).await;
                moving.reset();
                poll_fn(|cx| Poll::Ready(moving.poll_idle(cx, &idle))).await.is_ready();
            }
        };
        let (took, ()) = tokio::join!(stand_still(&idle, &mut still), moving);
        assert_eq!(took, Duration::from_secs(7 * 6 + 10));
    }

    #[tokio::test(start_paused = true)]
    async fn both_that_stand_still_are() {
        let idle = Idle::new(IDLE);
        assert_eq!(stand_still(&idle, &mut Patience::new(None)).await, IDLE);
        advance(IDLE * 5).await;
        let mut later = Patience::new(None);
        assert_eq!(stand_still(&idle, &mut later).await, IDLE, "it moved until now");
        later.reset();
        assert_eq!(stand_still(&idle, &mut later).await, IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_for_as_long_as_it_likes() {
        let idle = Idle::new(Duration::ZERO);
        let mut patience = Patience::new(None);
        let still = stand_still(&idle, &mut patience);
        assert!(tokio::time::timeout(Duration::from_secs(1_000_000), still).await.is_err());
    }
}
