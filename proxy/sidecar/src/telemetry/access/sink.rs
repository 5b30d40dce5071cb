//! The log that lines of requests go to.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use outrigger_process::logging::{Format, Sink};
use prometheus_client::metrics::counter::Counter;

use super::{Record, Times, line::Lines};

/// So long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);

/// The access log. Cheap to clone; the last handle ends its thread once everything is written.
#[derive(Debug, Clone)]
pub struct AccessLog(Sink<Lines>);

impl AccessLog {
    /// Writes to `writer`, as `format` says. `None`: there can be no thread for it, which is said.
    pub fn start(format: Format, writer: impl Write + Send + 'static) -> Option<Self> {
        Sink::start("access-log", GATHER, Lines::new(format), writer)
            .inspect_err(|error| tracing::error!(%error, "the access log could not be started"))
            .map(Self)
            .ok()
    }

    /// Lines that nobody will read: the reader is too slow, or cannot be written to.
    pub(crate) fn dropped(&self) -> Counter {
        self.0.dropped()
    }

    pub(crate) fn record(&self, record: &Record, times: &Times<'_>) {
        self.0.append(|lines, buffer| lines.write(buffer, (record, times), SystemTime::now()));
    }

    /// Waits, at most for `limit`, until everything is written. Blocks.
    pub fn flush(&self, limit: Duration) {
        self.0.flush(limit);
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
        let log = AccessLog::start(Format::Json, Chunks(sender)).unwrap();
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
}
