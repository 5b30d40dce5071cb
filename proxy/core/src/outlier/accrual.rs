//! What is known about one endpoint's health.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Failure, duration};
use crate::{
    balance::Cost,
    model::Outlier,
    window::{Counts, Event, Window},
};

/// So long a healthy endpoint takes one step back from the length of its last ejections.
const HEALTHY_WHILE: Duration = Duration::from_secs(60);

/// About the last 10 s, in quarters.
type Answers = Window<4, 2500>;
const SLOTS: u64 = 4;

/// `state` of an endpoint that takes requests.
const HEALTHY: u64 = 0;
/// Of one that waits for its probe: an end of the ejection that has passed long ago.
const DUE: u64 = 1;
/// Of one with its probe under way; the other bits are the number of the claim, so that no old probe ends a new one.
const PROBING: u64 = 1 << 63;

/// The health of one endpoint, shared by all threads.
#[derive(Debug)]
pub struct Accrual {
    created: Instant,
    /// [`HEALTHY`], [`PROBING`] with a claim, else the end of the ejection in nanoseconds since `created`. Leaves health
    /// and comes back to it under the lock of the [`Ejections`](super::Ejections) only.
    state: AtomicU64,
    claims: AtomicU64,
    /// Failures since the last success.
    streak: AtomicU32,
    /// Those of them that need no comparison with others.
    own: AtomicU32,
    /// Common: successes; rare: failures.
    answers: Answers,
    /// A leaf.
    history: Mutex<History>,
}

/// What outlives an ejection.
#[derive(Debug)]
struct History {
    /// Ejections without a long healthy while between them.
    times: u32,
    why: Failure,
    recovered: Instant,
}

/// How an endpoint stands, to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes requests.
    Healthy,
    /// It is left alone.
    Ejected {
        /// Until then.
        until: Instant,
        /// For the last failure of those that led to it.
        why: Failure,
        /// So many times, without a long healthy while between them.
        times: u32,
    },
    /// Its time has passed; it waits for the one request that decides, or that is under way.
    Probing {
        /// Why it was ejected.
        why: Failure,
        /// How many times.
        times: u32,
    },
}

/// Leave to send one request to an endpoint. It goes back to [`Ejections::record`](super::Ejections::record) when the
/// attempt has ended.
#[derive(Debug)]
#[must_use]
pub enum Admission {
    /// The endpoint is healthy.
    Open,
    /// The endpoint was ejected, and this request decides.
    Probe(Probe),
}

/// The claim to an ejected endpoint's one request. Dropped without a verdict (the client went away), it is given back, and
/// the next request may probe.
#[derive(Debug)]
pub struct Probe {
    accrual: Arc<Accrual>,
    claim: u64,
}

impl Accrual {
    /// Of an endpoint that is new at `now`: healthy.
    pub fn new(now: Instant) -> Self {
        Self {
            created: now,
            state: AtomicU64::new(HEALTHY),
            claims: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            own: AtomicU32::new(0),
            answers: Answers::new(now),
            history: Mutex::new(History { times: 0, why: Failure::Connect, recovered: now }),
        }
    }

    /// What an endpoint costs, for [`pick`](crate::balance::pick): as it is if it is healthy; nothing if it waits for its
    /// probe, so that the next request that draws it goes there; `None` if it is not to be used.
    pub fn cost(&self, now: Instant, cost: Cost) -> Option<Cost> {
        match self.state.load(Relaxed) {
            HEALTHY => Some(cost),
            state if self.is_due(state, now) => Some(Cost::default()),
            _ => None,
        }
    }

