//! Which headers cross which leg. Hop-by-hop fields never do (RFC 9110 §7.6.1); fields of the mesh's own are believed
//! from an authenticated sidecar only, and never reach a client.
//!
//! | direction | `outrigger-*` | `x-forwarded-client-cert` | made when missing |
//! |---|---|---|---|
//! | own workload -> mesh leg | removed, `outrigger-hop` set | removed | `x-request-id`, `traceparent` |
//! | mesh leg -> application | removed but `outrigger-hop` | the verified peer | `x-request-id`, `traceparent` |
//! | application -> mesh leg | removed, `outrigger-timing` set | untouched | - |
//! | mesh leg -> own workload | removed | untouched | - |

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use outrigger_core::model::SpiffeId;

/// Which proxy a request left last: one that comes back to it runs in a circle.
pub(crate) const HOP: HeaderName = HeaderName::from_static("outrigger-hop");
/// Who the verified peer is, for the application.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Names a request in every log.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const OWN_PREFIX: &str = "outrigger-";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The name of this proxy among the hops of a request: random per process, so that it says nothing about it.
#[derive(Debug, Clone)]
pub(crate) struct Hop(HeaderValue);

impl Hop {
    pub(crate) fn new() -> Self {
        let name = format!("{:016x}", rand::random::<u64>());
        Self(HeaderValue::from_str(&name).unwrap_or_else(|_| HeaderValue::from_static("0")))
    }

    /// Whether `headers` left this proxy before.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        headers.get_all(HOP).iter().any(|value| value == self.0)
    }
}

/// What a request is called in logs, here and in the application.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) request_id: HeaderValue,
    pub(crate) traceparent: HeaderValue,
}

/// Own workload -> mesh leg.
pub(crate) fn outbound_request(headers: &mut HeaderMap, hop: &Hop) -> Names {
    let trailers = accepts_trailers(headers);
    remove_hop_by_hop(headers);
    // Meant for this proxy, not for whom it talks to (RFC 9110 §11.7.2).
    headers.remove(header::PROXY_AUTHORIZATION);
    remove_own(headers);
    headers.remove(CLIENT_CERT);
    headers.insert(HOP, hop.0.clone());
    pass_trailers(headers, trailers);
    ensure_names(headers)
}

/// Mesh leg -> application. `peer` was verified by the handshake; `own` is who the application is.
pub(crate) fn inbound_request(headers: &mut HeaderMap, peer: &SpiffeId, own: Option<&SpiffeId>) -> Names {
    let trailers = accepts_trailers(headers);
    remove_hop_by_hop(headers);
    let hop = headers.get(HOP).cloned();
    remove_own(headers);
    if let Some(hop) = hop {
        headers.insert(HOP, hop);
    }
    match client_cert(peer, own) {
        Some(value) => headers.insert(CLIENT_CERT, value),
        None => headers.remove(CLIENT_CERT),
    };
    pass_trailers(headers, trailers);
    ensure_names(headers)
}

/// Application -> mesh leg; the timing is set by whoever measured it.
pub(crate) fn inbound_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    remove_own(headers);
}

/// Mesh leg -> own workload.
pub(crate) fn outbound_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    remove_own(headers);
}

/// On both legs of a request. What may not come in the head does not come in by the back door: some applications merge
/// the two.
pub(crate) fn request_trailers(trailers: &mut HeaderMap) {
    remove_own(trailers);
    trailers.remove(CLIENT_CERT);
}

/// On both legs of a response.
pub(crate) fn response_trailers(trailers: &mut HeaderMap) {
    remove_own(trailers);
}

/// How long the peer of an HTTP/1.1 connection says that it keeps it (`Keep-Alive: timeout=5`), seconds.
pub(crate) fn keep_alive_timeout(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    value.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let named = name.trim().eq_ignore_ascii_case("timeout");
        named.then(|| value.trim().parse().ok()).flatten()
    })
}

