//! The wait for a connection, and on what its time was spent.

use std::time::Duration;

use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::Failed;
use crate::telemetry::Exchange;

/// How a connection was come by.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::upstream) struct Waited {
    /// For a place in line, or for a stream.
    pub(in crate::upstream) queued: Duration,
    /// While it was made.
    pub(in crate::upstream) connecting: Duration,
    /// Pooled connections that were found closed.
    pub(in crate::upstream) closed: u64,
    /// It was not used before.
    pub(in crate::upstream) fresh: bool,
}

impl Waited {
    /// Whether one was there at once.
    pub(super) fn is_nothing(&self) -> bool {
        !self.fresh && self.closed == 0 && self.queued.is_zero()
    }
}

/// Waits for a connection since `begin`. In vain, the time was spent on what the reason says; given up, on what is under way
/// then.
pub(super) async fn wait<T>(
    acquiring: impl Future<Output = Result<T, Reason>>,
    connecting: impl Fn() -> bool,
    (begin, exchange): (Instant, &mut Exchange),
) -> Result<T, Failed> {
    let mut waiting = Waiting { begin, connecting, exchange: Some(exchange) };
    let acquired = acquiring.await;
    let exchange = waiting.exchange.take();
    match acquired {
        Ok(acquired) => Ok(acquired),
        Err(reason) => {
            let queued = matches!(reason, Reason::ConnectionLimit | Reason::PendingLimit);
            if let Some(exchange) = exchange {
                charge(exchange, waiting.begin, !queued);
            }
            Err(Failed::before(reason))
        }
    }
}

/// A wait that may be given up: the deadline comes first, or the client goes away.
struct Waiting<'a, F: Fn() -> bool> {
    begin: Instant,
    connecting: F,
    exchange: Option<&'a mut Exchange>,
}

impl<F: Fn() -> bool> Drop for Waiting<'_, F> {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            charge(exchange, self.begin, (self.connecting)());
        }
    }
}

fn charge(exchange: &mut Exchange, since: Instant, connecting: bool) {
    exchange.stamp(|stamps| match connecting {
        true => stamps.connecting += since.elapsed(),
        false => stamps.queued += since.elapsed(),
    });
}
