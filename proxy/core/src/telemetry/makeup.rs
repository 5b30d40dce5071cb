//! What the slowest requests were made of.

use std::time::Duration;

use super::{AppSplit, PHASES, Phase, Sparse, bucket_lower, sparse::Bucket};

/// The phases of the slowest share of requests, exact to the edge of a bucket: whole buckets are taken from the slow end
/// until they hold the share, so that each sum belongs to just these requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Makeup {
    /// How many requests these are: at least the share asked for.
    pub requests: u64,
    /// Their totals are above this.
    pub above: Duration,
    sum: Bucket,
}

/// Parts of [`Phase::App`]. Both times are sums over the requests where they are known, divided by all requests: so they
/// add up with the other phases, and what is missing to the phase belongs to requests where they are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppMakeup {
    /// Requests where they are known.
    pub requests: u64,
    /// Spent by the application itself.
    pub own: Duration,
    /// Waited by it for its own calls.
    pub waiting: Duration,
}

impl Makeup {
    /// Of the slowest `ppm` millionths, at least one request; a million: of all. `None` without requests.
    pub fn slowest(histogram: &Sparse, ppm: u32) -> Option<Self> {
        let all = histogram.count();
        let share = u128::from(all) * u128::from(ppm.min(1_000_000));
        let wanted = share.div_ceil(1_000_000).max(1);
        let mut sum = Bucket::default();
        let mut above = Duration::ZERO;
        for (index, bucket) in histogram.iter().rev() {
            if u128::from(sum.count) >= wanted {
                break;
            }
            sum.merge(bucket);
            above = bucket_lower(index);
        }
        (sum.count > 0).then_some(Self { requests: sum.count, above, sum })
    }

    /// Mean of their totals.
    pub fn mean(&self) -> Duration {
        self.per_request(self.sum.total_us)
    }

    /// Mean of each phase.
    pub fn phases(&self) -> [(Phase, Duration); PHASES] {
        Phase::ALL.map(|phase| {
            let sum = self.sum.phases_us.get(phase as usize).copied().unwrap_or_default();
            (phase, self.per_request(sum))
        })
    }

    /// [`Phase::App`] taken apart.
    pub fn app(&self) -> AppMakeup {
        let AppSplit { requests, own_us, waiting_us } = self.sum.app;
        AppMakeup { requests, own: self.per_request(own_us), waiting: self.per_request(waiting_us) }
    }

    /// Mean of what no phase accounts for.
    pub fn unexplained(&self) -> Duration {
        let explained = self.sum.phases_us.iter().fold(0_u64, |sum, time| sum.saturating_add(*time));
        self.per_request(self.sum.total_us.saturating_sub(explained))
    }

    fn per_request(&self, sum_us: u64) -> Duration {
        let nanos = u128::from(sum_us) * 1000 / u128::from(self.requests.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
