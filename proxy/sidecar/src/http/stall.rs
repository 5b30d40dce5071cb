//! Streams whose peer makes no room for what it is sent. The parser waits for room without an end and asks for no further
//! piece meanwhile, so neither it nor the body notices; whoever runs the stream does, and drops it, which resets it.

use std::{cell::Cell, future::poll_fn, pin::pin, task::Poll, time::Duration};

use hyper::rt::Executor;

use super::patience::Patience;

/// What became of a response's body, as far as its stream took it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Taken {
    /// How often a piece was asked for; it may wrap around.
    asked: u32,
    /// A piece was given out, and no further one was asked for: it waits for room.
    waiting: bool,
    /// It waited for too long.
    given_up: bool,
}

tokio::task_local! {
    /// Of the stream that runs.
    static TAKEN: Cell<Taken>;
}

fn change(change: impl FnOnce(&mut Taken)) {
    // A body that is not a stream's is looked after by its socket.
    let _not_a_stream = TAKEN.try_with(|taken| {
        let mut now = taken.get();
        change(&mut now);
        taken.set(now);
    });
}

/// The body of the stream that runs is asked for a piece.
pub(super) fn asked() {
    change(|taken| {
        taken.asked = taken.asked.wrapping_add(1);
        taken.waiting = false;
    });
}

/// It gave one out.
pub(super) fn gave() {
    change(|taken| taken.waiting = true);
}

/// Whether the stream that runs is dropped because it stood still.
pub(super) fn is_given_up() -> bool {
    TAKEN.try_with(Cell::get).is_ok_and(|taken| taken.given_up)
}

/// Runs each stream in a task of its own, and gives it up when what it is sent finds no room for `timeout`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    pub(super) timeout: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        let timeout = self.timeout;
        tokio::spawn(TAKEN.scope(Cell::default(), async move {
            let mut stream = pin!(stream);
            let (mut patience, mut before) = (Patience::new(timeout, None), Taken::default());
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let now = TAKEN.with(Cell::get);
                if now != before {
                    patience.reset();
                    before = now;
                }
                if !now.waiting || patience.poll(cx).is_pending() {
                    return Poll::Pending;
                }
                change(|taken| taken.given_up = true);
                Poll::Ready(())
            })
            .await;
        }));
    }
}
