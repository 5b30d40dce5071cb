//! Opaque bytes: copied both ways between two connections until both directions are over.
//!
//! Each direction ends by itself (RFC 9293 §3.6), and an end is passed on as what it is: a FIN, or close_notify on TLS,
//! as the same on the other side; everything else as a reset, so that a peer that vanished in the middle of what it said
//! is never taken for one that was done. Plain copies, and not splice(2): on every way through the mesh one side is TLS.

mod direction;

use std::{future::poll_fn, io, pin::pin, task::Context, task::Poll, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::http::Transport;
use direction::{Broken, Copying};

/// A connection, and what was read from it already: the begin of what it says.
#[derive(Debug)]
pub(crate) struct Side<T> {
    io: T,
    read: Bytes,
}

impl<T> Side<T> {
    pub(crate) fn new(io: T, read: impl Into<Bytes>) -> Self {
        Self { io, read: read.into() }
    }
}

/// How a relay ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Bytes from downstream that upstream took.
    pub(crate) sent: u64,
    /// Bytes from upstream that downstream took.
    pub(crate) received: u64,
    /// Why, the first cause if there were several.
    pub(crate) why: Why,
    /// What broke, if something did.
    pub(crate) error: Option<io::Error>,
}

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Both directions came to their end.
    Finished,
    /// Downstream was reset or went away without a word.
    DownstreamReset,
    /// Upstream was, or did.
    UpstreamReset,
    /// Nothing moved in either direction for too long.
    Idle,
    /// It was told to end.
    Cut,
}

/// Copies both ways until both directions are over, nothing moved in either for `idle_timeout`, or `cut` is ready: the
/// deadline of a drain, a peer that is no longer trusted. Whatever the end is other than [`Why::Finished`], both
/// connections are reset. A direction whose writer is slower than its reader holds at most [`direction::BUFFER`] bytes, or
/// what was read before; any other holds none.
///
/// A side that was reset while the other one's writer is blocked is noticed when that goes on, or by the timeouts.
///
/// Cancel safe in this sense: dropped, it is cut.
pub(crate) async fn relay<D: Transport, U: Transport>(
    downstream: Side<D>,
    upstream: Side<U>,
    idle_timeout: Duration,
    cut: impl Future<Output = ()>,
) -> Ended {
    let mut relay = Relay::new(downstream, upstream);
    let mut cut = pin!(cut);
    // Put off when it fires, not with each byte.
    let mut timer = pin!(sleep(idle_timeout));
    let mut moved = Instant::now();
    let why = poll_fn(|cx| {
        if let Poll::Ready(why) = relay.poll(cx) {
            return Poll::Ready(why);
        }
        if relay.has_moved() {
            moved = Instant::now();
        }
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Why::Cut);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let deadline = moved + idle_timeout;
            if Instant::now() >= deadline {
                return Poll::Ready(Why::Idle);
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    });
    let why = why.await;
    relay.end(why)
}

/// Both connections and both directions between them. Dropped before it is finished, it resets both.
struct Relay<D: Transport, U: Transport> {
    downstream: D,
    upstream: U,
    sending: Copying,
    receiving: Copying,
    /// What broke first.
    broken: Option<(Why, io::Error)>,
    /// Whose turn it is to go first: what a task may do at a stretch is bounded, and a direction that never pauses must
    /// not leave nothing of it to the other one.
    receiving_first: bool,
    finished: bool,
}

impl<D: Transport, U: Transport> Relay<D, U> {
    fn new(downstream: Side<D>, upstream: Side<U>) -> Self {
        Self {
            sending: Copying::new(downstream.read),
            receiving: Copying::new(upstream.read),
            downstream: downstream.io,
            upstream: upstream.io,
            broken: None,
            receiving_first: true,
            finished: false,
        }
    }

    /// Ready when there is nothing more to copy.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Why> {
        self.receiving_first = !self.receiving_first;
        if self.receiving_first {
            self.poll_receiving(cx);
            self.poll_sending(cx);
        } else {
            self.poll_sending(cx);
            self.poll_receiving(cx);
        }
        if self.sending.is_over() && self.receiving.is_over() {
            return Poll::Ready(self.broken.as_ref().map_or(Why::Finished, |(why, _)| *why));
        }
        Poll::Pending
    }

    fn poll_sending(&mut self, cx: &mut Context<'_>) {
        let polled = self.sending.poll(cx, &mut self.downstream, &mut self.upstream);
        match polled {
            Poll::Ready(Err(Broken::Reader(error))) => self.break_off(Why::DownstreamReset, error),
            Poll::Ready(Err(Broken::Writer(error))) => {
                // What upstream said before it went is delivered still; then comes its end, which is none.
                self.note(Why::UpstreamReset, error);
                self.receiving.distrust();
                // It may have had its turn before the error was met.
                self.poll_receiving(cx);
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
    }

    fn poll_receiving(&mut self, cx: &mut Context<'_>) {
        let polled = self.receiving.poll(cx, &mut self.upstream, &mut self.downstream);
        match polled {
            Poll::Ready(Err(Broken::Reader(error))) => self.break_off(Why::UpstreamReset, error),
            Poll::Ready(Err(Broken::Writer(error))) => {
                self.note(Why::DownstreamReset, error);
                self.sending.distrust();
                self.poll_sending(cx);
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
    }

    fn note(&mut self, why: Why, error: io::Error) {
        self.broken.get_or_insert((why, error));
    }

    /// All that the side that broke has said was passed on, and it hears nothing more.
    fn break_off(&mut self, why: Why, error: io::Error) {
        self.note(why, error);
        self.sending.stop();
        self.receiving.stop();
    }

    /// Whether anything moved since this was last asked.
    fn has_moved(&mut self) -> bool {
        // Both are asked, whatever the first says.
        self.sending.has_moved() | self.receiving.has_moved()
    }

    fn end(mut self, why: Why) -> Ended {
        self.finished = why == Why::Finished;
        Ended {
            sent: self.sending.bytes(),
            received: self.receiving.bytes(),
            why,
            error: self.broken.take().map(|(_, error)| error),
        }
    }
}

impl<D: Transport, U: Transport> Drop for Relay<D, U> {
    fn drop(&mut self) {
        if !self.finished {
            self.downstream.reset_on_close();
            self.upstream.reset_on_close();
        }
    }
}

#[cfg(test)]
mod tests;
