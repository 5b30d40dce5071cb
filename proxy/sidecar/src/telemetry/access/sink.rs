//! Where lines go: gathered by the workers in one buffer, written by a thread of its own, many at once. A worker never
//! waits for whoever reads the log; when too much is waiting, lines are dropped and counted.

use std::{
    io::Write,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use outrigger_process::logging::Format;
use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

use super::{Record, Times, line::Lines};

/// So long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// As much is written at once at the latest.
const ENOUGH: usize = 256 * 1024;
/// What a burst needed is not kept for the next one, but for this much.
const KEPT: usize = 64 * 1024;
/// More does not wait to be written.
const TOO_MUCH: usize = 4 << 20;

/// The access log. Cheap to clone; the last handle ends its thread once everything is written.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_one();
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The writer has something to do.
    wake: Condvar,
    /// It has done it.
    idle: Condvar,
    dropped: Counter,
}

#[derive(Debug)]
struct State {
    lines: Lines,
    buffer: Vec<u8>,
    /// The writer waits for a first line, and not only for more.
    asleep: bool,
    /// Somebody waits for everything to be written.
    hurry: bool,
    writing: bool,
    closed: bool,
}

impl AccessLog {
    /// Writes to `writer`, as `format` says. Without a thread of its own there is no log, which is said once.
    pub fn start(format: Format, writer: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                lines: Lines::new(format),
                buffer: Vec::new(),
                asleep: false,
                hurry: false,
                writing: false,
                closed: false,
            }),
            wake: Condvar::new(),
            idle: Condvar::new(),
            dropped: Counter::default(),
        });
        let theirs = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&theirs, writer));
        if let Err(error) = thread {
            tracing::error!(%error, "the access log could not be started");
        }
        Self(Arc::new(Handle(shared)))
    }

    /// Lines that were dropped because whoever reads the log is too slow.
    pub(crate) fn dropped(&self) -> Counter {
        self.0.0.dropped.clone()
    }

    pub(crate) fn record(&self, record: &Record, times: &Times<'_>) {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        let State { lines, buffer, asleep, .. } = &mut *state;
        if buffer.len() > TOO_MUCH {
            drop(state);
            shared.dropped.inc();
            return;
        }
        let before = buffer.len();
        lines.write(buffer, (record, times), SystemTime::now());
        // The writer is woken by the first line if it sleeps, and when it need not gather any longer.
        let wake = std::mem::take(asleep) || (before < ENOUGH && buffer.len() >= ENOUGH);
        drop(state);
        if wake {
            shared.wake.notify_one();
        }
    }

    /// Waits, at most for `limit`, until everything is written. Blocks.
    pub fn flush(&self, limit: Duration) {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        state.hurry = state.writing || !state.buffer.is_empty();
        shared.wake.notify_one();
        let busy = |state: &mut State| state.writing || !state.buffer.is_empty();
        shared.idle.wait_while_for(&mut state, busy, limit);
    }
}

/// While lines keep coming it wakes by itself, once for all that came meanwhile: to wake it costs a worker more than a line.
fn write(shared: &Shared, mut writer: impl Write) {
    let mut out = Vec::new();
    let mut state = shared.state.lock();
    loop {
        let before = state.buffer.len();
        let more = |state: &mut State| state.buffer.len() < ENOUGH && !state.closed && !state.hurry;
        let whole = shared.wake.wait_while_for(&mut state, more, GATHER).timed_out();
        let quiet = whole && state.buffer.len() == before;
        if !state.buffer.is_empty() {
            std::mem::swap(&mut out, &mut state.buffer);
            state.writing = true;
            drop(state);
            // Nobody reads it: there is nobody to tell either.
            let _unread = writer.write_all(&out).and_then(|()| writer.flush());
            out.clear();
            state = shared.state.lock();
            state.writing = false;
            state.hurry = false;
            shared.idle.notify_all();
        }
        if !state.buffer.is_empty() {
            continue;
        }
        if state.closed {
            return;
        }
        if quiet {
            out.shrink_to(KEPT);
            state.buffer.shrink_to(KEPT);
            state.asleep = true;
            shared.wake.wait_while(&mut state, |state| state.asleep && !state.closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{LazyLock, mpsc},
    };

    use outrigger_core::telemetry::PhaseTimes;

    use super::*;
    use crate::telemetry::{Direction, Party};

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

    fn record() -> Record {
        Record::new(Direction::Inbound, Party::downstream("127.0.0.1:1".parse().unwrap(), None))
    }

    fn times() -> Times<'static> {
        static PHASES: LazyLock<PhaseTimes> = LazyLock::new(PhaseTimes::default);
        Times { duration: Duration::ZERO, phases: &PHASES }
    }

    #[test]
    fn every_line_is_written_whole_and_in_order_before_the_end() {
        let (sender, receiver) = mpsc::sync_channel(1000);
        let log = AccessLog::start(Format::Json, Chunks(sender));
        for generation in 0..5000 {
            log.record(&Record { generation, ..record() }, &times());
        }
        log.flush(Duration::from_secs(10));
        let bytes: Vec<u8> = receiver.try_iter().flatten().collect();
        let text = String::from_utf8(bytes).unwrap();
        let generations = text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["generation"].as_u64().unwrap()
        });
        assert!(generations.eq(0..5000));
        assert_eq!(log.dropped().get(), 0);
        drop(log);
        assert!(receiver.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn one_that_has_nothing_to_do_sleeps_and_keeps_little_until_a_line_comes() {
        let (sender, receiver) = mpsc::sync_channel(1000);
        let log = AccessLog::start(Format::Json, Chunks(sender));
        let state = || log.0.0.state.lock();
        for _ in 0..3 {
            let mut written = 0;
            while written <= ENOUGH {
                log.record(&record(), &times());
                written += receiver.try_iter().map(|chunk| chunk.len()).sum::<usize>();
            }
            while !state().asleep {
                thread::yield_now();
            }
            assert!(state().buffer.capacity() <= KEPT);
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_bounded_memory_and_no_worker_s_time() {
        // Nothing is taken after the first chunk.
        let (sender, receiver) = mpsc::sync_channel(0);
        let log = AccessLog::start(Format::Json, Chunks(sender));
        while log.dropped().get() < 1000 {
            log.record(&record(), &times());
        }
        let held = log.0.0.state.lock().buffer.len();
        assert!(held <= TOO_MUCH + 1024, "{held}");
        drop(receiver);
    }
}
