//! The histogram that requests are recorded in: a dozen relaxed adds each, rows allocated on first use.

use std::{
    array,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    PHASES, Phase, PhaseTimes,
    phase::nanos,
    sparse::{AppSplit, BUCKETS, Bucket, FIRST_BUCKET, Sparse, place},
};

/// Totals by bucket (base 2, schema 3, see [`bucket_index`](super::bucket_index)), each with the sums of its phases.
///
/// Recorded from any thread without a lock. It only grows: a delta is a [`Sparse::since`] of two snapshots. A snapshot
/// taken while a request is being recorded may have some of its figures and lack others; the next one has them.
pub struct Histogram {
    rows: [OnceLock<Box<Row>>; BUCKETS],
}

/// Nanoseconds, so that phases of a microsecond do not vanish; 584 years of requests until a sum wraps.
#[derive(Default)]
struct Row {
    count: AtomicU64,
    total: AtomicU64,
    phases: [AtomicU64; PHASES],
    split: AtomicU64,
    own: AtomicU64,
    waiting: AtomicU64,
}

impl Histogram {
    /// An empty one: 2.6 KB, and about 130 bytes for each bucket that is ever hit.
    pub fn new() -> Self {
        Self { rows: array::from_fn(|_| OnceLock::new()) }
    }

    /// Counts one request. `waiting`: the part of its [`Phase::App`] that the application waited for its own calls, if
    /// that is known; cut to the phase.
    pub fn record(&self, total: Duration, phases: &PhaseTimes, waiting: Option<Duration>) {
        let Some(row) = self.rows.get(place(total)) else {
            return;
        };
        let row = row.get_or_init(Box::default);
        row.count.fetch_add(1, Relaxed);
        row.total.fetch_add(nanos(total), Relaxed);
        for (sum, (_, time)) in row.phases.iter().zip(phases.iter()) {
            // Most phases of most requests are zero.
            if !time.is_zero() {
                sum.fetch_add(nanos(time), Relaxed);
            }
        }
        if let Some(waiting) = waiting {
            let app = phases.get(Phase::App);
            let waiting = waiting.min(app);
            row.split.fetch_add(1, Relaxed);
            row.own.fetch_add(nanos(app - waiting), Relaxed);
            if !waiting.is_zero() {
                row.waiting.fetch_add(nanos(waiting), Relaxed);
            }
        }
    }

    /// Everything counted so far.
    pub fn snapshot(&self) -> Sparse {
        let buckets = (FIRST_BUCKET..)
            .zip(&self.rows)
            .filter_map(|(index, row)| row.get().map(|row| (index, row.load())))
            .filter(|(_, bucket)| bucket.count > 0)
            .collect();
        Sparse::from_sorted(buckets)
    }
}

impl Row {
    fn load(&self) -> Bucket {
        let micros = |sum: &AtomicU64| sum.load(Relaxed) / 1000;
        Bucket {
            count: self.count.load(Relaxed),
            total_us: micros(&self.total),
            phases_us: array::from_fn(|phase| self.phases.get(phase).map(micros).unwrap_or_default()),
            app: AppSplit {
                requests: self.split.load(Relaxed),
                own_us: micros(&self.own),
                waiting_us: micros(&self.waiting),
            },
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Histogram").field(&self.snapshot()).finish()
    }
}

#[cfg(test)]
mod tests;
