//! Stopping: drain first, with a deadline; force at the deadline or at a second signal.

use std::{io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// Running, draining, forced: in this order and never back. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Shutdown {
    draining: CancellationToken,
    forced: CancellationToken,
    deadline: Duration,
}

impl Shutdown {
    /// Running; once asked to stop, work under way gets `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self { draining: CancellationToken::new(), forced: CancellationToken::new(), deadline }
    }

    /// Turns SIGTERM and SIGINT into [`Shutdown::stop`]; returns when both are caught.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    () = shutdown.forced.cancelled() => return,
                };
                tracing::info!(signal = name, again = shutdown.is_draining(), "asked to stop");
                shutdown.stop();
            }
        });
        Ok(())
    }

    /// The first call starts the drain and its clock, a second one forces the end.
    pub fn stop(&self) {
        if self.draining.is_cancelled() {
            self.forced.cancel();
            return;
        }
        self.draining.cancel();
        let shutdown = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(shutdown.deadline) => shutdown.forced.cancel(),
                () = shutdown.forced.cancelled() => {}
            }
        });
    }

    /// Cancelled when the drain starts: take nothing new, finish what is under way.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Cancelled when what is left is cut off.
    pub fn forced(&self) -> &CancellationToken {
        &self.forced
    }

    /// How long a drain may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Waits for the drain to start and then for `work`, which ends when nothing is under way any more; gives it up
    /// when the end is forced.
    pub async fn drain(&self, work: impl Future<Output = ()>) -> Exit {
        self.draining.cancelled().await;
        tokio::select! {
            biased;
            () = work => Exit::Success,
            () = self.forced.cancelled() => Exit::Forced,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_finishes_is_a_success() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        shutdown.stop();
        assert!(shutdown.is_draining() && !shutdown.forced().is_cancelled());
        assert_eq!(shutdown.drain(ready(())).await, Exit::Success);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_forced_at_its_deadline_and_not_before() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        let start = Instant::now();
        shutdown.stop();
        assert_eq!(shutdown.drain(pending()).await, Exit::Forced);
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_forces_at_once() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        let start = Instant::now();
        shutdown.stop();
        shutdown.stop();
        assert_eq!(shutdown.drain(pending()).await, Exit::Forced);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn sigterm_starts_the_drain() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        shutdown.on_signals().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        shutdown.draining().cancelled().await;
        assert!(!shutdown.forced().is_cancelled());
    }
}
