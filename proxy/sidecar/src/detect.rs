//! What a connection speaks, found out from its first bytes, where nobody has said it. They are read, never peeked at:
//! a hello that spans segments would be looked at in vain until the next one comes. What was read is handed on in every
//! case.

use std::{io, time::Duration};

use bytes::{BufMut as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use crate::telemetry::{Direction, Metrics};

/// No protocol needs more than this to be told from the others.
pub(crate) const MAX_BYTES: usize = 16 * 1024;
/// Room for one read: a client's hello with a hybrid key share, or most heads.
const STEP: usize = 2 * 1024;

/// What was found out, and what was read for it.
#[derive(Debug)]
pub(crate) struct Detected<V> {
    /// Everything that was read, in order: the begin of what is spoken.
    pub(crate) read: BytesMut,
    /// What is spoken, or why it is not known; then it is to be taken for opaque.
    pub(crate) verdict: Result<V, Undecided>,
}

/// Why it is not known what a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecided {
    /// Too few bytes came in time: a client that waits for the server's first word, most likely.
    TimedOut,
    /// The client will say no more.
    Ended,
    /// [`MAX_BYTES`] were not enough.
    Full,
}

/// How long and on whose account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detection<'a> {
    /// For all of it, whatever the number of segments.
    pub(crate) patience: Duration,
    /// Where timeouts are counted, and for which direction; `None`: silence is no detection that failed.
    pub(crate) counted: Option<(&'a Metrics, Direction)>,
}

impl Detection<'_> {
    /// Reads from `io`, of which `read` was read already, until `decide` has an answer for what there is; it is asked
    /// with everything so far and says `None` for "more". Not cancel safe: what was read is lost with it.
    ///
    /// # Errors
    /// If the connection broke.
    pub(crate) async fn run<T, V>(
        &self,
        io: &mut T,
        mut read: BytesMut,
        decide: impl Fn(&[u8]) -> Option<V>,
    ) -> io::Result<Detected<V>>
    where
        T: AsyncRead + Unpin,
    {
        // Most often the first bytes came with the connection: no timer for those.
        let verdict = match decide(&read) {
            Some(verdict) => Ok(verdict),
            None => match timeout(self.patience, fill(io, &mut read, decide)).await {
                Ok(verdict) => verdict?,
                Err(_elapsed) => {
                    if let Some((metrics, direction)) = self.counted {
                        metrics.detection_timed_out(direction);
                    }
                    Err(Undecided::TimedOut)
                }
            },
        };
        Ok(Detected { read, verdict })
    }
}

async fn fill<T, V>(
    io: &mut T,
    read: &mut BytesMut,
    decide: impl Fn(&[u8]) -> Option<V>,
) -> io::Result<Result<V, Undecided>>
where
    T: AsyncRead + Unpin,
{
    loop {
        let room = MAX_BYTES.saturating_sub(read.len());
        if room == 0 {
            return Ok(Err(Undecided::Full));
        }
        read.reserve(room.min(STEP));
        if io.read_buf(&mut (&mut *read).limit(room)).await? == 0 {
            return Ok(Err(Undecided::Ended));
        }
        if let Some(verdict) = decide(read) {
            return Ok(Ok(verdict));
        }
    }
}

#[cfg(test)]
mod tests;
