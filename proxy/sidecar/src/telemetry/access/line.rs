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

use super::{Authority, Direction, Party, Record, Times};
use crate::telemetry::{EdgeHandles, Role};

/// Longer than nearly all lines.
const ROOM: usize = 1024;

/// Writes lines; keeps what is the same from one to the next.
#[derive(Debug, Default)]
pub(super) struct Lines {
    format: Format,
    /// The second of the last line, and how its lines begin.
    second: (u64, String),
}

impl Lines {
    pub(super) fn new(format: Format) -> Self {
        Self { format, second: (0, String::new()) }
    }

    /// Appends the line of a request that is over at `now` to `buffer`.
    pub(super) fn write(&mut self, buffer: &mut Vec<u8>, what: (&Record, &Times<'_>), now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second.0 || self.second.1.is_empty() {
            self.second = (since.as_secs(), begin(self.format, now));
        }
        buffer.reserve(ROOM);
        let when = (self.second.1.as_str(), since.subsec_micros());
        match self.format {
            Format::Json => Line::<true> { buffer }.whole(when, what),
            Format::Text => Line::<false> { buffer }.whole(when, what),
        }
    }
}

/// What the lines of a second begin with.
fn begin(format: Format, now: SystemTime) -> String {
    let before = if format == Format::Json { "{\"timestamp\":\"" } else { "" };
    let second = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].");
    before.to_owned() + &OffsetDateTime::from(now).format(second).unwrap_or_default()
}

/// What is the same in each line: in both formats, put together beforehand, for it is a third of it. Needs no escape.
#[derive(Clone, Copy)]
struct Piece {
    json: &'static str,
    text: &'static str,
}

/// How a field begins whose value is no text.
macro_rules! name {
    ($name:literal) => {
        Piece { json: concat!(",\"", $name, "\":"), text: concat!(" ", $name, "=") }
    };
}

/// How one begins whose value is one.
macro_rules! quoted {
    ($name:literal) => {
        Piece { json: concat!(",\"", $name, "\":\""), text: concat!(" ", $name, "=\"") }
    };
}

/// A field of which the value is known.
macro_rules! field {
    ($name:literal, $value:literal) => {
        Piece {
            json: concat!(",\"", $name, "\":\"", $value, "\""),
            text: concat!(" ", $name, "=\"", $value, "\""),
        }
    };
}

/// What comes after the time.
const BEGUN: Piece = Piece {
    json: "Z\",\"level\":\"INFO\",\"target\":\"access\",\"message\":\"request\"",
    text: "Z  INFO access: request",
};

fn direction(direction: Direction) -> Piece {
    match direction {
        Direction::Inbound => field!("direction", "inbound"),
        Direction::Outbound => field!("direction", "outbound"),
    }
}

fn version(version: Version) -> Piece {
    match version {
        Version::HTTP_10 => field!("version", "HTTP/1.0"),
        Version::HTTP_2 => field!("version", "HTTP/2.0"),
        _ => field!("version", "HTTP/1.1"),
    }
}

fn micros(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000).saturating_add(time.subsec_micros().into())
}

/// Whether `text` is ASCII that is written as it is. Eight bytes are looked at at once, the last ones perhaps twice.
fn is_plain(text: &[u8]) -> bool {
    /// In each byte.
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOP: u64 = ONES * 0x80;
    // Sets the top bit of the bytes that are below the limit. The others' may be set as well, if there is such a one.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let special = |bytes: &[u8; 8]| {
        let word = u64::from_le_bytes(*bytes);
        let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        (word | below(word, 0x20) | is(b'"') | is(b'\\')) & TOP
    };
    match text.last_chunk() {
        Some(last) => text.as_chunks().0.iter().fold(special(last), |seen, bytes| seen | special(bytes)) == 0,
        None => text.iter().all(|byte| (b' '..0x80).contains(byte) && !matches!(byte, b'"' | b'\\')),
    }
}

/// A line that is being written, in JSON or else in text. Writing to a vector cannot fail.
struct Line<'a, const JSON: bool> {
    buffer: &'a mut Vec<u8>,
}

