//! What a request is called, in every log and by the application: `x-request-id`, and the trace that it belongs to.
//!
//! Whoever came with neither gets both from the same random bits, and the id is not written on the mesh leg: the other
//! sidecar makes it of the trace again. It would be a twentieth of the bytes of a small request there, and no table of HPACK
//! makes it shorter.

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_core::telemetry::traces::{TraceId, trace_id};

use super::{Field, Fields};

/// Names a request in every log.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a request is called in logs, here and in the application.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) request_id: HeaderValue,
    pub(crate) traceparent: HeaderValue,
    /// The trace that it names.
    pub(crate) trace: TraceId,
}

/// What a request came with.
pub(super) struct Given {
    /// If it can be used.
    request_id: Option<HeaderValue>,
    /// Likewise.
    traceparent: Option<(TraceId, HeaderValue)>,
    /// Whether there is a request id, even one that cannot be used.
    any_id: bool,
    tracestate: bool,
}

/// Finds out what a request came with.
pub(super) fn given(fields: Fields<'_>) -> Given {
    let request_id = only(fields, Field::RequestId).filter(|value| is_request_id(value));
    let traceparent = only(fields, Field::Traceparent)
        .and_then(|value| trace_id(value).map(|trace| (trace, value.clone())));
    Given {
        request_id: request_id.cloned(),
        traceparent,
        any_id: fields.has(Field::RequestId),
        tracestate: fields.has(Field::Tracestate),
    }
}

/// Names a request of the own workload, which is about to leave for another sidecar.
pub(super) fn make(headers: &mut HeaderMap, given: Given) -> Names {
    let Given { request_id, traceparent, any_id, tracestate } = given;
    if let Some(found) = traceparent {
        let request_id = request_id.unwrap_or_else(|| request_id_of(rand::random()));
        return set(headers, request_id, found);
    }
    let (trace, traceparent) = begin(headers, tracestate);
    match request_id {
        Some(request_id) => set(headers, request_id, (trace, traceparent)),
        None => {
            if any_id {
                headers.remove(REQUEST_ID);
            }
            headers.insert(TRACEPARENT, traceparent.clone());
            Names { request_id: request_id_of(trace), traceparent, trace }
        }
    }
}

/// Names a request of another sidecar, or finds out how that named it.
pub(super) fn complete(headers: &mut HeaderMap, given: Given) -> Names {
    let found = given.traceparent.unwrap_or_else(|| begin(headers, given.tracestate));
    let request_id = given.request_id.unwrap_or_else(|| request_id_of(found.0));
    set(headers, request_id, found)
}

/// Both values are others in each request: no use to a table of what is sent often, which `sensitive` keeps them out of
/// (RFC 7541 §7.1.3).
fn set(
    headers: &mut HeaderMap,
    mut request_id: HeaderValue,
    (trace, mut traceparent): (TraceId, HeaderValue),
) -> Names {
    request_id.set_sensitive(true);
    traceparent.set_sensitive(true);
    headers.insert(REQUEST_ID, request_id.clone());
    headers.insert(TRACEPARENT, traceparent.clone());
    Names { request_id, traceparent, trace }
}

/// Begins a trace. What was said of another one does not belong to it.
fn begin(headers: &mut HeaderMap, tracestate: bool) -> (TraceId, HeaderValue) {
    if tracestate {
        headers.remove("tracestate");
    }
    let trace = new_trace();
    let mut traceparent = traceparent_of(trace);
    traceparent.set_sensitive(true);
    (trace, traceparent)
}

/// The value of a field that there is once. Of two, each reader would take another one (W3C Trace Context §3.2).
fn only(fields: Fields<'_>, field: Field) -> Option<&HeaderValue> {
    let mut values = fields.all(field);
    values.next().filter(|_| values.next().is_none())
}

/// Whatever the client calls it, as long as it is fit for a log line.
fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

fn new_trace() -> TraceId {
    rand::random::<u128>().max(1).to_be_bytes()
}

/// A UUID of random bits (RFC 9562 §5.4): of those of a trace, or of others.
fn request_id_of(bits: TraceId) -> HeaderValue {
    let bits = (u128::from_be_bytes(bits) & !(0xf000 << 64) & !(0b11 << 62)) | (0x4000 << 64) | (0b10 << 62);
    let mut text = [b'-'; 36];
    let groups = [(0, 8), (9, 4), (14, 4), (19, 4), (24, 12)];
    let mut digits = hex(bits).into_iter();
    for (begin, length) in groups {
        for (place, digit) in text.iter_mut().skip(begin).take(length).zip(&mut digits) {
            *place = digit;
        }
    }
    value_of(&text)
}

/// `sampled`, because this hop is recorded: in its access log and in its histogram.
fn traceparent_of(trace: TraceId) -> HeaderValue {
    let parent = u128::from(rand::random::<u64>().max(1));
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    for (place, digit) in text.iter_mut().skip(3).zip(hex(u128::from_be_bytes(trace))) {
        *place = digit;
    }
    for (place, digit) in text.iter_mut().skip(36).zip(hex(parent).into_iter().skip(16)) {
        *place = digit;
    }
    value_of(&text)
}

/// By hand: the formatter takes longer for it than a request's route.
fn hex(number: u128) -> [u8; 32] {
    let mut digits = [b'0'; 32];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *pair =
            [byte >> 4, byte & 0xf].map(|digit| if digit < 10 { b'0' + digit } else { b'a' - 10 + digit });
    }
    digits
}

fn value_of(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn make(headers: &mut HeaderMap) -> Names {
        let given = given(Fields::of(headers));
        super::make(headers, given)
    }

    fn complete(headers: &mut HeaderMap) -> Names {
        let given = given(Fields::of(headers));
        super::complete(headers, given)
    }

    #[test]
    fn what_came_without_names_has_the_same_on_both_sides_and_says_them_once() {
        let mut headers = HeaderMap::new();
        let sent = make(&mut headers);
        assert!(!headers.contains_key(REQUEST_ID), "{headers:?}");
        let received = complete(&mut headers);
        assert_eq!(received.request_id, sent.request_id);
        assert_eq!(received.traceparent, sent.traceparent);
        assert_eq!(headers[REQUEST_ID], sent.request_id);
    }

    #[test]
    fn requests_of_one_trace_are_told_apart() {
        const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let names = [(); 2].map(|()| {
            let mut headers = map(&[("traceparent", TRACE)]);
            let sent = make(&mut headers);
            assert_eq!(complete(&mut headers).request_id, sent.request_id);
            sent.request_id
        });
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn a_name_that_cannot_be_used_does_not_cross() {
        for lines in [&[("x-request-id", "a b")][..], &[("x-request-id", "one"), ("x-request-id", "two")]] {
            let mut headers = map(lines);
            let sent = make(&mut headers);
            assert!(!headers.contains_key(REQUEST_ID), "{headers:?}");
            assert_eq!(complete(&mut headers).request_id, sent.request_id);
        }
        let mut headers = map(&[("x-request-id", "one")]);
        assert_eq!(make(&mut headers).request_id, "one");
        assert_eq!((complete(&mut headers).request_id, headers.len()), ("one".parse().unwrap(), 2));
    }
}
