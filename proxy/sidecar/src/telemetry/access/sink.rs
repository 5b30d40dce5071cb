//! The log that lines of requests go to.

use std::time::{Duration, SystemTime};

use outrigger_process::logging::{Destination, Format, Sink};
use prometheus_client::metrics::counter::Counter;

use super::{Record, Times, line::Lines};

/// So long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);

/// The access log. Cheap to clone; the last handle ends its thread once everything is written.
#[derive(Debug, Clone)]
pub struct AccessLog(Sink<Lines>);

impl AccessLog {
    /// Writes to `destination`, as `format` says. `None`: there can be no thread for it, which is said.
    pub fn start(format: Format, destination: Destination) -> Option<Self> {
        Sink::start("access-log", GATHER, Lines::new(format), destination)
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
