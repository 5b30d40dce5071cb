//! Where several threads write lines, each of them many at once: none begins in the middle of another's.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

/// Whoever takes nothing at the moment, and would rather not be waited for, is asked again so much later.
const AGAIN: Duration = Duration::from_millis(10);

/// As much is written before somebody else has a turn, bytes, unless a line is longer.
const TURN: usize = 256 * 1024;

static STDERR: LazyLock<Destination> = LazyLock::new(|| Destination::new(io::stderr()));

/// A reader's end. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub struct Destination(Arc<Mutex<Out<Box<dyn Write + Send>>>>);

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").finish_non_exhaustive()
    }
}

impl Destination {
    /// Somebody who reads what is written to `writer`.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Out::new(Box::new(writer)))))
    }

    /// Whoever reads the standard error of this process: the same for all who ask.
    pub fn stderr() -> Self {
        STDERR.clone()
    }

    /// Writes whole lines, one after the other; returns how many were lost, or in part. Blocks while somebody else writes, and as
    /// long as the reader likes: for threads that do nothing else.
    pub(super) fn write(&self, lines: &[u8]) -> u64 {
        let mut lost = 0;
        let mut rest = lines;
        while !rest.is_empty() {
            let (turn, later) = rest.split_at(turn(rest));
            let mut out = self.0.lock();
            lost += out.write(turn);
            // Else whoever had it would have it again.
            MutexGuard::unlock_fair(out);
            rest = later;
        }
        lost
    }
}

/// How much of `lines` is written before whoever else wants to write has a turn: whole lines, one at least.
fn turn(lines: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    match lines.get(..TURN) {
        None => lines.len(),
        Some(most) => {
            let end = most.iter().rposition(is_end).or_else(|| lines.iter().position(is_end));
            end.map_or(lines.len(), |end| end + 1)
        }
    }
}

struct Out<W> {
    writer: W,
    /// What was written last is a part of a line.
    torn: bool,
}

impl<W: Write> Out<W> {
    fn new(writer: W) -> Self {
        Self { writer, torn: false }
    }

    /// Writes whole lines, one after the other; returns how many were lost, or in part. What comes after a part of a line begins
    /// on a line of its own.
    fn write(&mut self, lines: &[u8]) -> u64 {
        if self.torn && !self.try_write(b"\n").is_empty() {
            return count(lines);
        }
        let rest = self.try_write(lines);
        let written = lines.len() - rest.len();
        self.torn = match written.checked_sub(1) {
            Some(last) => lines.get(last) != Some(&b'\n'),
            None => false,
        };
        // Nobody reads it: there is nobody to tell either.
        let _unread = self.writer.flush();
        count(rest)
    }

    /// Returns what could not be written.
    fn try_write<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(0) => break,
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Made so by whoever shares it with us.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(AGAIN),
                Err(_full_or_gone) => break,
            }
        }
        rest
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::mpsc};

    use super::*;

    /// Takes what it is told to, and refuses when it is told so.
    struct Moody(VecDeque<Result<usize, io::ErrorKind>>, Vec<u8>);

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self.0.pop_front().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.1.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_leave_no_other_broken() {
        let full = Err(io::ErrorKind::StorageFull);
        for (moods, lost, written) in [
            (vec![], 0, "a1\nb2\nc3\n"),
            (vec![Ok(4), Err(io::ErrorKind::WouldBlock), Ok(1)], 0, "a1\nb2\nc3\n"),
            // Half of the second line, and then nothing.
            (vec![Ok(4), full], 1, "a1\nb\nc3\n"),
            // Nor later on, until there is room.
            (vec![Ok(4), full, full], 2, "a1\nb"),
            (vec![Ok(3), full], 1, "a1\nc3\n"),
            (vec![full], 2, "c3\n"),
            (vec![Ok(0)], 2, "c3\n"),
        ] {
            let mut out = Out::new(Moody(moods.clone().into(), Vec::new()));
            let counted = out.write(b"a1\nb2\n") + out.write(b"c3\n");
            assert_eq!((counted, out.writer.1.as_slice()), (lost, written.as_bytes()), "{moods:?}");
        }
    }

    /// Waits to be told before it takes any byte.
    struct Slow(mpsc::Receiver<()>, mpsc::Sender<u8>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes[0]).map_err(io::Error::other)?;
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn of_two_who_write_at_once_neither_breaks_a_line_of_the_other() {
        let ((go, told), (taken, bytes)) = (mpsc::channel(), mpsc::channel());
        let destination = Destination::new(Slow(told, taken));
        let write = |lines: &'static [u8]| {
            let destination = destination.clone();
            thread::spawn(move || destination.write(lines))
        };
        let first = write(b"aaa\naaa\n");
        go.send(()).unwrap();
        let mut written = vec![bytes.recv().unwrap()];
        // In the middle of a line of the first.
        let second = write(b"bbb\nbbb\n");
        for _ in 0..15 {
            // It has not written its last byte.
            if written.len() < 8 {
                assert!(destination.0.is_locked());
            }
            go.send(()).unwrap();
            written.push(bytes.recv().unwrap());
        }
        assert_eq!((first.join().unwrap(), second.join().unwrap()), (0, 0));
        assert_eq!(written, b"aaa\naaa\nbbb\nbbb\n");
    }

    #[test]
    fn a_turn_is_of_whole_lines_and_neither_nothing_nor_everything() {
        let line = |length: usize| [vec![b'x'; length - 1], vec![b'\n']].concat();
        assert_eq!(turn(b"a\nb\n"), 4);
        assert_eq!(turn(&line(1000).repeat(1000)), TURN / 1000 * 1000);
        let long = line(TURN + 1);
        assert_eq!(turn(&[long.clone(), line(3)].concat()), long.len());
        assert_eq!(turn(&[line(TURN), line(3)].concat()), TURN);
    }
}
