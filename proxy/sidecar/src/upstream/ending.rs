//! How a connection ended, as far as that says whether the other side has seen the request on it.
//!
//! Two ends prove that it has not, and any request may be sent elsewhere then:
//!
//! * A sidecar closes an HTTP/1 connection of the mesh in order (TLS `close_notify`) only between two requests: one that
//!   it began with is answered or reset, and a process that dies sends no `close_notify`. So an orderly end before the
//!   first byte of an answer means that nothing of the request was looked at.
//! * A reset by an application says that something it was sent was never read (RFC 1122 §4.2.2.13): see
//!   [`outrigger_core::retry::Unanswered`].

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    task::Poll,
};

/// The end of a connection, and what passed since its last request was begun. Written by whoever has the socket.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// One was.
    asked: AtomicBool,
    /// A byte came since then.
    answered: AtomicBool,
    /// Writes since then, those that failed too.
    writes: AtomicU32,
    /// The first one counts; 0: it is open.
    end: AtomicU8,
}

/// In what way a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    /// In order: authenticated, where the peer is.
    Orderly = 1,
    /// The other side did not read all that it was sent.
    Reset = 2,
    /// In any other way.
    Broken = 3,
}

impl Ending {
    /// A request is about to be sent.
    pub(super) fn begin(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.answered.store(false, Ordering::Relaxed);
        self.writes.store(0, Ordering::Relaxed);
    }

    /// How the connection ended, if it did so without a byte of an answer.
    pub(super) fn unanswered(&self) -> Option<End> {
        if self.answered.load(Ordering::Relaxed) {
            return None;
        }
        match self.end.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(End::Orderly),
            2 => Some(End::Reset),
            _ => Some(End::Broken),
        }
    }

    /// Whether a request was begun, and nothing came since: neither an answer nor an end.
    pub(super) fn is_waited_for(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
            && !self.answered.load(Ordering::Relaxed)
            && self.end.load(Ordering::Relaxed) == 0
    }

    /// How many writes the request took so far.
    pub(super) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Something was read, or it was tried. `reset`: whether the socket says so although it looks like an end.
    pub(super) fn read(&self, polled: &Poll<io::Result<usize>>, reset: impl FnOnce() -> bool) {
        match polled {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => self.set(if reset() { End::Reset } else { End::Orderly }),
            Poll::Ready(Ok(_)) => self.answered.store(true, Ordering::Relaxed),
            Poll::Ready(Err(error)) => self.set(End::of(error)),
        }
    }

    /// Something was written, or it was tried.
    pub(super) fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(1..) | Err(_))) {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It ended so, unless an end was seen before.
    pub(super) fn set(&self, end: End) {
        let _earlier = self.end.compare_exchange(0, end as u8, Ordering::Relaxed, Ordering::Relaxed).is_err();
    }
}

impl End {
    pub(super) fn of(error: &io::Error) -> Self {
        // A socket that had the other side's end already says EPIPE for a reset.
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ending: &Ending, result: io::Result<usize>) {
        ending.read(&Poll::Ready(result), || false);
    }

    #[test]
    fn the_first_end_is_the_one_that_counts_and_only_if_nothing_came() {
        let ending = Ending::default();
        assert!(!ending.is_waited_for());
        ending.begin();
        assert!(ending.is_waited_for());
        assert_eq!(ending.unanswered(), None, "it is open");
        read(&ending, Err(io::ErrorKind::UnexpectedEof.into()));
        read(&ending, Ok(0));
        assert_eq!(ending.unanswered(), Some(End::Broken));

        let ending = Ending::default();
        ending.begin();
        read(&ending, Ok(1));
        read(&ending, Ok(0));
        assert_eq!(ending.unanswered(), None, "there was an answer");
    }

    #[test]
    fn an_earlier_answer_is_not_the_next_one_s() {
        let ending = Ending::default();
        ending.begin();
        ending.wrote(&Poll::Ready(Ok(9)));
        read(&ending, Ok(1));
        ending.begin();
        assert_eq!(ending.writes(), 0);
        ending.wrote(&Poll::Ready(Ok(9)));
        ending.wrote(&Poll::Ready(Ok(0)));
        read(&ending, Ok(0));
        assert_eq!((ending.unanswered(), ending.writes()), (Some(End::Orderly), 1));
        // The part that came through may have been read.
        ending.wrote(&Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())));
        assert_eq!(ending.writes(), 2);
    }

    #[test]
    fn a_reset_is_seen_however_the_socket_says_it() {
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe] {
            let ending = Ending::default();
            read(&ending, Err(kind.into()));
            assert_eq!(ending.unanswered(), Some(End::Reset));
        }
        let ending = Ending::default();
        ending.read(&Poll::Ready(Ok(0)), || true);
        assert_eq!(ending.unanswered(), Some(End::Reset));
    }
}
