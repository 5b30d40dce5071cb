//! What all data paths of this process say: the access log, and warnings.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    net::SocketAddr,
    sync::{Mutex, Once},
};

use outrigger_process::logging::Format;
use outrigger_proxy::telemetry::AccessLog;
use tokio::sync::Notify;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::raw::soon;

pub(crate) type Line = BTreeMap<String, String>;

/// By downstream.
static LINES: Mutex<BTreeMap<String, Vec<Line>>> = Mutex::new(BTreeMap::new());
static WRITTEN: Notify = Notify::const_new();
static INSTALLED: Once = Once::new();

pub(crate) fn capture() {
    INSTALLED.call_once(|| tracing::subscriber::set_global_default(Capture).unwrap());
}

/// An access log of whose lines [`line`] knows.
pub(crate) fn access() -> AccessLog {
    AccessLog::start(Format::Json, Lines(Vec::new()))
}

/// Takes whole lines apart.
struct Lines(Vec<u8>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            let fields: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&line).unwrap();
            let text = |value: serde_json::Value| match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            let line: Line = fields.into_iter().map(|(name, value)| (name, text(value))).collect();
            let of = line.get("downstream.addr").cloned().unwrap_or_default();
            LINES.lock().unwrap().entry(of).or_default().push(line);
        }
        WRITTEN.notify_waiters();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Forgets what was said of an earlier connection from `downstream`: its port is somebody else's now.
pub(crate) fn forget(downstream: SocketAddr) {
    LINES.lock().unwrap().remove(&downstream.to_string());
}

/// The first line with all of `fields`; waits for it.
pub(crate) async fn line(fields: &[(&str, &str)]) -> Line {
    let matches =
        |line: &Line| fields.iter().all(|(name, value)| line.get(*name).is_some_and(|found| found == value));
    let of = fields.iter().find_map(|(name, value)| (*name == "downstream.addr").then_some(*value));
    let waiting = async {
        loop {
            let written = WRITTEN.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if let Some(line) = find(of, matches) {
                return line;
            }
            written.await;
        }
    };
    soon(&format!("the log line {fields:?}"), waiting).await
}

fn find(of: Option<&str>, matches: impl Fn(&Line) -> bool) -> Option<Line> {
    let lines = LINES.lock().unwrap();
    match of {
        Some(downstream) => lines.get(downstream)?.iter().find(|line| matches(line)).cloned(),
        None => lines.values().flatten().find(|line| matches(line)).cloned(),
    }
}

struct Capture;

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::new();
        event.record(&mut Fields(&mut line));
        let of = line.get("downstream.addr").cloned().unwrap_or_default();
        LINES.lock().unwrap().entry(of).or_default().push(line);
        WRITTEN.notify_waiters();
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
