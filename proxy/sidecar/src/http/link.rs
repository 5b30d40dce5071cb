//! What the requests of a server connection and its socket tell each other: whether somebody is being answered, when an
//! answer was in the kernel's hands, and how the connection has to end.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Idle, stall};

/// Called once with the moment at which the last byte of a response was accepted by the kernel, or `None` when the
/// connection ended before.
type OnFlushed = Box<dyn FnOnce(Option<Instant>) + Send>;

/// What the requests of a connection and its socket share.
#[derive(Default)]
pub(crate) struct Link {
    multiplexed: bool,
    /// Between two sidecars.
    mesh: bool,
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// When the last answer was complete.
    answered: Mutex<Option<Instant>>,
    ambiguous: AtomicBool,
    timed_out: AtomicBool,
    reset: AtomicBool,
    flushed: Mutex<Vec<OnFlushed>>,
    /// Whether there is any: looked at with each read and write.
    awaited: AtomicBool,
    /// How long the exchange that has the connection may be idle.
    idle: Mutex<Option<Arc<Idle>>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("busy", &self.busy).finish_non_exhaustive()
    }
}

impl Link {
    /// Of a connection of HTTP/2, or of HTTP/1; of HTTP/1 between two sidecars.
    pub(super) fn new(multiplexed: bool, mesh: bool) -> Self {
        Self { multiplexed, mesh, ..Self::default() }
    }

    /// A request is being answered: meanwhile neither the idle nor the head timeout runs.
    pub(crate) fn begin(&self) {
        self.busy.fetch_add(1, Ordering::AcqRel);
    }

    /// It no longer is, since `now`.
    pub(crate) fn finish(&self, now: Instant) {
        *self.answered.lock() = Some(now);
        self.busy.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// Whether there has been a request yet.
    pub(super) fn is_used(&self) -> bool {
        self.is_busy() || self.answered.lock().is_some()
    }

    /// Since when there is no request, at the earliest since `born`; `None`: there is one.
    pub(super) fn idle_since(&self, born: Instant) -> Option<Instant> {
        (!self.is_busy()).then(|| self.answered.lock().unwrap_or(born))
    }

    /// Since when the peer is waited for: at the earliest since it has the last answer, and not at all before: one that
    /// reads slowly is not idle, and nothing may be written into the middle of what it still has to get.
    pub(super) fn waiting_since(&self, since: Instant, now: Instant) -> Instant {
        if self.is_busy() || self.awaits_flush() {
            return now;
        }
        self.answered.lock().map_or(since, |answered| answered.max(since))
    }

    /// The peer's framing can be understood in two ways: nothing more of this connection may be believed.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.ambiguous.load(Ordering::Relaxed)
    }

    /// See [`Self::is_ambiguous`].
    pub(super) fn became_ambiguous(&self) {
        self.ambiguous.store(true, Ordering::Relaxed);
    }

    /// The peer did not finish a head in time and was told so.
    pub(crate) fn head_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// See [`Self::head_timed_out`].
    pub(super) fn timed_out(&self) {
        self.timed_out.store(true, Ordering::Relaxed);
    }

    /// A response had to be cut short: the peer must see a reset, never an end. A stream is reset by its own parser.
    pub(crate) fn cut_short(&self) {
        if !self.multiplexed {
            self.reset();
        }
    }

    /// The whole connection has to end with a reset.
    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub(super) fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// Whether it is one of HTTP/1 between two sidecars.
    pub(super) fn is_mesh(&self) -> bool {
        self.mesh
    }

    /// Whether its requests are streams, each with a window of its own.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// The exchange that runs may be `idle` for so long: whoever does not take what he is sent has as long as well.
    pub(crate) fn may_be(&self, idle: &Arc<Idle>) {
        if self.multiplexed {
            stall::may_be(idle);
        } else {
            *self.idle.lock() = Some(Arc::clone(idle));
        }
    }

    /// How long the exchange that has the connection may be idle, if there was one.
    pub(super) fn idle(&self) -> Option<Arc<Idle>> {
        self.idle.lock().clone()
    }

    /// Calls `done` when everything written so far is in the kernel's hands, or the connection is gone.
    pub(crate) fn on_flushed(&self, done: OnFlushed) {
        let earlier = {
            let mut flushed = self.flushed.lock();
            // A pipelined response may follow before the one before it was flushed.
            let earlier = if self.multiplexed { None } else { flushed.pop() };
            flushed.push(done);
            self.awaited.store(true, Ordering::Release);
            earlier
        };
        if let Some(earlier) = earlier {
            earlier(Some(Instant::now()));
        }
    }

    /// Whether somebody waits for that.
    pub(super) fn awaits_flush(&self) -> bool {
        self.awaited.load(Ordering::Acquire)
    }

    /// It is so since `at`; `None`: the connection is gone.
    pub(super) fn flushed(&self, at: Option<Instant>) {
        let done = {
            let mut flushed = self.flushed.lock();
            self.awaited.store(false, Ordering::Release);
            std::mem::take(&mut *flushed)
        };
        if done.is_empty() {
            return;
        }
        *self.answered.lock() = at;
        for done in done {
            done(at);
        }
    }
}
