//! Histograms at rest: only the buckets that have something, in order; merged, subtracted, asked for quantiles.

use std::time::Duration;

use super::{PHASES, Phase};

/// Index of the first bucket; it also takes everything shorter. Its upper bound is the first at or above 50 µs.
pub const FIRST_BUCKET: i32 = -114;
/// Index of the last bucket; it takes everything above 64 s.
pub const LAST_BUCKET: i32 = 49;
/// How many buckets there are.
pub(super) const BUCKETS: usize = 164;
/// Buckets per doubling: schema 3.
const PER_DOUBLING: i32 = 8;

/// Upper bounds, nanoseconds: `2^(index / 8)` seconds, rounded down, which no whole nanosecond notices.
const BOUNDS: [u64; BUCKETS] = bounds();

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "positive and below 2^37; indices are bounded by the loop; all of it happens in the compiler"
)]
const fn bounds() -> [u64; BUCKETS] {
    // 2^(k/8)
    const STEPS: [f64; 8] = [
        1.0,
        1.090_507_732_665_257_7,
        1.189_207_115_002_721,
        1.296_839_554_651_009_7,
        std::f64::consts::SQRT_2,
        1.542_210_825_407_940_8,
        1.681_792_830_507_429,
        1.834_008_086_409_342_4,
    ];
    let mut all = [0; BUCKETS];
    let mut place = 0;
    let mut index = FIRST_BUCKET;
    while place < BUCKETS {
        let mut bound = STEPS[index.rem_euclid(PER_DOUBLING) as usize] * 1e9;
        let mut doublings = index.div_euclid(PER_DOUBLING);
        while doublings > 0 {
            bound *= 2.0;
            doublings -= 1;
        }
        while doublings < 0 {
            bound /= 2.0;
            doublings += 1;
        }
        all[place] = bound as u64;
        place += 1;
        index += 1;
    }
    all
}

/// The place of `time` among the buckets, from 0.
pub(super) fn place(time: Duration) -> usize {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    BOUNDS.partition_point(|bound| *bound < nanos).min(BUCKETS - 1)
}

/// The bucket that `time` falls into: `(2^((index-1)/8), 2^(index/8)]` seconds, cut to the first and the last.
pub fn bucket_index(time: Duration) -> i32 {
    i32::try_from(place(time)).map_or(LAST_BUCKET, |place| FIRST_BUCKET + place)
}

/// Upper bound of a bucket, inclusive; the last one's is infinite, and given as if it were not.
pub fn bucket_upper(index: i32) -> Duration {
    let place = usize::try_from(i64::from(index) - i64::from(FIRST_BUCKET)).unwrap_or(0);
    Duration::from_nanos(BOUNDS.get(place).or(BOUNDS.last()).copied().unwrap_or_default())
}

/// Lower bound of a bucket, exclusive; zero for the first.
pub fn bucket_lower(index: i32) -> Duration {
    if index <= FIRST_BUCKET { Duration::ZERO } else { bucket_upper(index - 1) }
}

/// What one bucket counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Requests.
    pub count: u64,
    /// Sum of their totals, microseconds.
    pub total_us: u64,
    /// Sum of each phase, microseconds, in the order of [`Phase::ALL`].
    pub phases_us: [u64; PHASES],
    /// [`Phase::App`] taken apart, where that is known.
    pub app: AppSplit,
}

/// Two parts of [`Phase::App`], over the requests where they are known. Kept as sums of their own, so that what the
/// phase lasted in all other requests is exactly the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppSplit {
    /// Requests where they are known.
    pub requests: u64,
    /// Spent by the application itself, microseconds.
    pub own_us: u64,
    /// Waited by it for its own calls, microseconds.
    pub waiting_us: u64,
}

impl AppSplit {
    fn merge(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.own_us = self.own_us.saturating_add(other.own_us);
        self.waiting_us = self.waiting_us.saturating_add(other.waiting_us);
    }

    fn minus(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            own_us: self.own_us.saturating_sub(earlier.own_us),
            waiting_us: self.waiting_us.saturating_sub(earlier.waiting_us),
        }
    }
}

