//! From the outbound's stamps and the inbound's figures to a request's phases.
//!
//! Clocks are compared on one side only; the two sides exchange durations. After the hand-over the outbound waited
//! `network + inbound total`, and the inbound's total is `server_proxy + upload + app`, so the split is exact. Where the
//! outbound's upload lasted longer than the inbound's, the excess is taken out of what would be charged to the network,
//! never out of the inbound's own figures: the two uploads overlap with the way there and with the inbound's work.

use std::time::{Duration, Instant};

use super::{Phase, PhaseTimes, phase::nanos, timing::Figures};

/// What the outbound side saw of one request. A stamp that was never reached is `None`.
///
/// `end` depends on the [`Class`](super::Class): of a stream and an upgrade it is the moment of `head_sent`, of TCP the one
/// when the upstream connection was established.
#[derive(Debug, Clone, Copy)]
pub struct Stamps {
    /// The request's head was read whole.
    pub head_read: Instant,
    /// The first attempt might start: routed, edited, a backend chosen.
    pub first_attempt: Option<Instant>,
    /// The attempt whose answer is delivered started; without retries the same moment.
    pub attempt: Option<Instant>,
    /// What that attempt waited for a pooled connection or a stream slot.
    pub queued: Duration,
    /// What it waited for a new connection to be made, up to its first request; zero on a pooled one.
    pub connecting: Duration,
    /// The head was handed on to the upstream connection.
    pub handed_on: Option<Instant>,
    /// The last request byte was handed on.
    pub uploaded: Option<Instant>,
    /// The final response head arrived.
    pub response_head: Option<Instant>,
    /// It was settled that this answer is delivered, and no other attempt's; `None`: there was one attempt only.
    pub settled: Option<Instant>,
    /// The response's head was handed to the downstream connection.
    pub head_sent: Option<Instant>,
    /// The downstream accepted the last byte, or the exchange ended otherwise.
    pub end: Instant,
}

impl Stamps {
    /// Nothing reached yet: everything at `head_read`.
    pub fn new(head_read: Instant) -> Self {
        Self {
            head_read,
            first_attempt: None,
            attempt: None,
            queued: Duration::ZERO,
            connecting: Duration::ZERO,
            handed_on: None,
            uploaded: None,
            response_head: None,
            settled: None,
            head_sent: None,
            end: head_read,
        }
    }

    /// An attempt starts. Everything since the first one did is [`Phase::Retry`] then, whatever it was spent on.
    pub fn begin_attempt(&mut self, now: Instant) {
        let first_attempt = self.first_attempt.or(Some(now));
        *self = Self { first_attempt, attempt: Some(now), ..Self::new(self.head_read) };
    }
}

/// A request's time, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Head read -> end.
    pub total: Duration,
    /// Its parts; their sum is at most `total`.
    pub phases: PhaseTimes,
    /// The part of [`Phase::App`] that the application waited for its own calls; `None`: not known.
    pub waiting: Option<Duration>,
    /// The inbound's figures exceeded the time elapsed, and were cut to it. To be counted.
    pub clamped: bool,
}

impl Split {
    /// What no phase accounts for.
    pub fn unexplained(&self) -> Duration {
        self.total.saturating_sub(self.phases.sum())
    }
}

/// Takes a request's time apart. `inbound`: the figures of the attempt delivered, `None` when none came or when they were
/// not valid; the time after the hand-over is then [`Phase::Upstream`], never [`Phase::Network`].
pub fn split(stamps: &Stamps, inbound: Option<&Figures>) -> Split {
    let total = stamps.end.saturating_duration_since(stamps.head_read);
    // Nanoseconds since the head was read.
    let since = |stamp: Instant| nanos(stamp.saturating_duration_since(stamps.head_read));
    let (head_read, end) = (Some(0), nanos(total));
    let (first_attempt, attempt) = (stamps.first_attempt.map(since), stamps.attempt.map(since));
    let (handed_on, uploaded) = (stamps.handed_on.map(since), stamps.uploaded.map(since));
    let (response_head, settled) = (stamps.response_head.map(since), stamps.settled.map(since));
    let head_sent = stamps.head_sent.map(since);
    let elapsed = |from: Option<u64>, to: Option<u64>| match (from, to) {
        (Some(from), Some(to)) => to.saturating_sub(from),
        _ => 0,
    };
    let mut ledger = Ledger { left: end, phases: PhaseTimes::default() };
    let mut clamped = false;
    let mut waiting = None;
    // An answer of our own has no response's head of somebody else's before it.
    let done = head_sent.or(Some(end));
    let started = first_attempt.or(done);
    ledger.charge(Phase::ClientProxy, elapsed(head_read, started));
    ledger.charge(Phase::Retry, elapsed(first_attempt, attempt));
    ledger.charge(Phase::Queue, nanos(stamps.queued));
    ledger.charge(Phase::Connect, nanos(stamps.connecting));
    if handed_on.is_some() {
        let answered = response_head.or(done);
        let wait = elapsed(handed_on, answered);
        let upload = elapsed(handed_on, uploaded.or(answered)).min(wait);
        // Figures come with a response head only.
        match inbound.filter(|_| response_head.is_some()) {
            Some(figures) => {
                clamped = ledger.charge_inbound(figures, wait, upload);
                waiting = figures.waiting.map(|waiting| waiting.min(ledger.phases.get(Phase::App)));
            }
            None => {
                ledger.charge(Phase::Upload, upload);
                ledger.charge(Phase::Upstream, wait - upload);
            }
        }
    }
    if response_head.is_some() {
        // Other attempts came after the one whose answer is delivered, and were no better.
        ledger.charge(Phase::Retry, elapsed(response_head, settled));
        ledger.charge(Phase::ClientProxy, elapsed(settled.max(response_head), head_sent));
    }
    ledger.charge(Phase::Stream, elapsed(head_sent, Some(end)));
    Split { total, phases: ledger.phases, waiting, clamped }
}

/// Keeps the sum of the phases within the total, whatever the stamps say. Nanoseconds.
struct Ledger {
    left: u64,
    phases: PhaseTimes,
}

impl Ledger {
    fn charge(&mut self, phase: Phase, time: u64) {
        let time = time.min(self.left);
        self.left -= time;
        self.phases.add_nanos(phase, time);
    }

    /// Splits `wait` by the inbound's figures; whether they had to be cut.
    fn charge_inbound(&mut self, figures: &Figures, wait: u64, upload: u64) -> bool {
        let [told, told_app, told_upload] = [figures.total, figures.app, figures.upload].map(nanos);
        let inbound = told.min(wait);
        let app = told_app.min(inbound);
        let inbound_upload = told_upload.min(inbound - app);
        let network = wait - inbound;
        let before_inbound = upload.saturating_sub(inbound_upload).min(network);
        self.charge(Phase::Upload, inbound_upload + before_inbound);
        self.charge(Phase::Network, network - before_inbound);
        self.charge(Phase::ServerProxy, inbound - app - inbound_upload);
        self.charge(Phase::App, app);
        told > wait || told_app.saturating_add(told_upload) > told
    }
}

#[cfg(test)]
mod tests;