/// Whether the sender of a message closes the connection after it.
pub(crate) fn says_close(headers: &HeaderMap) -> bool {
    list(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("close"))
}

/// The elements of a field that is a comma-separated list, in one line or more.
pub(crate) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// Fields of one connection, and those that `Connection` names. End-to-end fields that frame or route a message cannot
/// be removed by naming them there: that would let a client strip what the next hop relies on.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = list(headers, &header::CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| !is_kept(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

fn is_kept(name: &HeaderName) -> bool {
    *name == header::HOST
        || *name == header::CONTENT_LENGTH
        || *name == header::AUTHORIZATION
        || *name == header::COOKIE
        || *name == header::TRAILER
        || *name == CLIENT_CERT
        || *name == HOP
        || *name == REQUEST_ID
        || *name == TRACEPARENT
        || name.as_str().starts_with("x-forwarded-")
}

fn remove_own(headers: &mut HeaderMap) {
    // Names that arrived are lower-case already: `http` keeps no other.
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| {
        let mut codings = value.to_str().unwrap_or_default().split(',');
        codings.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    })
}

/// `TE` is hop-by-hop, and each hop of ours forwards trailers: so it is said anew on each (RFC 9110 §10.1.4).
fn pass_trailers(headers: &mut HeaderMap, accepted: bool) {
    if accepted {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// The element of `x-forwarded-client-cert`: `By` is who answers, `URI` is who asks.
fn client_cert(peer: &SpiffeId, own: Option<&SpiffeId>) -> Option<HeaderValue> {
    let mut value = String::with_capacity(128);
    if let Some(own) = own {
        let _infallible = write!(value, "By={own};");
    }
    let _infallible = write!(value, "URI={peer}");
    HeaderValue::try_from(value).ok()
}

fn ensure_names(headers: &mut HeaderMap) -> Names {
    let request_id = match only(headers, &REQUEST_ID) {
        Some(value) if is_request_id(value) => value.clone(),
        _ => {
            let value = new_request_id();
            headers.insert(REQUEST_ID, value.clone());
            value
        }
    };
    let traceparent = match only(headers, &TRACEPARENT) {
        Some(value) if is_traceparent(value.as_bytes()) => value.clone(),
        _ => {
            let value = new_traceparent();
            headers.insert(TRACEPARENT, value.clone());
            // It belongs to the trace that was not one.
            headers.remove("tracestate");
            value
        }
    };
    Names { request_id, traceparent }
}

/// The value of a field that there is once. Of two, each reader would take another one (W3C Trace Context §3.2).
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whatever the client calls it, as long as it is fit for a log line.
fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// A random UUID (RFC 9562 §5.4).
fn new_request_id() -> HeaderValue {
    let bits = (rand::random::<u128>() & !(0xf000 << 64) & !(0b11 << 62)) | (0x4000 << 64) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let mut value = String::with_capacity(36);
    for (index, digit) in hex.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            value.push('-');
        }
        value.push(digit);
    }
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// `sampled`, because this hop is recorded: in its access log and in its histogram.
fn new_traceparent() -> HeaderValue {
    let trace = rand::random::<u128>().max(1);
    let parent = rand::random::<u64>().max(1);
    let value = format!("00-{trace:032x}-{parent:016x}-01");
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Version 00 exactly, later ones as far as version 00 reads them (W3C Trace Context §3.2, §4).
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| {
        let digits = value.get(range)?;
        let legal = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        digits.iter().all(legal).then_some(digits)
    };
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
    let (Some(version), Some(trace), Some(parent), Some(_flags)) =
        (hex(0..2), hex(3..35), hex(36..52), hex(53..55))
    else {
        return false;
    };
    let length = match version {
        b"00" => value.len() == 55,
        b"ff" => false,
        _ => value.len() == 55 || value.get(55) == Some(&b'-'),
    };
    dashes && length && !zero(trace) && !zero(parent)
}

#[cfg(test)]
mod tests;