    /// Leave to send a request there; `None` if the endpoint is ejected, or if another request probes it: pick again.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Option<Admission> {
        let state = self.state.load(Relaxed);
        if state == HEALTHY {
            return Some(Admission::Open);
        }
        if !self.is_due(state, now) {
            return None;
        }
        let claim = PROBING | self.claims.fetch_add(1, Relaxed);
        self.state.compare_exchange(state, claim, Relaxed, Relaxed).ok()?;
        Some(Admission::Probe(Probe { accrual: Arc::clone(self), claim }))
    }

    /// How it stands.
    pub fn standing(&self, now: Instant) -> Standing {
        // Under the history's lock, which every change of both holds.
        let history = self.history();
        let (why, times) = (history.why, history.times);
        match self.state.load(Relaxed) {
            HEALTHY => Standing::Healthy,
            state if state & PROBING != 0 || self.is_due(state, now) => Standing::Probing { why, times },
            state => Standing::Ejected { until: self.created + Duration::from_nanos(state), why, times },
        }
    }

    /// Whether it is out of the set: ejected, or not back yet.
    pub(super) fn is_ejected(&self) -> bool {
        self.state.load(Relaxed) != HEALTHY
    }

    /// Orders ejected endpoints by who would come back first.
    pub(super) fn returns(&self) -> u64 {
        self.state.load(Relaxed)
    }

    pub(super) fn succeeded(&self, now: Instant) {
        self.count(now, None);
        // Mostly they are zero, and then the line is not written to.
        if self.streak.load(Relaxed) != 0 {
            self.clear_streak();
        }
    }

    /// Counts a failure; whether an ejection has to be considered. In a row that goes on it is considered once for every
    /// `threshold`: comparing with many others costs time.
    pub(super) fn failed(&self, now: Instant, failure: Failure, threshold: u32) -> bool {
        self.count(now, Some(failure));
        let streak = self.streak.fetch_add(1, Relaxed).wrapping_add(1);
        let own = if failure.is_relative() { 0 } else { self.own.fetch_add(1, Relaxed).wrapping_add(1) };
        let complete = |count: u32| count > 0 && count.checked_rem(threshold) == Some(0);
        !self.is_ejected() && (complete(streak) || complete(own))
    }

    pub(super) fn count(&self, now: Instant, failure: Option<Failure>) {
        self.answers.add(now, if failure.is_some() { Event::Rare } else { Event::Common });
    }

    /// Whether enough of the failures in a row need no comparison.
    pub(super) fn fails_by_itself(&self, threshold: u32) -> bool {
        self.own.load(Relaxed) >= threshold
    }

    /// Whether its last answer was a failure.
    pub(super) fn is_failing(&self) -> bool {
        self.streak.load(Relaxed) > 0
    }

    /// Successes and failures of about the last 10 s.
    pub(super) fn answers(&self, now: Instant) -> Counts {
        self.answers.sum(now, SLOTS)
    }

    /// Leaves it alone from `now`. The caller holds the lock of the set.
    pub(super) fn eject(&self, now: Instant, why: Failure, policy: &Outlier, random: u64) {
        let mut history = self.history();
        if !self.is_ejected() {
            let healthy =
                now.saturating_duration_since(history.recovered).as_secs() / HEALTHY_WHILE.as_secs();
            history.times = history.times.saturating_sub(u32::try_from(healthy).unwrap_or(u32::MAX));
        }
        history.times = history.times.saturating_add(1);
        history.why = why;
        let until = self.nanos(now).saturating_add(nanos(duration(policy, history.times, random)));
        self.state.store(until.clamp(DUE, PROBING - 1), Relaxed);
    }

    /// Takes it back. The caller holds the lock of the set.
    pub(super) fn recover(&self, now: Instant) {
        let mut history = self.history();
        if self.state.swap(HEALTHY, Relaxed) != HEALTHY {
            history.recovered = now;
        }
        self.clear_streak();
    }

    fn clear_streak(&self) {
        self.streak.store(0, Relaxed);
        self.own.store(0, Relaxed);
    }

    fn is_due(&self, state: u64, now: Instant) -> bool {
        state & PROBING == 0 && state <= self.nanos(now).max(DUE)
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.created))
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    pub(super) fn accrual(&self) -> &Accrual {
        &self.accrual
    }

    /// Whether it still decides: the endpoint may have left the set, or come back with the cap, meanwhile.
    pub(super) fn is_current(&self) -> bool {
        self.accrual.state.load(Relaxed) == self.claim
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Fails once there was a verdict.
        let _decided = self.accrual.state.compare_exchange(self.claim, DUE, Relaxed, Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
