//! Stopping: drain first, with a deadline; force at the deadline or at a second signal; and end, whatever happens.

use std::{
    io, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{exit::Exit, logging};

/// Running, draining, forced: in this order and never back. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Shutdown {
    draining: CancellationToken,
    forced: CancellationToken,
    /// Somebody asked for the end, not only for the drain.
    asked: Arc<AtomicBool>,
    deadline: Duration,
}

impl Shutdown {
    /// Running; once asked to stop, work under way gets `deadline`.
    pub fn new(deadline: Duration) -> Self {
        let (draining, forced) = (CancellationToken::new(), CancellationToken::new());
        Self { draining, forced, asked: Arc::default(), deadline }
    }

    /// Turns SIGTERM and SIGINT into [`Shutdown::stop`]; returns when both are caught. They are waited for on a thread
    /// of their own, which also ends the process, with [`Exit::Forced`], when it is still there `farewell` after it was
    /// forced: whatever its other threads hang on.
    ///
    /// # Errors
    /// If the system refuses a handler or a thread.
    pub fn on_signals(&self, farewell: Duration) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut terminate, mut interrupt) = {
            let _entered = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        tokio::spawn(self.clone().tell());
        let shutdown = self.clone();
        let watch = async move {
            let mut request = Request::default();
            let signals = async {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    if request.is_new(Instant::now()) {
                        shutdown.stop();
                    }
                }
            };
            tokio::select! {
                () = signals => {}
                () = shutdown.overdue(farewell) => {}
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(watch);
            // No other thread can be counted on to end the process.
            logging::flush();
            process::exit(i32::from(Exit::Forced.code()));
        })?;
        Ok(())
    }

    /// The first call starts the drain and its clock, or joins one that a hook began; a second one forces the end.
    pub fn stop(&self) {
        if self.asked.swap(true, Ordering::Relaxed) {
            self.forced.cancel();
        } else {
            self.begin();
        }
    }

    /// Starts the drain and its clock, unless that was done before. Never forces.
    pub fn begin(&self) {
        if self.draining.is_cancelled() {
            return;
        }
        self.draining.cancel();
        let shutdown = self.clone();
        tokio::spawn(async move { shutdown.clock().await });
    }

    /// Forces the end at the deadline; returns when it is forced.
    async fn clock(&self) {
        tokio::select! {
            () = sleep(self.deadline) => self.forced.cancel(),
            () = self.forced.cancelled() => {}
        }
    }

    /// Returns when the process should be over and is not.
    async fn overdue(&self, farewell: Duration) {
        self.draining.cancelled().await;
        // A clock of its own: the other one may stand still with the thread it runs on.
        self.clock().await;
        sleep(farewell).await;
    }

    async fn tell(self) {
        self.draining.cancelled().await;
        tracing::info!(within = ?self.deadline, "asked to stop");
        self.forced.cancelled().await;
        tracing::warn!("what is still under way is cut off");
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

/// Signals so close together are one request: a supervisor signals every process of a unit, and one of those passes it on.
const ECHO: Duration = Duration::from_millis(500);

/// When the first signal came.
#[derive(Debug, Default)]
struct Request(Option<Instant>);

impl Request {
    /// Whether a signal at `now` asks for more than those before it.
    fn is_new(&mut self, now: Instant) -> bool {
        match self.0 {
            Some(first) => now.saturating_duration_since(first) >= ECHO,
            None => {
                self.0 = Some(now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn signals_that_come_together_are_one_request() {
        let (mut request, first) = (Request::default(), std::time::Instant::now());
        assert!(request.is_new(first));
        assert!(!request.is_new(first) && !request.is_new(first + ECHO - Duration::from_millis(1)));
        assert!(request.is_new(first + ECHO) && request.is_new(first + ECHO));
    }

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

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_a_hook_began_goes_on_when_the_end_is_asked_for() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        let start = Instant::now();
        shutdown.begin();
        shutdown.begin();
        sleep(Duration::from_secs(4)).await;
        shutdown.stop();
        assert!(!shutdown.forced().is_cancelled());
        assert_eq!(shutdown.drain(pending()).await, Exit::Forced);
        assert_eq!(start.elapsed().as_secs(), 10, "the clock is the first one's");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_overdue_a_farewell_after_its_deadline_or_after_it_was_forced() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        let start = Instant::now();
        shutdown.begin();
        shutdown.overdue(Duration::from_secs(3)).await;
        assert_eq!(start.elapsed().as_secs(), 13);
        assert!(shutdown.forced().is_cancelled());
        shutdown.overdue(Duration::from_secs(3)).await;
        assert_eq!(start.elapsed().as_secs(), 16);
    }

    #[tokio::test]
    async fn sigterm_starts_the_drain() {
        // Nobody forces it: this process goes on.
        let shutdown = Shutdown::new(Duration::from_secs(3600));
        shutdown.on_signals(Duration::ZERO).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        shutdown.draining().cancelled().await;
        assert!(!shutdown.forced().is_cancelled());
    }
}
