//! A record as one line, JSON for programs or text for people. Written by hand into the buffer that is sent: a line per
//! request is the largest part of what telling about a request costs.

use std::{
    fmt::Display,
    io::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Method, Version};
use itoa::Buffer as Digits;
use outrigger_core::{
    grpc::Code,
    model::SpiffeId,
    reason::Reason,
    telemetry::{Class, PhaseTimes},
};
use outrigger_process::logging::Format;
use time::{OffsetDateTime, macros::format_description};

use super::{Direction, Party, Record};
use crate::telemetry::{EdgeHandles, Role};

/// Writes lines; keeps what is the same from one to the next.
#[derive(Debug, Default)]
pub(super) struct Lines {
    format: Format,
    /// The second of the last line, and how it is written.
    second: (u64, String),
}

impl Lines {
    pub(super) fn new(format: Format) -> Self {
        Self { format, second: (0, String::new()) }
    }

    /// Appends the line of `record`, which is over at `now`, to `buffer`.
    pub(super) fn write(&mut self, buffer: &mut Vec<u8>, record: &Record, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second.0 || self.second.1.is_empty() {
            self.second = (since.as_secs(), second(now));
        }
        let begin = buffer.len();
        let mut line = Line { buffer, json: self.format == Format::Json };
        line.begin(&self.second.1, since.subsec_micros());
        fields(&mut line, record);
        line.end();
        debug_assert!(buffer.len() > begin, "a line is never empty");
    }
}

fn second(now: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    OffsetDateTime::from(now).format(format).unwrap_or_default()
}

/// How a field begins: with a name of this file's own, which needs no escape.
struct Name {
    json: &'static str,
    text: &'static str,
}

/// Put together beforehand, for it is a third of each line.
macro_rules! name {
    ($name:literal) => {
        Name { json: concat!(",\"", $name, "\":"), text: concat!(" ", $name, "=") }
    };
}

