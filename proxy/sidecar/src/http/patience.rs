//! A wait that ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::idle::Idle;

/// How long something stands still, and until when it may take in all. The timer is made when there is first something to
/// wait for, and put off lazily: steady progress never touches the timer wheel.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Option<Instant>,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        Self { deadline, since: None, timer: None }
    }

    /// There was progress.
    pub(crate) fn reset(&mut self) {
        self.since = None;
    }

    /// Whether the time for all of it is over.
    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// There is no progress now: ready when that has been so for longer than the exchange may be `idle`.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>, idle: &Idle) -> Poll<()> {
        let since = *self.since.get_or_insert_with(|| idle.moved());
        let deadline = self.deadline;
        let until = || deadline.map_or(idle.end(since), |deadline| deadline.min(idle.end(since)));
        let mut end = until();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() > end {
            timer.as_mut().reset(end);
        }
        while timer.as_mut().poll(cx).is_ready() {
            // The other direction may have moved meanwhile.
            end = until();
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}
