//! Whether there may be something new to tell: so that an idle proxy sleeps, and one that wakes up says so soon.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tokio::sync::Notify;

/// Shared between those who do something worth telling and the one who tells. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Somebody waits to be told.
    resting: AtomicBool,
    woken: Notify,
}

impl Activity {
    /// Something was done. Costs a load, while nobody rests.
    pub fn note(&self) {
        if self.0.resting.load(SeqCst) && self.0.resting.swap(false, SeqCst) {
            self.0.woken.notify_one();
        }
    }

    /// From here on, what is done ends [`Self::next`]: to be called before the last look for news.
    pub fn rest(&self) {
        self.0.resting.store(true, SeqCst);
    }

    /// Waits for something that was done since [`Self::rest`]. Cancel safe.
    pub async fn next(&self) {
        if self.0.resting.load(SeqCst) {
            self.0.woken.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::Activity;

    #[tokio::test]
    async fn what_is_done_wakes_the_one_who_rests_and_nobody_else() {
        let activity = Activity::default();
        activity.note();
        activity.rest();
        assert!(activity.next().now_or_never().is_none(), "that was before");
        activity.note();
        assert!(activity.next().now_or_never().is_some());
        activity.rest();
        assert!(activity.next().now_or_never().is_some(), "told once too often, never too seldom");
        activity.rest();
        assert!(activity.next().now_or_never().is_none());
    }
}
