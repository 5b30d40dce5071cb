//! Which endpoints are left alone for a while, and how they come back.
//!
//! ```text
//!                  failures in a row, room under the cap,
//!                  and its own fault
//!      Healthy ---------------------------------> Ejected until t
//!         ^                                        |        ^
//!         | success                         t has  |        | failure: longer
//!         |                                 passed v        |
//!         +----------------------------------- Due / Probing: one real request
//!                                                (no verdict: due again)
//! ```
//!
//! [`Accrual`] is one endpoint's, [`Ejections`] its destination's. Availability over correctness: never more than a part of
//! the set is ejected, and nobody for what everybody does. Requests meet one atomic load before an attempt, and a few
//! relaxed atomics of that endpoint alone after it; only failures in a row, and what an ejection needs, take a lock.

mod accrual;
mod peers;
mod verdict;

pub use accrual::{Accrual, Admission, Probe, Standing};
pub use verdict::{Failure, Verdict, verdict, verdict_of_peer};

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::model::Outlier;

/// The end of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// When.
    pub now: Instant,
    /// What it says about the endpoint.
    pub verdict: Verdict,
    /// Uniform over all of `u64`; for the jitter of an ejection.
    pub random: u64,
}

/// The ejections of one destination. Shared by all threads; it outlives changes of its endpoints and of its policy.
#[derive(Debug, Default)]
pub struct Ejections {
    /// By address, without duplicates. A leaf but for the histories of the members; never held across an await. Every way
    /// out of and into health goes through it, so that the cap holds whatever the threads do.
    members: Mutex<Vec<Arc<Accrual>>>,
}

impl Ejections {
    /// Of a destination without endpoints.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a new set of endpoints, or a new policy, in force. An `Accrual` belongs to one destination only.
    ///
    /// Endpoints that left count no more, and would come back healthy. If more are ejected now than the policy allows in
    /// a set of this size, those whose time would end first are healthy at once.
    pub fn update(&self, now: Instant, mut members: Vec<Arc<Accrual>>, policy: &Outlier) {
        members.sort_unstable_by_key(Arc::as_ptr);
        members.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let mut present = self.lock();
        for gone in present.iter().filter(|member| place(&members, member).is_none()) {
            gone.recover(now);
        }
        let mut ejected: Vec<_> = members.iter().filter(|member| member.is_ejected()).collect();
        ejected.sort_by_key(|member| member.returns());
        let surplus = ejected.len().saturating_sub(cap(members.len(), policy));
        for member in ejected.into_iter().take(surplus) {
            member.recover(now);
        }
        *present = members;
    }

    /// Takes the end of an attempt at the endpoint of `accrual`, begun with `admission`, under the policy in force.
    pub fn record(&self, accrual: &Accrual, admission: Admission, ending: Ending, policy: &Outlier) {
        let failure = match ending.verdict {
            Verdict::Success => None,
            Verdict::Failure(failure) => Some(failure),
            // A probe is given back as it is dropped.
            Verdict::Ignored => return,
        };
        match (admission, failure) {
            (Admission::Probe(probe), _) => self.probed(&probe, failure, ending, policy),
            (Admission::Open, None) => accrual.succeeded(ending.now),
            (Admission::Open, Some(failure)) => {
                if accrual.failed(ending.now, failure, policy.consecutive_failures) {
                    self.eject(accrual, failure, ending, policy);
                }
            }
        }
    }

    /// Ejects an endpoint with enough failures in a row, if it is its own fault and there is room.
    fn eject(&self, accrual: &Accrual, failure: Failure, ending: Ending, policy: &Outlier) {
        let members = self.lock();
        let ejected = members.iter().filter(|member| member.is_ejected()).count();
        if place(&members, accrual).is_none()
            || accrual.is_ejected()
            || ejected >= cap(members.len(), policy)
            || !(accrual.fails_by_itself(policy.consecutive_failures)
                || peers::others_do_better(&members, accrual, ending.now))
        {
            return;
        }
        accrual.eject(ending.now, failure, policy, ending.random);
    }

    /// The one request that decides whether an ejected endpoint comes back.
    fn probed(&self, probe: &Probe, failure: Option<Failure>, ending: Ending, policy: &Outlier) {
        let accrual = probe.accrual();
        accrual.count(ending.now, failure);
        let members = self.lock();
        if !probe.is_current() {
            return;
        }
        match failure {
            // Also when the policy was turned off meanwhile, or when the others fail now as it does.
            Some(failure)
                if policy.consecutive_failures > 0
                    && !(failure.is_relative() && peers::others_fail_too(&members, accrual, ending.now)) =>
            {
                accrual.eject(ending.now, failure, policy, ending.random);
            }
            _ => accrual.recover(ending.now),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Accrual>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where among the members an endpoint is.
fn place(members: &[Arc<Accrual>], accrual: &Accrual) -> Option<usize> {
    members.binary_search_by_key(&std::ptr::from_ref(accrual), Arc::as_ptr).ok()
}

/// How many of `size` endpoints may be ejected at once: max(1, `max_ejected_percent`), never more than half, none of fewer
/// than two, none if the policy ejects nobody.
pub fn cap(size: usize, policy: &Outlier) -> usize {
    if size < 2 || policy.consecutive_failures == 0 {
        return 0;
    }
    let percent = usize::try_from(policy.max_ejected_percent).unwrap_or(usize::MAX);
    (size.saturating_mul(percent) / 100).clamp(1, size / 2)
}

/// How long the `times`-th ejection in a row lasts, from 1: `base_ejection * 2^(times - 1)`, to which up to a half is added
/// at random; at most `max_ejection`. Where that cuts, the random part is taken from below, so that the proxies that
/// ejected an endpoint together do not come back to it together.
fn duration(policy: &Outlier, times: u32, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    let plain = policy.base_ejection.saturating_mul(factor).min(policy.max_ejection);
    let longest = plain.saturating_add(plain / 2).min(policy.max_ejection);
    let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
    // The high half of the product is uniform below the number.
    let less = (u128::from(random) * u128::from(longest / 3)) >> 64;
    Duration::from_nanos(longest - u64::try_from(less).unwrap_or_default())
}

#[cfg(test)]
mod tests;
