//! How many requests an application may have at a time.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::learning::{Learning, Sample};
use crate::limit::Bounded;

/// No limit is smaller.
pub const LEAST: u32 = 8;

/// Stands for no limit.
const NONE: u32 = u32::MAX;

/// Whether a request may go to the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// It may; its end is told by one [`Concurrency::end`].
    Admitted,
    /// The same, although it is more than the limit allows: the limit is not enforced.
    Tolerated,
    /// It may not.
    Refused {
        /// It has been so for a second: whoever sends it again here will be refused again.
        lasting: bool,
    },
}

/// How a request that was admitted ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With the head of the application's answer, after so long. The wait for a connection to it counts, here and below.
    Answered(Duration),
    /// Nobody waited any longer, after so long.
    GivenUp(Duration),
    /// The application took no connection for it, for so long.
    NotTaken(Duration),
    /// Otherwise: it says nothing of how much the application can do.
    Untold,
}

/// The requests at one application, from their head to the head of the answer, and the limit on them. There is none until the
/// application is seen to have more than it can do: for a while, answers have taken several times as long as they usually do,
/// and not under half a second; more and more requests are inside, and answers come no faster for it. The first limit
/// lets in one for one that is answered. If that has not shown it to be a mistake, so many are let in as it answers
/// in half a second, or three times its usual time, as long as that is seen to help; more, where fewer are refused then because
/// those who stand in line do not ask again. Where half of the callers go away before they are answered, so many are let in at once as
/// it answers in three times its usual time, however little that is; likewise where it has no room for more connections, and goes on to
/// answer others. One that answers nobody meanwhile does not have too much to do, but hangs: it has no limit. The limit goes when nothing
/// was refused for a second (longer, where requests take longer, or a longer line is tried).
///
/// Shared by all threads. Admission takes no lock unless it refuses; each end takes a short one.
#[derive(Debug)]
pub struct Concurrency {
    enforced: bool,
    inside: Bounded,
    limit: AtomicU32,
    /// Leaf, held for some tens of instructions; never across an await.
    learning: Mutex<Learning>,
}

impl Concurrency {
    /// Nothing is known of the application at `now`. Not `enforced`, the limit refuses nothing; whether it would help is not
    /// seen then, and it is kept for as long as it would refuse.
    pub fn new(now: Instant, enforced: bool) -> Self {
        Self {
            enforced,
            inside: Bounded::new(),
            limit: AtomicU32::new(NONE),
            learning: Mutex::new(Learning::new(now)),
        }
    }

    /// Asks for a request's admission.
    pub fn admit(&self, now: Instant) -> Admission {
        if self.inside.try_acquire(self.limit.load(Relaxed)) {
            return Admission::Admitted;
        }
        let mut learning = self.learn();
        match learning.refuse(now) {
            Some(lasting) if self.enforced => Admission::Refused { lasting },
            refused => {
                self.put(&learning);
                self.enter();
                if refused.is_some() { Admission::Tolerated } else { Admission::Admitted }
            }
        }
    }

    /// Counts a request in that is never refused.
    pub fn enter(&self) {
        let _always = self.inside.try_acquire(NONE);
    }

    /// Tells the end of a request that was admitted, or entered.
    pub fn end(&self, now: Instant, ended: Ended) {
        self.inside.release();
        let sample = match ended {
            Ended::Answered(took) => Sample { took, answered: true, taken: true },
            Ended::GivenUp(took) => Sample { took, answered: false, taken: true },
            Ended::NotTaken(took) => Sample { took, answered: false, taken: false },
            Ended::Untold => return,
        };
        let mut learning = self.learn();
        learning.add(now, self.inside.held(), sample);
        self.put(&learning);
    }

    /// How many may be inside; `None`: as many as come.
    pub fn limit(&self) -> Option<u32> {
        Some(self.limit.load(Relaxed)).filter(|limit| *limit != NONE)
    }

    /// How many are.
    pub fn inside(&self) -> u32 {
        self.inside.held()
    }

    fn learn(&self) -> MutexGuard<'_, Learning> {
        self.learning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, learning: &Learning) {
        self.limit.store(learning.limit().unwrap_or(NONE), Relaxed);
    }
}
