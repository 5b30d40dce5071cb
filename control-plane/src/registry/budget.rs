//! How often an identity may change the registry: a workload that registers anew without end must not fill the disk with
//! records of it.

use std::{collections::BTreeMap, time::Duration};

use outrigger_core::model::SpiffeId;
use tokio::time::Instant;

/// Changes at once: a service of thousands of instances may be rolled out.
const BURST: u32 = 4096;
/// How long until there is one more: at most 86 400 a day, some 20 MB.
const REFILL: Duration = Duration::from_secs(1);
/// Beyond so many, those that are full again are dropped.
const MANY: usize = 1024;

/// What each identity has left.
#[derive(Debug, Default)]
pub(super) struct Budgets(BTreeMap<SpiffeId, Budget>);

#[derive(Debug)]
struct Budget {
    left: u32,
    /// Up to when the refill is accounted for.
    at: Instant,
}

impl Budget {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs() / REFILL.as_secs();
        let refilled = u32::try_from(passed).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(refilled).min(BURST);
        self.at = if self.left == BURST { now } else { self.at + REFILL * refilled };
    }
}

impl Budgets {
    /// Takes one change of `identity`, if it has one left.
    pub(super) fn take(&mut self, identity: &SpiffeId, now: Instant) -> bool {
        if self.0.len() > MANY {
            self.0.retain(|_, budget| {
                budget.refill(now);
                budget.left < BURST
            });
        }
        let budget = self.0.entry(identity.clone()).or_insert(Budget { left: BURST, at: now });
        budget.refill(now);
        let left = budget.left.checked_sub(1);
        budget.left = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(account: usize) -> SpiffeId {
        format!("spiffe://outrigger.local/ns/demo/sa/a-{account}").parse().unwrap()
    }

    #[test]
    fn a_burst_is_fine_and_a_flood_is_not() {
        let (mut budgets, start) = (Budgets::default(), Instant::now());
        for _ in 0..BURST {
            assert!(budgets.take(&identity(1), start));
        }
        assert!(!budgets.take(&identity(1), start));
        assert!(budgets.take(&identity(2), start), "everybody has a budget of its own");
        assert!(!budgets.take(&identity(1), start + REFILL / 2));
        assert!(budgets.take(&identity(1), start + REFILL));
        assert!(!budgets.take(&identity(1), start + REFILL));
        let hour = Duration::from_secs(3600);
        let taken = (0..10_000).filter(|_| budgets.take(&identity(1), start + REFILL + hour)).count();
        assert_eq!(taken, 3600);
    }

    #[test]
    fn who_is_quiet_is_forgotten() {
        let (mut budgets, start) = (Budgets::default(), Instant::now());
        for account in 0..=MANY {
            assert!(budgets.take(&identity(account), start));
        }
        assert!(budgets.take(&identity(0), start + REFILL * 2));
        assert_eq!(budgets.0.len(), 1);
    }
}
