//! A wait that ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// How long something may stand still, and until when it may take in all. The timer is made when there is first something
/// to wait for, and put off lazily: steady progress never touches the timer wheel.
#[derive(Debug)]
pub(super) struct Patience {
    timeout: Duration,
    deadline: Option<Instant>,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) fn new(timeout: Duration, deadline: Option<Instant>) -> Self {
        Self { timeout, deadline, since: None, timer: None }
    }

    /// There was progress.
    pub(super) fn reset(&mut self) {
        self.since = None;
    }

    /// Whether the time for all of it is over.
    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// There is no progress now: ready when that has been so for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let still = *self.since.get_or_insert_with(Instant::now) + self.timeout;
        let until = self.deadline.map_or(still, |deadline| deadline.min(still));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}
