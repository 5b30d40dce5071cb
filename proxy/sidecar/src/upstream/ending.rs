//! How a connection ended, as far as that says whether the other side has seen the request on it.
//!
//! One end proves that it has not, and any request may be sent elsewhere then: a sidecar closes an HTTP/1 connection of the mesh
//! in order (TLS `close_notify`) only between two requests: one that it began with is answered or reset, and a process
//! that dies sends no `close_notify`. So an orderly end before the first byte of an answer means that nothing of the request
//! was looked at.
//!
//! An application proves nothing by its end, once a byte has left: not by a reset either, which says that something was not read, or that
//! the application asked for one (`SO_LINGER` of zero) after it read and acted; how much was read nobody says.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    task::Poll,
};

/// The end of a connection, and what passed since its last request was begun. Written by whoever has the socket.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// One was.
    asked: AtomicBool,
    /// A byte came since then.
    answered: AtomicBool,
    /// A byte was taken since then for sending.
    sent: AtomicBool,
    /// The first one counts; 0: it is open.
    end: AtomicU8,
}

/// In what way a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    /// In order: authenticated, where the peer is.
    Orderly = 1,
    /// In any other way.
    Broken = 2,
}

impl Ending {
    /// A request is about to be sent.
    pub(super) fn begin(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.answered.store(false, Ordering::Relaxed);
        self.sent.store(false, Ordering::Relaxed);
    }

    /// How the connection ended, if it did so without a byte of an answer.
    pub(super) fn unanswered(&self) -> Option<End> {
        if self.answered.load(Ordering::Relaxed) {
            return None;
        }
        match self.end.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(End::Orderly),
            _ => Some(End::Broken),
        }
    }

    /// Whether a request was begun, and nothing came since: neither an answer nor an end.
    pub(super) fn is_waited_for(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
            && !self.answered.load(Ordering::Relaxed)
            && self.end.load(Ordering::Relaxed) == 0
    }

    /// Whether a byte of the request may have left.
    pub(super) fn has_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Something was read, or it was tried.
    pub(super) fn read(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => self.set(End::Orderly),
            Poll::Ready(Ok(_)) => self.answered.store(true, Ordering::Relaxed),
            Poll::Ready(Err(_)) => self.set(End::Broken),
        }
    }

    /// Something was written, or it was tried.
    pub(super) fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.sent.store(true, Ordering::Relaxed);
        }
    }

    /// It ended so, unless an end was seen before.
    pub(super) fn set(&self, end: End) {
        let _earlier = self.end.compare_exchange(0, end as u8, Ordering::Relaxed, Ordering::Relaxed).is_err();
    }
}

/// Whether nobody reads any more what is written: the other side has closed.
pub(super) fn is_reset(error: &io::Error) -> bool {
    // A socket that had the other side's end already says EPIPE for a reset.
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ending: &Ending, result: io::Result<usize>) {
        ending.read(&Poll::Ready(result));
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
        ending.wrote(&Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())));
        assert!(!ending.has_sent(), "the one before was");
        ending.wrote(&Poll::Ready(Ok(9)));
        read(&ending, Ok(0));
        assert_eq!((ending.unanswered(), ending.has_sent()), (Some(End::Orderly), true));
    }

    #[test]
    fn a_reset_is_seen_however_the_socket_says_it() {
        for (kind, reset) in [
            (io::ErrorKind::ConnectionReset, true),
            (io::ErrorKind::BrokenPipe, true),
            (io::ErrorKind::TimedOut, false),
        ] {
            assert_eq!(is_reset(&kind.into()), reset, "{kind:?}");
        }
    }
}
