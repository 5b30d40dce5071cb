//! How long a request and its attempts may take, and whose limit it is.
//!
//! A [`Deadline`] is computed once a request from the timeout that is configured and the one that the caller sent; each
//! attempt has one of its own inside it. [`header`] reads and writes what travels, so that time only shrinks on its way.

pub mod header;

use std::time::{Duration, Instant};

use crate::reason::Reason;

/// The request timeout in force: the rule's own, else the policy's, else the mesh's; zero means none at whichever of them
/// says so.
pub fn request_timeout(
    rule: Option<Duration>,
    policy: Option<Duration>,
    mesh: Option<Duration>,
) -> Option<Duration> {
    rule.or(policy).or(mesh).filter(|timeout| !timeout.is_zero())
}

/// When a request or an attempt has to be over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deadline(Option<Limit>);

/// A moment, and what to answer when it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The moment.
    pub at: Instant,
    /// [`Reason::RequestTimeout`], [`Reason::DeadlineExceeded`] or [`Reason::PerTryTimeout`].
    pub reason: Reason,
}

impl Deadline {
    /// Of a request whose head was read at `head_read`: the earlier of `configured` (see [`request_timeout`]) and of
    /// `caller`, what the caller's header says. When both end together it is the configured one that is named.
    pub fn new(head_read: Instant, configured: Option<Duration>, caller: Option<Duration>) -> Self {
        let limit = |timeout: Option<Duration>, reason| Self::ending(head_read, timeout, reason);
        limit(configured, Reason::RequestTimeout).or_earlier(limit(caller, Reason::DeadlineExceeded))
    }

    /// Of an attempt that starts at `now`: `per_try` from then on, never beyond this deadline. Zero means none.
    #[must_use]
    pub fn attempt(self, now: Instant, per_try: Option<Duration>) -> Self {
        let per_try = per_try.filter(|timeout| !timeout.is_zero());
        self.or_earlier(Self::ending(now, per_try, Reason::PerTryTimeout))
    }

    /// When it passes, and as what; `None`: never.
    pub fn limit(self) -> Option<Limit> {
        self.0
    }

    /// What is left, zero once it has passed; `None`: there is no limit. The remaining time of an attempt's deadline is
    /// what is sent on with the attempt.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.0.map(|limit| limit.at.saturating_duration_since(now))
    }

    /// What to answer if it has passed.
    pub fn passed(self, now: Instant) -> Option<Reason> {
        self.0.filter(|limit| limit.at <= now).map(|limit| limit.reason)
    }

    /// A timeout that ends beyond what an [`Instant`] can say never ends.
    fn ending(start: Instant, timeout: Option<Duration>, reason: Reason) -> Self {
        Self(timeout.and_then(|timeout| start.checked_add(timeout)).map(|at| Limit { at, reason }))
    }

    fn or_earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(limit), Some(earlier)) if earlier.at < limit.at => other,
            (None, _) => other,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rule_goes_before_the_policy_and_the_policy_before_the_mesh() {
        let [one, two, three] = [1, 2, 3].map(|seconds| Some(Duration::from_secs(seconds)));
        assert_eq!(request_timeout(one, two, three), one);
        assert_eq!(request_timeout(None, two, three), two);
        assert_eq!(request_timeout(None, None, three), three);
        assert_eq!(request_timeout(None, None, None), None);
        assert_eq!(request_timeout(Some(Duration::ZERO), two, three), None);
    }

    #[test]
    fn the_earlier_of_what_is_configured_and_what_the_caller_set_counts() {
        let start = Instant::now();
        for (configured, caller, limit) in [
            (None, None, None),
            (Some(1), None, Some((1, Reason::RequestTimeout))),
            (None, Some(1), Some((1, Reason::DeadlineExceeded))),
            (Some(1), Some(2), Some((1, Reason::RequestTimeout))),
            (Some(2), Some(1), Some((1, Reason::DeadlineExceeded))),
            (Some(1), Some(1), Some((1, Reason::RequestTimeout))),
            (Some(1), Some(0), Some((0, Reason::DeadlineExceeded))),
        ] {
            let seconds = |seconds: Option<u32>| seconds.map(|seconds| seconds * SECOND);
            let deadline = Deadline::new(start, seconds(configured), seconds(caller));
            let expected = limit.map(|(after, reason)| Limit { at: start + after * SECOND, reason });
            assert_eq!(deadline.limit(), expected, "{configured:?} {caller:?}");
        }
    }

    #[test]
    fn an_attempt_ends_with_its_own_timeout_or_with_the_request() {
        let start = Instant::now();
        let deadline = Deadline::new(start, Some(3 * SECOND), None);
        let first = deadline.attempt(start, Some(2 * SECOND));
        assert_eq!(first.limit(), Some(Limit { at: start + 2 * SECOND, reason: Reason::PerTryTimeout }));
        let second = deadline.attempt(start + 2 * SECOND, Some(2 * SECOND));
        assert_eq!(second, deadline);
        assert_eq!(second.remaining(start + 2 * SECOND), Some(SECOND));
        assert_eq!(deadline.attempt(start, None), deadline);
        assert_eq!(deadline.attempt(start, Some(Duration::ZERO)), deadline);
        let alone = Deadline::default().attempt(start, Some(SECOND));
        assert_eq!(alone.limit(), Some(Limit { at: start + SECOND, reason: Reason::PerTryTimeout }));
    }

    #[test]
    fn a_deadline_passes_at_its_moment() {
        let start = Instant::now();
        let deadline = Deadline::new(start, None, Some(SECOND));
        assert_eq!(deadline.passed(start), None);
        assert_eq!(deadline.passed(start + SECOND), Some(Reason::DeadlineExceeded));
        assert_eq!(deadline.remaining(start + 2 * SECOND), Some(Duration::ZERO));
        assert_eq!(Deadline::default().passed(start), None);
        assert_eq!(Deadline::default().remaining(start), None);
    }

    #[test]
    fn a_timeout_beyond_all_clocks_is_none() {
        assert_eq!(Deadline::new(Instant::now(), None, Some(Duration::MAX)).limit(), None);
    }

    proptest! {
        #[test]
        fn what_is_sent_on_is_never_longer_than_what_came(
            configured in proptest::option::of(0..10_000_u64),
            caller in 0..10_000_u64,
            per_try in proptest::option::of(0..10_000_u64),
            waited in 0..10_000_u64,
        ) {
            let start = Instant::now();
            let millis = Duration::from_millis;
            let now = start + millis(waited);
            let deadline = Deadline::new(start, configured.map(millis), Some(millis(caller)));
            let sent_on = deadline.attempt(now, per_try.map(millis)).remaining(now).unwrap();
            prop_assert!(sent_on <= millis(caller.saturating_sub(waited)));
            if let Some(per_try) = per_try.filter(|per_try| *per_try > 0) {
                prop_assert!(sent_on <= millis(per_try));
            }
        }
    }
}
