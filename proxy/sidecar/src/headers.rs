//! Which headers cross which leg. Hop-by-hop fields never do (RFC 9110 §7.6.1), but for an upgrade that both sides of
//! the leg can make; fields of the mesh's own are believed from an authenticated sidecar only, and never reach a client.
//!
//! | direction | `outrigger-*` | `x-forwarded-client-cert` | made when missing |
//! |---|---|---|---|
//! | own workload -> mesh leg | removed; `-hop`, `-version`, `-timeout` set | removed | `x-request-id`, `traceparent` |
//! | mesh leg -> application | removed but `-hop`, `-timeout` | the verified peer | `x-request-id`, `traceparent` |
//! | application -> mesh leg | removed; `-timing`, `-unprocessed`, `-reason` set | untouched | - |
//! | mesh leg -> own workload | removed | untouched | - |
//!
//! `outrigger-timeout` of the own workload is a deadline that it may set for itself: it can only shorten (see `deadline`).

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use outrigger_core::{deadline::header::OUTRIGGER_TIMEOUT as TIMEOUT, model::SpiffeId, reason::Reason};

use crate::upstream::Leg;

/// Which proxy a request left last: one that comes back to it runs in a circle.
pub(crate) const HOP: HeaderName = HeaderName::from_static("outrigger-hop");
/// What the caller's own client spoke: `1.0`, `1.1` or `2`.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("outrigger-version");
/// Why an inbound could not hand a request over: no application saw it, and any method may be tried elsewhere.
pub(crate) const UNPROCESSED: HeaderName = HeaderName::from_static("outrigger-unprocessed");
/// Why an inbound answered by itself, where an application may have seen the request.
pub(crate) const REASON: HeaderName = HeaderName::from_static("outrigger-reason");
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

/// How a message goes on from here.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    /// What it is written with.
    pub(crate) leg: Leg,
    /// The protocols that may follow it on its connection.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Own workload -> mesh leg. `version`: what the workload spoke.
pub(crate) fn outbound_request(headers: &mut HeaderMap, hop: &Hop, version: Version, way: &Way) -> Names {
    let trailers = accepts_trailers(headers);
    remove_hop_by_hop(headers);
    // Meant for this proxy, not for whom it talks to (RFC 9110 §11.7.2).
    headers.remove(header::PROXY_AUTHORIZATION);
    remove_own(headers);
    headers.remove(CLIENT_CERT);
    headers.insert(HOP, hop.0.clone());
    let version = match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    headers.insert(VERSION, HeaderValue::from_static(version));
    pass_options(headers, trailers, way);
    ensure_names(headers)
}

/// Mesh leg -> application. `peer` was verified by the handshake; `own` is who the application is.
pub(crate) fn inbound_request(
    headers: &mut HeaderMap,
    peer: &SpiffeId,
    own: Option<&SpiffeId>,
    way: &Way,
) -> Names {
    let trailers = accepts_trailers(headers);
    remove_hop_by_hop(headers);
    let kept = [HOP, TIMEOUT].map(|name| headers.remove(&name).map(|value| (name, value)));
    remove_own(headers);
    for (name, value) in kept.into_iter().flatten() {
        headers.insert(name, value);
    }
    match client_cert(peer, own) {
        Some(value) => headers.insert(CLIENT_CERT, value),
        None => headers.remove(CLIENT_CERT),
    };
    pass_options(headers, trailers, way);
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

/// The answer that leaves HTTP says so on each leg anew (RFC 9110 §7.8); `protocol`: what it goes on with.
pub(crate) fn switch(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::UPGRADE, protocol);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

/// Whether the caller of an inbound spoke HTTP/2 to its own sidecar.
pub(crate) fn is_from_http2(headers: &HeaderMap) -> bool {
    headers.get(VERSION).is_some_and(|version| version == "2")
}

/// Why a peer's sidecar answered in place of its application, and whether no application saw the request.
pub(crate) fn peer_reason(headers: &HeaderMap) -> Option<(Reason, bool)> {
    let named = |name: &HeaderName| {
        let text = headers.get(name)?.as_bytes();
        Reason::ALL.iter().copied().find(|reason| reason.as_str().as_bytes() == text)
    };
    let unprocessed = named(&UNPROCESSED).map(|reason| (reason, true));
    unprocessed.or_else(|| named(&REASON).map(|reason| (reason, false)))
}

/// What a request wants its connection to become, as far as it can be had: not HTTP/2, which is spoken from the begin or
/// not at all, and not where `Connection` does not name it, or of HTTP/1.0 (RFC 9110 §7.8).
pub(crate) fn asked_upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 || !headers.contains_key(header::UPGRADE) {
        return None;
    }
    let named = list(headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"));
    let wanted: Vec<&str> = list(headers, &header::UPGRADE)
        .filter(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case("h2c"))
        .collect();
    (named && !wanted.is_empty()).then(|| HeaderValue::try_from(wanted.join(", ")).ok()).flatten()
}

/// Whether an answer switches to what was `asked` for, and says to what.
pub(crate) fn agrees(asked: &HeaderValue, answer: &HeaderMap) -> bool {
    let asked = asked.to_str().unwrap_or_default();
    let mut chosen = list(answer, &header::UPGRADE).peekable();
    chosen.peek().is_some()
        && chosen.all(|chosen| asked.split(',').any(|asked| asked.trim().eq_ignore_ascii_case(chosen)))
}

/// A cookie that came in pieces, as HTTP/2 allows, is one field for HTTP/1 (RFC 9113 §8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(header::COOKIE).iter();
    if pieces.next().is_none() || pieces.next().is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// On both legs of a request. What may not come in the head does not come in by the back door: some applications merge
/// the two.
pub(crate) fn request_trailers(trailers: &mut HeaderMap) {
    remove_framing(trailers);
    remove_own(trailers);
    trailers.remove(CLIENT_CERT);
}

/// On both legs of a response.
pub(crate) fn response_trailers(trailers: &mut HeaderMap) {
    remove_framing(trailers);
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

/// What frames or routes a message comes before its body (RFC 9110 §6.5.1), and HTTP/2 breaks off a message that says
/// anything of a connection at its end.
fn remove_framing(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    trailers.remove(header::CONTENT_LENGTH);
    trailers.remove(header::HOST);
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

/// `TE` is hop-by-hop, and each hop of ours forwards trailers: so it is said anew on each (RFC 9110 §10.1.4), and so is
/// an upgrade where it can be made. HTTP/2 has no `Connection` (RFC 9113 §8.2.2).
fn pass_options(headers: &mut HeaderMap, trailers: bool, way: &Way) {
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if way.leg == Leg::Http2 {
        return;
    }
    let options = match (trailers, way.upgrade.is_some()) {
        (false, false) => return,
        (true, false) => "te",
        (false, true) => "upgrade",
        (true, true) => "te, upgrade",
    };
    headers.insert(header::CONNECTION, HeaderValue::from_static(options));
    if let Some(upgrade) = &way.upgrade {
        headers.insert(header::UPGRADE, upgrade.clone());
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
