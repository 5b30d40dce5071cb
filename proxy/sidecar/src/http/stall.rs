//! Streams whose peer makes no room for what it is sent. The parser waits for room without an end and asks for no further
//! piece meanwhile, so neither it nor the body notices; whoever runs the stream does, and drops it, which resets it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use hyper::rt::Executor;

use super::{Idle, Patience};

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

/// What a stream that runs and its body know of each other.
#[derive(Debug, Default)]
struct Running {
    taken: Cell<Taken>,
    /// How long it may stand still, once that is known.
    idle: RefCell<Option<Arc<Idle>>>,
}

impl Running {
    fn change(&self, change: impl FnOnce(&mut Taken)) {
        let mut now = self.taken.get();
        change(&mut now);
        self.taken.set(now);
    }
}

tokio::task_local! {
    /// The stream that runs.
    static RUNNING: Running;
}

/// The stream that runs may be `idle`. Of no effect where none does.
pub(super) fn may_be(idle: &Arc<Idle>) {
    let _not_a_stream = RUNNING.try_with(|running| running.idle.replace(Some(Arc::clone(idle))));
}

fn change(change: impl FnOnce(&mut Taken)) {
    // A body that is not a stream's is looked after by its socket.
    let _not_a_stream = RUNNING.try_with(|running| running.change(change));
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
    RUNNING.try_with(|running| running.taken.get().given_up).unwrap_or_default()
}

/// Runs each stream in a task of its own, and gives it up when what it is sent finds no room for as long as its exchange
/// may be idle, or for `timeout` where it has not said so.
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
        // Boxed: a task is moved as a whole several times, when it begins and when it ends.
        let mut stream = Box::pin(stream);
        let run = async move {
            let (mut patience, mut before) = (Patience::new(None), Taken::default());
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                RUNNING.with(|running| {
                    let now = running.taken.get();
                    if now != before {
                        patience.reset();
                        before = now;
                    }
                    if !now.waiting {
                        return Poll::Pending;
                    }
                    let mut idle = running.idle.borrow_mut();
                    let idle = idle.get_or_insert_with(|| Idle::new(timeout));
                    patience.poll_idle(cx, idle).map(|()| running.change(|taken| taken.given_up = true))
                })
            })
            .await;
        };
        tokio::spawn(RUNNING.scope(Running::default(), run));
    }
}
