//! A sign that is given once, and looked at with each request: whether a connection is to take no further one. A
//! `CancellationToken` takes a lock each time that somebody looks, and two each time that somebody who waits is polled; here it is one load.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// See the module. All clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    given: AtomicBool,
    /// Wakes those who wait, after that was set.
    token: CancellationToken,
}

impl Signal {
    /// Gives it. A second time changes nothing.
    pub(crate) fn give(&self) {
        self.0.given.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Whether it was given.
    pub(crate) fn is_given(&self) -> bool {
        self.0.given.load(Ordering::Acquire)
    }

    /// Ready when it is given.
    pub(crate) fn given(&self) -> Given<'_> {
        Given { signal: self, waiting: None }
    }

    /// Gives it when the guard is dropped.
    pub(crate) fn give_on_drop(&self) -> GiveOnDrop {
        GiveOnDrop(self.clone())
    }
}

/// See [`Signal::give_on_drop`].
#[derive(Debug)]
pub(crate) struct GiveOnDrop(Signal);

impl Drop for GiveOnDrop {
    fn drop(&mut self) {
        self.0.give();
    }
}

/// See [`Signal::given`].
#[derive(Debug)]
pub(crate) struct Given<'a> {
    signal: &'a Signal,
    /// Who is woken, by what.
    waiting: Option<(Waker, Pin<Box<WaitForCancellationFutureOwned>>)>,
}

impl Future for Given<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.signal.is_given() {
            return Poll::Ready(());
        }
        let mut wait = match this.waiting.take() {
            // Whoever is to be woken is known already, and nobody was.
            Some(waiting) if waiting.0.will_wake(cx.waker()) => {
                this.waiting = Some(waiting);
                return Poll::Pending;
            }
            Some((_, wait)) => wait,
            None => Box::pin(this.signal.0.token.clone().cancelled_owned()),
        };
        if wait.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        this.waiting = Some((cx.waker().clone(), wait));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn whoever_was_polled_last_is_woken() {
        let signal = Signal::default();
        let mut given = signal.given();
        let woken: [Arc<Woken>; 2] = Default::default();
        for woken in &woken {
            let waker = Waker::from(Arc::clone(woken));
            for _ in 0..3 {
                assert!(Pin::new(&mut given).poll(&mut Context::from_waker(&waker)).is_pending());
            }
        }
        signal.give();
        assert!(woken[1].0.load(Ordering::SeqCst) && !woken[0].0.load(Ordering::SeqCst));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut given).poll(&mut cx).is_ready());
        assert!(Pin::new(&mut signal.given()).poll(&mut cx).is_ready(), "and later ones find it given");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_misses_one_that_is_given_elsewhere() {
        for _ in 0..500 {
            let signal = Signal::default();
            let guard = signal.give_on_drop();
            let waits = tokio::spawn(async move { signal.given().await });
            let gives = tokio::spawn(async move { drop(guard) });
            waits.await.unwrap();
            gives.await.unwrap();
        }
    }
}