impl<const JSON: bool> Line<'_, JSON> {
    fn whole(&mut self, (second, micros): (&str, u32), (record, times): (&Record, &Times<'_>)) {
        self.raw(second);
        // All six digits, led by a one that makes them so.
        let mut digits = Digits::new();
        self.raw(digits.format(1_000_000 + micros).get(1..).unwrap_or_default());
        self.piece(BEGUN);
        self.request(record);
        self.end(record, times);
        self.raw(if JSON { "}\n" } else { "\n" });
    }

    /// What is known, in the order in which a reader wants it; what is not is left out.
    fn request(&mut self, record: &Record) {
        self.piece(direction(record.direction));
        self.party(&record.downstream);
        self.maybe_plain(quoted!("method"), record.method.as_ref().map(Method::as_str));
        if let Some(of) = record.version {
            self.piece(version(of));
        }
        match &record.authority {
            Some(Authority::Host(value)) => self.header(quoted!("authority"), value),
            Some(Authority::Target(authority)) => self.text(quoted!("authority"), authority.as_str()),
            None => {}
        }
        if let Some(target) = &record.path {
            self.text(quoted!("path"), target.path());
        }
        if let Some(request_id) = &record.request_id {
            self.header(quoted!("request_id"), request_id);
        }
        if let Some(traceparent) = &record.traceparent {
            self.header(quoted!("traceparent"), traceparent);
        }
        if let Some(edges) = &record.edges {
            self.edges(edges);
        }
    }

    /// What became of it.
    fn end(&mut self, record: &Record, times: &Times<'_>) {
        self.maybe_plain(quoted!("class"), (record.class != Class::Request).then(|| record.class.as_str()));
        if record.attempts > 1 {
            self.number(name!("attempts"), u64::from(record.attempts));
        }
        if let Some(upstream) = &record.upstream {
            self.party(upstream);
        }
        self.number(name!("generation"), record.generation);
        if let Some(status) = record.status {
            self.piece(name!("status"));
            self.raw(status.as_str());
        }
        if let Some(code) = record.grpc_status {
            self.number(name!("grpc_status"), u64::from(Code::number(code)));
        }
        self.maybe_plain(quoted!("reason"), record.reason.map(Reason::as_str));
        self.number(name!("bytes"), record.bytes);
        if record.received > 0 {
            self.number(name!("received"), record.received);
        }
        self.number(name!("duration_us"), micros(times.duration));
        if record.direction == Direction::Outbound {
            self.phases(quoted!("phases_us"), times.phases);
        }
    }

    fn raw(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn piece(&mut self, piece: Piece) {
        self.raw(if JSON { piece.json } else { piece.text });
    }

    /// Whatever a client wrote; in text quoted as in JSON, so that nobody can make two lines of one.
    fn text(&mut self, name: Piece, value: &str) {
        if is_plain(value.as_bytes()) {
            self.plain(name, value);
        } else {
            self.escaped(name, value);
        }
    }

    /// Likewise; what is no text is left out.
    fn header(&mut self, name: Piece, value: &HeaderValue) {
        if is_plain(value.as_bytes()) {
            self.piece(name);
            self.bytes(value.as_bytes());
            self.buffer.push(b'"');
        } else if let Ok(value) = value.to_str() {
            self.escaped(name, value);
        }
    }

    fn escaped(&mut self, name: Piece, value: &str) {
        self.piece(name);
        // It brings its own quotes.
        self.buffer.pop();
        let _infallible = serde_json::to_writer(&mut *self.buffer, value);
    }

    /// Words of ours, tokens (RFC 9110 §5.6.2), identities and names, of which no character needs an escape.
    fn plain(&mut self, name: Piece, value: &str) {
        self.piece(name);
        self.raw(value);
        self.buffer.push(b'"');
    }

    fn maybe_plain(&mut self, name: Piece, value: Option<&str>) {
        if let Some(value) = value {
            self.plain(name, value);
        }
    }

    fn number(&mut self, name: Piece, value: u64) {
        self.piece(name);
        self.raw(Digits::new().format(value));
    }

    fn shown(&mut self, name: Piece, value: impl Display) {
        self.piece(name);
        let _infallible = write!(self.buffer, "{value}\"");
    }

    fn party(&mut self, party: &Party) {
        self.bytes(party.fields.get(|buffer| {
            let mut line = Line::<JSON> { buffer };
            let (address, identity) = match party.role {
                Role::Downstream => (quoted!("downstream.addr"), quoted!("downstream.identity")),
                Role::Upstream => (quoted!("upstream.addr"), quoted!("upstream.identity")),
            };
            line.shown(address, party.address);
            line.maybe_plain(identity, party.identity.as_ref().map(SpiffeId::as_str));
        }));
    }

    fn edges(&mut self, edges: &EdgeHandles) {
        self.bytes(edges.fields.get(|buffer| {
            let mut line = Line::<JSON> { buffer };
            let (service, port) = &edges.destination;
            line.shown(quoted!("destination"), service);
            line.number(name!("port"), u64::from(*port));
            if let Some(rule) = &edges.rule {
                line.text(quoted!("route"), rule);
            }
        }));
    }

    /// `client_proxy=12 network=340`, microseconds, those that are not zero.
    fn phases(&mut self, name: Piece, phases: &PhaseTimes) {
        self.piece(name);
        let mut first = true;
        for (phase, time) in phases.iter().filter(|(_, time)| !time.is_zero()) {
            if !std::mem::take(&mut first) {
                self.buffer.push(b' ');
            }
            self.raw(phase.as_str());
            self.buffer.push(b'=');
            self.raw(Digits::new().format(micros(time)));
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
        record
    }

    /// From `front` to `price`, by `rule`.
    fn routed(rule: &str) -> Record {
        let identity = |name: &str| format!("spiffe://outrigger.local/ns/demo/sa/{name}").parse().ok();
        let destination = ("demo/price".parse().unwrap(), 80);
        Record {
            downstream: Party::downstream("127.0.0.1:1".parse().unwrap(), identity("front")),
            upstream: Some(Party::upstream("127.0.0.1:2".parse().unwrap(), identity("price"))),
            edges: Some(Arc::new(EdgeHandles::new(destination, Some(rule.into())))),
            ..record()
        }
    }

    fn written(format: Format, record: &Record) -> String {
        let mut buffer = Vec::new();
        let phases = [(Phase::ClientProxy, 12), (Phase::App, 340)];
        let phases = phases.into_iter().map(|(phase, time)| (phase, Duration::from_micros(time))).collect();
        let times = Times { duration: Duration::from_millis(2), phases: &phases };
        let now = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042);
        Lines::new(format).write(&mut buffer, (record, &times), now);
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
    fn a_direction_is_called_as_in_the_metrics() {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let record = Record { direction, ..record() };
            let read: Value = serde_json::from_str(&written(Format::Json, &record)).unwrap();
            assert_eq!(read["direction"], direction.as_str());
        }
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
            Line::<true> { buffer: &mut buffer }.text(quoted!("name"), &text);
            let read: Value = serde_json::from_slice(&[b"{", &buffer[1..], b"}"].concat()).unwrap();
            prop_assert_eq!(&read["name"], &text);
        }

        #[test]
        fn what_is_written_as_it_is_needs_no_escape(
            text in proptest::collection::vec(any::<u8>(), 0..40),
            at in 0..40_usize,
        ) {
            let plain = |byte: &u8| (b' '..0x80).contains(byte) && !b"\"\\".contains(byte);
            prop_assert_eq!(is_plain(&text), text.iter().all(plain));
            // One that does, in the middle of what does not.
            let mut words = vec![b'a'; 40];
            let byte = text.first().copied().unwrap_or_default();
            words[at] = byte;
            prop_assert_eq!(is_plain(&words), plain(&byte));
        }
    }

    #[test]
    fn what_is_said_again_is_what_was_said_and_in_its_place() {
        let record = routed("a\"b");
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
    fn the_reference_has_every_field_in_its_order_and_no_other() {
        let mut record = routed("rule");
        record.request_id = Some(HeaderValue::from_static("id"));
        record.traceparent = Some(HeaderValue::from_static("trace"));
        (record.class, record.attempts, record.received) = (Class::Upgrade, 2, 1);
        (record.grpc_status, record.reason) = (Some(Code::Ok), Some(Reason::Stopped));
        let line = written(Format::Json, &record);
        let reference = include_str!("../../../../../docs/reference/access-log.md");
        let fields = reference.lines().filter_map(|row| row.strip_prefix("| `")?.split_once('`'));
        let mut rest = line.as_str();
        for (field, _what) in fields {
            let name = format!("\"{field}\":");
            let (before, after) = rest.split_once(&name).unwrap_or_else(|| panic!("{field}: {rest}"));
            assert!(!before.contains("\":"), "{before} is not in the reference, or elsewhere");
            rest = after;
        }
        assert!(!rest.contains("\":"), "{rest} is not in the reference");
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
