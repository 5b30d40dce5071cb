//! What all data paths of this process say: the access log, and warnings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    io,
    net::SocketAddr,
    sync::{Mutex, Once},
};

use outrigger_process::logging::{Destination, EventLayer, Format};
use outrigger_proxy::{http, telemetry::AccessLog};
use tokio::sync::Notify;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer, Registry,
    filter::LevelFilter,
    layer::{Context, SubscriberExt as _},
};

use super::raw::soon;

pub(crate) type Line = BTreeMap<String, String>;

static LINES: Mutex<Lines> = Mutex::new(Lines::new());
static WRITTEN: Notify = Notify::const_new();
static INSTALLED: Once = Once::new();

pub(crate) fn capture() {
    INSTALLED.call_once(|| {
        let layers: Vec<EventLayer> = vec![http::refusals(), Capture.with_filter(LevelFilter::INFO).boxed()];
        tracing::subscriber::set_global_default(Registry::default().with(layers)).unwrap();
    });
}

/// An access log of whose lines [`line`] knows.
pub(crate) fn access() -> AccessLog {
    AccessLog::start(Format::Json, Destination::new(Parser(Vec::new()))).unwrap()
}

/// Takes whole lines apart.
struct Parser(Vec<u8>);

impl io::Write for Parser {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        let whole = self.0.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.0.drain(..whole).collect();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let fields: BTreeMap<String, serde_json::Value> = serde_json::from_slice(line).unwrap();
            let text = |value: serde_json::Value| match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            let line: Line = fields.into_iter().map(|(name, value)| (name, text(value))).collect();
            keep(line);
        }
        WRITTEN.notify_waiters();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a line says whom it is about.
const WHOM: [&str; 2] = ["downstream.addr", "peer.addr"];
const REQUEST: &str = "request_id";

/// What was said so far. Whoever looks for a request must not have to look at all of it: that takes milliseconds in the end,
/// and what is measured meanwhile would stand still for them.
struct Lines {
    /// By whom they are about.
    said: BTreeMap<String, Vec<Line>>,
    /// About whom something was said of a request.
    requests: BTreeMap<String, BTreeSet<String>>,
}

impl Lines {
    const fn new() -> Self {
        Self { said: BTreeMap::new(), requests: BTreeMap::new() }
    }

    fn keep(&mut self, line: Line) {
        let whom = WHOM.iter().find_map(|name| line.get(*name)).cloned().unwrap_or_default();
        if let Some(request) = line.get(REQUEST) {
            self.requests.entry(request.clone()).or_default().insert(whom.clone());
        }
        self.said.entry(whom).or_default().push(line);
    }

    /// All with each of `fields`.
    fn find(&self, fields: &[(&str, &str)]) -> Vec<Line> {
        let matches = |line: &&Line| {
            fields.iter().all(|(name, value)| line.get(*name).is_some_and(|found| found == value))
        };
        let of = |whom: &str| self.said.get(whom).into_iter().flatten();
        let named =
            |wanted: &[&str]| fields.iter().find_map(|(name, value)| wanted.contains(name).then_some(*value));
        if let Some(whom) = named(&WHOM) {
            of(whom).filter(matches).cloned().collect()
        } else if let Some(request) = named(&[REQUEST]) {
            let whom = self.requests.get(request).into_iter().flatten();
            whom.flat_map(|whom| of(whom)).filter(matches).cloned().collect()
        } else {
            self.said.values().flatten().filter(matches).cloned().collect()
        }
    }
}

fn keep(line: Line) {
    LINES.lock().unwrap().keep(line);
}

/// Forgets what was said of an earlier `peer`: its port is somebody else's now.
pub(crate) fn forget(peer: SocketAddr) {
    LINES.lock().unwrap().said.remove(&peer.to_string());
}

/// The first line with all of `fields`; waits for it.
pub(crate) async fn line(fields: &[(&str, &str)]) -> Line {
    let waiting = async {
        loop {
            let written = WRITTEN.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if let Some(line) = find(fields).into_iter().next() {
                return line;
            }
            written.await;
        }
    };
    soon(&format!("the log line {fields:?}"), waiting).await
}

/// How many lines there are with all of `fields`.
pub(crate) fn count(fields: &[(&str, &str)]) -> usize {
    find(fields).len()
}

fn find(fields: &[(&str, &str)]) -> Vec<Line> {
    LINES.lock().unwrap().find(fields)
}

struct Capture;

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line::new();
        event.record(&mut Fields(&mut line));
        keep(line);
        WRITTEN.notify_waiters();
    }
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