impl Bucket {
    /// Sum of `phase`.
    pub fn phase(&self, phase: Phase) -> Duration {
        Duration::from_micros(self.phases_us.get(phase as usize).copied().unwrap_or_default())
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.total_us = self.total_us.saturating_add(other.total_us);
        for (mine, theirs) in self.phases_us.iter_mut().zip(&other.phases_us) {
            *mine = mine.saturating_add(*theirs);
        }
        self.app.merge(other.app);
    }

    fn minus(&self, earlier: &Self) -> Self {
        let mut rest = *self;
        rest.count = rest.count.saturating_sub(earlier.count);
        rest.total_us = rest.total_us.saturating_sub(earlier.total_us);
        for (mine, theirs) in rest.phases_us.iter_mut().zip(&earlier.phases_us) {
            *mine = mine.saturating_sub(*theirs);
        }
        rest.app = rest.app.minus(earlier.app);
        rest
    }
}

/// A histogram's buckets that are not empty, by ascending index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    buckets: Vec<(i32, Bucket)>,
}

impl Sparse {
    /// By ascending index, each once and within bounds: what a histogram yields.
    pub(super) fn from_sorted(buckets: Vec<(i32, Bucket)>) -> Self {
        Self { buckets }
    }

    /// Adds to one bucket; an index out of bounds counts as the nearest.
    pub fn add(&mut self, index: i32, bucket: &Bucket) {
        let index = index.clamp(FIRST_BUCKET, LAST_BUCKET);
        match self.buckets.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(place) => {
                if let Some((_, mine)) = self.buckets.get_mut(place) {
                    mine.merge(bucket);
                }
            }
            Err(place) => self.buckets.insert(place, (index, *bucket)),
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (index, bucket) in &other.buckets {
            self.add(*index, bucket);
        }
    }

    /// What was added since `earlier`, an older state of the same histogram. Counters that went backwards count as
    /// nothing added.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut before = earlier.buckets.iter().peekable();
        let buckets = self
            .buckets
            .iter()
            .map(|(index, bucket)| {
                while before.next_if(|(old, _)| old < index).is_some() {}
                match before.next_if(|(old, _)| old == index) {
                    Some((_, old)) => (*index, bucket.minus(old)),
                    None => (*index, *bucket),
                }
            })
            .filter(|(_, bucket)| *bucket != Bucket::default())
            .collect();
        Self { buckets }
    }

    /// The buckets, by ascending index.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (i32, &Bucket)> {
        self.buckets.iter().map(|(index, bucket)| (*index, bucket))
    }

    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Sum over all buckets.
    pub fn sum(&self) -> Bucket {
        let mut sum = Bucket::default();
        for (_, bucket) in &self.buckets {
            sum.merge(bucket);
        }
        sum
    }

    /// How many requests were counted.
    pub fn count(&self) -> u64 {
        self.sum().count
    }

    /// Mean of the totals; zero without requests.
    pub fn mean(&self) -> Duration {
        let sum = self.sum();
        Duration::from_micros(sum.total_us.checked_div(sum.count).unwrap_or_default())
    }

    /// The total that the share `q` (0 to 1) of all requests did not exceed, interpolated within its bucket as Prometheus
    /// does for native histograms: at most a bucket's width (9 %) off. `None` without requests.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let all = self.count();
        if all == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * to_float(all);
        let mut below = 0_u64;
        let mut found = None;
        for (index, bucket) in self.iter().filter(|(_, bucket)| bucket.count > 0) {
            found = Some((index, bucket, to_float(below)));
            below = below.saturating_add(bucket.count);
            if to_float(below) >= rank {
                break;
            }
        }
        let (index, bucket, below) = found?;
        if index == LAST_BUCKET || index == FIRST_BUCKET {
            // One has no upper bound, the other no useful lower one: their mean says more than any edge.
            return Some(Duration::from_micros(bucket.total_us.checked_div(bucket.count)?));
        }
        let share = ((rank - below) / to_float(bucket.count)).clamp(0.0, 1.0);
        let (lower, upper) = (bucket_lower(index).as_secs_f64(), bucket_upper(index).as_secs_f64());
        Duration::try_from_secs_f64(lower * (upper / lower).powf(share)).ok()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rank among more than 2^53 requests may be off by one")]
fn to_float(count: u64) -> f64 {
    count as f64
}
