//! Where lines go: gathered in one buffer, written by a thread of its own, many at once. Nobody who has something to say ever
//! waits for whoever reads the log; when too much is waiting, lines are dropped and counted.

use std::{io, sync::Arc, thread, time::Duration};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

use super::Destination;

/// As much is written at once at the latest, bytes.
const ENOUGH: usize = 256 * 1024;
/// What a burst needed is not kept for the next one, but for this much, bytes.
const KEPT: usize = 64 * 1024;
/// More does not wait to be written, bytes.
const TOO_MUCH: usize = 4 << 20;

/// A log, and `T`, what is kept from one line to the next. Cheap to clone; the last handle ends its thread once everything is
/// written.
#[derive(Debug)]
pub struct Sink<T>(Arc<Handle<T>>);

impl<T> Clone for Sink<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Handle<T>(Arc<Shared<T>>);

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_one();
    }
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// The writer has something to do.
    wake: Condvar,
    /// It has done it.
    idle: Condvar,
    dropped: Counter,
    /// So long lines are gathered before they are written.
    gather: Duration,
}

#[derive(Debug)]
struct State<T> {
    kept: T,
    buffer: Vec<u8>,
    /// How often the writer took what there was, and how often it is done with it.
    taken: u64,
    done: u64,
    /// Somebody waits for it to be done so often.
    wanted: u64,
    /// The writer waits for a first line, and not only for more.
    asleep: bool,
    closed: bool,
}

impl<T: Send + 'static> Sink<T> {
    /// Writes to `destination`, on a thread called `name`, what is there every `gather` (zero: at once).
    ///
    /// # Errors
    /// If there can be no such thread.
    pub fn start(name: &str, gather: Duration, kept: T, destination: Destination) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                kept,
                buffer: Vec::new(),
                taken: 0,
                done: 0,
                wanted: 0,
                asleep: false,
                closed: false,
            }),
            wake: Condvar::new(),
            idle: Condvar::new(),
            dropped: Counter::default(),
            gather,
        });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name(name.to_owned()).spawn(move || write(&theirs, &destination))?;
        Ok(Self(Arc::new(Handle(shared))))
    }
}

impl<T> Sink<T> {
    /// Lines that nobody will read: the reader is too slow, or cannot be written to.
    pub fn dropped(&self) -> Counter {
        self.0.0.dropped.clone()
    }

    /// Appends whole lines, which `write` writes to the end of the buffer; drops them if too much waits. Never waits for the
    /// reader.
    pub fn append(&self, write: impl FnOnce(&mut T, &mut Vec<u8>)) {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        let State { kept, buffer, asleep, .. } = &mut *state;
        if buffer.len() > TOO_MUCH {
            drop(state);
            shared.dropped.inc();
            return;
        }
        let before = buffer.len();
        write(kept, buffer);
        // The writer is woken by the first line if it sleeps, and when it need not gather any longer.
        let wake = std::mem::take(asleep) || (before < ENOUGH && buffer.len() >= ENOUGH);
        drop(state);
        if wake {
            shared.wake.notify_one();
        }
    }

    /// Waits, at most for `limit`, until everything that is there now is written. Blocks.
    pub fn flush(&self, limit: Duration) {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        let wanted = state.taken + u64::from(!state.buffer.is_empty());
        state.wanted = wanted;
        shared.wake.notify_one();
        shared.idle.wait_while_for(&mut state, |state| state.done < wanted, limit);
    }
}

fn write<T>(shared: &Shared<T>, destination: &Destination) {
    let mut lines = Vec::new();
    let mut state = shared.state.lock();
    loop {
        let before = state.buffer.len();
        let more =
            |state: &mut State<T>| state.buffer.len() < ENOUGH && !state.closed && state.done >= state.wanted;
        let whole = shared.wake.wait_while_for(&mut state, more, shared.gather).timed_out();
        let quiet = whole && state.buffer.len() == before;
        if !state.buffer.is_empty() {
            std::mem::swap(&mut lines, &mut state.buffer);
            state.taken += 1;
            drop(state);
            shared.dropped.inc_by(destination.write(&lines));
            lines.clear();
            state = shared.state.lock();
            state.done = state.taken;
            shared.idle.notify_all();
        }
        if !state.buffer.is_empty() {
            continue;
        }
        if state.closed {
            return;
        }
        if quiet {
            lines.shrink_to(KEPT);
            state.buffer.shrink_to(KEPT);
            state.asleep = true;
            shared.wake.wait_while(&mut state, |state| state.asleep && !state.closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::mpsc};

    use super::*;

    const GATHER: Duration = Duration::from_millis(20);

    /// Hands on what it is given, chunk by chunk.
    struct Chunks(mpsc::SyncSender<Vec<u8>>);

    impl Write for Chunks {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(waiting: usize) -> (Sink<()>, mpsc::Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::sync_channel(waiting);
        (Sink::start("log", GATHER, (), Destination::new(Chunks(sender))).unwrap(), receiver)
    }

    fn say(sink: &Sink<()>, line: &str) {
        sink.append(|(), buffer| buffer.extend_from_slice(line.as_bytes()));
    }

    #[test]
    fn every_line_is_written_whole_and_in_order_before_the_end() {
        let (sink, receiver) = start(1000);
        for number in 0..5000 {
            say(&sink, &format!("{number}\n"));
        }
        sink.flush(Duration::from_secs(10));
        let text = String::from_utf8(receiver.try_iter().flatten().collect()).unwrap();
        assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(0..5000));
        assert_eq!(sink.dropped().get(), 0);
        drop(sink);
        assert!(receiver.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn whoever_waits_for_what_was_said_does_not_wait_for_what_is_said_later() {
        // Each chunk is taken by hand.
        let (sink, receiver) = start(0);
        say(&sink, "first\n");
        let (through, is_through) = mpsc::channel();
        let waiting = sink.clone();
        thread::spawn(move || {
            waiting.flush(Duration::from_secs(60));
            through.send(()).unwrap();
        });
        let has = |wanted, taken| {
            let state = sink.0.0.state.lock();
            state.wanted == wanted && state.taken == taken
        };
        while !has(1, 1) {
            thread::yield_now();
        }
        say(&sink, "second\n");
        assert_eq!(receiver.recv().unwrap(), b"first\n");
        is_through.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(receiver.recv().unwrap(), b"second\n");
    }

    #[test]
    fn one_that_has_nothing_to_do_sleeps_and_keeps_little_until_a_line_comes() {
        let (sink, receiver) = start(1000);
        let line = "x".repeat(1000) + "\n";
        for _ in 0..3 {
            let mut written = 0;
            while written <= ENOUGH {
                say(&sink, &line);
                written += receiver.try_iter().map(|chunk| chunk.len()).sum::<usize>();
            }
            let state = || sink.0.0.state.lock();
            while !state().asleep {
                thread::yield_now();
            }
            assert!(state().buffer.capacity() <= KEPT);
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_bounded_memory_and_nobody_s_time() {
        // Nothing is taken after the first chunk.
        let (sink, receiver) = start(0);
        let line = "x".repeat(1000) + "\n";
        while sink.dropped().get() < 1000 {
            say(&sink, &line);
        }
        let waiting = sink.0.0.state.lock().buffer.len();
        assert!(waiting <= TOO_MUCH + 1024, "{waiting}");
        drop(receiver);
    }
}
