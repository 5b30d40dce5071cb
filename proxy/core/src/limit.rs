//! How much is under way, and whether one more may be: connections, requests and waiting requests at a destination.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A count with a bound. Shared by all threads, without a lock; the bound is the policy's at each call, and may become
/// smaller than what is held, which then drains.
#[derive(Debug, Default)]
pub struct Bounded {
    held: AtomicU32,
}

impl Bounded {
    /// Nothing is held.
    pub const fn new() -> Self {
        Self { held: AtomicU32::new(0) }
    }

    /// Takes one if fewer than `limit` are held. Each that was taken is given back by one [`release`](Self::release).
    #[must_use]
    pub fn try_acquire(&self, limit: u32) -> bool {
        self.held.fetch_update(Relaxed, Relaxed, |held| (held < limit).then(|| held + 1)).is_ok()
    }

    /// Gives one back; none when none is held.
    pub fn release(&self) {
        let _none_held = self.held.fetch_update(Relaxed, Relaxed, |held| held.checked_sub(1));
    }

    /// How many are held.
    pub fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering::SeqCst},
        thread,
    };

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_limit_of_zero_lets_nothing_in() {
        let bounded = Bounded::new();
        assert!(!bounded.try_acquire(0));
        assert_eq!(bounded.held(), 0);
    }

    #[test]
    fn what_was_never_taken_cannot_be_given_back() {
        let bounded = Bounded::new();
        bounded.release();
        assert_eq!(bounded.held(), 0);
        assert!(bounded.try_acquire(1));
        assert!(!bounded.try_acquire(1));
    }

    #[test]
    fn a_limit_that_shrinks_takes_nothing_away_and_lets_nothing_in_until_enough_left() {
        let bounded = Bounded::new();
        assert!((0..3).all(|_| bounded.try_acquire(3)));
        assert!(!bounded.try_acquire(2));
        bounded.release();
        assert!(!bounded.try_acquire(2));
        bounded.release();
        assert!(bounded.try_acquire(2));
    }

    #[test]
    fn threads_together_never_hold_more_than_the_limit() {
        let (bounded, inside) = (Bounded::new(), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if bounded.try_acquire(2) {
                            assert!(inside.fetch_add(1, SeqCst) < 2);
                            inside.fetch_sub(1, SeqCst);
                            bounded.release();
                        }
                    }
                });
            }
        });
        assert_eq!(bounded.held(), 0);
    }

    proptest! {
        #[test]
        fn it_counts_like_a_number_with_a_bound(
            steps in prop::collection::vec((any::<bool>(), 0..5_u32), 0..60),
        ) {
            let bounded = Bounded::new();
            let mut held = 0_u32;
            for (acquire, limit) in steps {
                if acquire {
                    prop_assert_eq!(bounded.try_acquire(limit), held < limit);
                    held += u32::from(held < limit);
                } else {
                    bounded.release();
                    held = held.saturating_sub(1);
                }
                prop_assert_eq!(bounded.held(), held);
            }
        }
    }
}