/// What is known, in the order in which a reader wants it; what is not is left out.
fn fields(line: &mut Line<'_>, record: &Record) {
    line.plain(&name!("direction"), record.direction.as_str());
    line.party(&record.downstream);
    line.maybe_plain(&name!("method"), record.method.as_ref().map(Method::as_str));
    line.maybe_plain(&name!("version"), record.version.map(version));
    line.maybe(&name!("authority"), record.authority());
    line.maybe(&name!("path"), record.path.as_ref().map(|target| target.path()));
    line.maybe(&name!("request_id"), record.request_id.as_ref().and_then(text));
    line.maybe(&name!("traceparent"), record.traceparent.as_ref().and_then(text));
    if let Some(edges) = &record.edges {
        line.edges(edges);
    }
    line.maybe_plain(&name!("class"), (record.class != Class::Request).then(|| record.class.as_str()));
    if record.attempts > 1 {
        line.number(&name!("attempts"), u64::from(record.attempts));
    }
    if let Some(upstream) = &record.upstream {
        line.party(upstream);
    }
    line.number(&name!("generation"), record.generation);
    if let Some(status) = record.status {
        line.number(&name!("status"), u64::from(status.as_u16()));
    }
    if let Some(code) = record.grpc_status {
        line.number(&name!("grpc_status"), u64::from(Code::number(code)));
    }
    line.maybe_plain(&name!("reason"), record.reason.map(Reason::as_str));
    line.number(&name!("bytes"), record.bytes);
    if record.received > 0 {
        line.number(&name!("received"), record.received);
    }
    line.number(&name!("duration_us"), micros(record.duration));
    if record.direction == Direction::Outbound {
        line.phases(&name!("phases_us"), &record.phases);
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A line that is being written. Writing to a vector cannot fail.
struct Line<'a> {
    buffer: &'a mut Vec<u8>,
    json: bool,
}

impl Line<'_> {
    fn begin(&mut self, second: &str, micros: u32) {
        let (before, after): (&str, &str) = if self.json {
            ("{\"timestamp\":\"", "Z\",\"level\":\"INFO\",\"target\":\"access\",\"message\":\"request\"")
        } else {
            ("", "Z  INFO access: request")
        };
        self.raw(before);
        self.raw(second);
        // All six digits, led by a one that gives its place to the point.
        let mut digits = Digits::new();
        let digits = digits.format(1_000_000 + micros);
        self.buffer.push(b'.');
        self.raw(digits.get(1..).unwrap_or_default());
        self.raw(after);
    }

    fn raw(&mut self, text: &str) {
        self.buffer.extend_from_slice(text.as_bytes());
    }

    fn digits(&mut self, number: impl itoa::Integer) {
        self.raw(Digits::new().format(number));
    }

    fn end(&mut self) {
        if self.json {
            self.buffer.push(b'}');
        }
        self.buffer.push(b'\n');
    }

    fn name(&mut self, name: &Name) {
        self.raw(if self.json { name.json } else { name.text });
    }

    /// Whatever a client wrote; in text quoted as in JSON, so that nobody can make two lines of one.
    fn text(&mut self, name: &Name, value: &str) {
        self.name(name);
        // Most need no escape, which is found out in one pass without a branch.
        let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        if value.bytes().fold(true, |all, byte| all & plain(byte)) {
            self.buffer.push(b'"');
            self.raw(value);
            self.buffer.push(b'"');
        } else {
            let _infallible = serde_json::to_writer(&mut *self.buffer, value);
        }
    }

    /// Words of ours, tokens (RFC 9110 §5.6.2), identities and names, of which no character needs an escape.
    fn plain(&mut self, name: &Name, value: &str) {
        self.name(name);
        self.buffer.push(b'"');
        self.raw(value);
        self.buffer.push(b'"');
    }

    fn maybe_plain(&mut self, name: &Name, value: Option<&str>) {
        if let Some(value) = value {
            self.plain(name, value);
        }
    }

    fn maybe(&mut self, name: &Name, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn number(&mut self, name: &Name, value: u64) {
        self.name(name);
        self.digits(value);
    }

    fn shown(&mut self, name: &Name, value: impl Display) {
        self.name(name);
        let _infallible = write!(self.buffer, "\"{value}\"");
    }

    fn party(&mut self, party: &Party) {
        let json = self.json;
        self.buffer.extend_from_slice(party.fields.get(|buffer| {
            let mut line = Line { buffer, json };
            let (address, identity) = match party.role {
                Role::Downstream => (name!("downstream.addr"), name!("downstream.identity")),
                Role::Upstream => (name!("upstream.addr"), name!("upstream.identity")),
            };
            line.shown(&address, party.address);
            line.maybe_plain(&identity, party.identity.as_ref().map(SpiffeId::as_str));
        }));
    }

    fn edges(&mut self, edges: &EdgeHandles) {
        let json = self.json;
        self.buffer.extend_from_slice(edges.fields.get(|buffer| {
            let mut line = Line { buffer, json };
            let (service, port) = &edges.destination;
            line.shown(&name!("destination"), service);
            line.number(&name!("port"), u64::from(*port));
            line.maybe(&name!("route"), edges.rule.as_deref());
        }));
    }

    /// `client_proxy=12 network=340`, microseconds, those that are not zero.
    fn phases(&mut self, name: &Name, phases: &PhaseTimes) {
        self.name(name);
        self.buffer.push(b'"');
        let mut first = true;
        for (phase, time) in phases.iter().filter(|(_, time)| !time.is_zero()) {
            if !std::mem::take(&mut first) {
                self.buffer.push(b' ');
            }
            self.buffer.extend_from_slice(phase.as_str().as_bytes());
            self.buffer.push(b'=');
            self.digits(micros(time));
        }
        self.buffer.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, StatusCode};
    use outrigger_core::telemetry::Phase;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn record() -> Record {
        let downstream = Party::downstream("127.0.0.1:1".parse().unwrap(), None);
        let mut record = Record::new(Direction::Outbound, downstream);
        let request = Request::get("/a\"b?secret=1").header("host", "price\"\\").body(()).unwrap();
        record.describe(&request);
        record.status = Some(StatusCode::OK);
        record.duration = Duration::from_millis(2);
        record.phases.add(Phase::ClientProxy, Duration::from_micros(12));
        record.phases.add(Phase::App, Duration::from_micros(340));
        record
    }

    fn written(format: Format, record: &Record) -> String {
        let mut buffer = Vec::new();
        let now = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042);
        Lines::new(format).write(&mut buffer, record, now);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn a_line_is_one_object_whatever_a_client_wrote() {
        let line = written(Format::Json, &record());
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["timestamp"], "2023-11-14T22:13:20.000042Z");
        assert_eq!(read["path"], "/a\"b", "the query is not in it");
        assert_eq!(read["authority"], "price\"\\");
        assert_eq!((&read["status"], &read["duration_us"]), (&Value::from(200), &Value::from(2000)));
        assert_eq!(read["phases_us"], "client_proxy=12 app=340");
        assert_eq!(read.get("reason"), None);
    }

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        for address in ["127.0.0.1:1", "10.0.255.100:65535", "0.0.0.0:0", "[::1]:80", "[fe80::1%3]:443"] {
            let mut record = record();
            record.downstream = Party::downstream(address.parse().unwrap(), None);
            record.upstream = Some(Party::upstream(address.parse().unwrap(), None));
            let read: Value = serde_json::from_str(&written(Format::Json, &record)).unwrap();
            assert_eq!(read["downstream.addr"], address);
            assert_eq!(read["upstream.addr"], address);
        }
    }

    proptest! {
        #[test]
        fn a_text_is_read_as_it_was(text in "\\PC*|[\\x00-\\x7f]*") {
            let mut buffer = Vec::new();
            Line { buffer: &mut buffer, json: true }.text(&name!("name"), &text);
            let read: Value = serde_json::from_slice(&[b"{", &buffer[1..], b"}"].concat()).unwrap();
            prop_assert_eq!(&read["name"], &text);
        }
    }

    #[test]
    fn what_is_said_again_is_what_was_said_and_in_its_place() {
        let identity = |name: &str| format!("spiffe://outrigger.local/ns/demo/sa/{name}").parse().ok();
        let mut record = record();
        record.downstream = Party::downstream("127.0.0.1:1".parse().unwrap(), identity("front"));
        record.upstream = Some(Party::upstream("127.0.0.1:2".parse().unwrap(), identity("price")));
        let destination = ("demo/price".parse().unwrap(), 80);
        record.edges = Some(Arc::new(EdgeHandles::new(destination, Some("a\"b".into()))));
        let first = written(Format::Json, &record);
        assert_eq!(written(Format::Json, &record), first);
        for fields in [
            r#","direction":"outbound","downstream.addr":"127.0.0.1:1","downstream.identity":"spiffe://outrigger.local/ns/demo/sa/front","method":"#,
            r#","destination":"demo/price","port":80,"route":"a\"b","upstream.addr":"127.0.0.1:2","upstream.identity":"spiffe://outrigger.local/ns/demo/sa/price","generation":"#,
        ] {
            assert!(first.contains(fields), "{first}");
        }
    }

    #[test]
    fn text_has_the_same_fields() {
        let mut record = record();
        record.refuse(Reason::NoRoute);
        let line = written(Format::Text, &record);
        assert!(
            line.starts_with("2023-11-14T22:13:20.000042Z  INFO access: request direction=\"outbound\" "),
            "{line}"
        );
        assert!(line.contains(" reason=\"no_route\" bytes=0 duration_us=2000 "), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }
}
