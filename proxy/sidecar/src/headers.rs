//! Which headers cross which leg. Hop-by-hop fields never do (RFC 9110 §7.6.1), but for an upgrade that both sides of
//! the leg can make; fields of the mesh's own are believed from an authenticated sidecar only, and never reach a client.
//!
//! | direction | `outrigger-*` | `x-forwarded-client-cert` | made when missing |
//! |---|---|---|---|
//! | own workload -> mesh leg | removed; `-hop`, `-version`, `-timeout`, `-idle` set | removed | `traceparent`, and [`names`] |
//! | mesh leg -> application | removed but `-hop`; `-timeout` set | the verified peer | `x-request-id`, `traceparent` |
//! | application -> mesh leg | removed; `-timing`, `-unprocessed`, `-reason`, `-retry` set | untouched | - |
//! | mesh leg -> own workload | removed | untouched | - |
//! | trailers of a request | removed | removed | - |
//! | trailers of a response | removed | untouched | - |
//!
//! `outrigger-timeout` of the own workload is a deadline that it may set for itself: it can only shorten (see `deadline`).

mod fields;
mod names;
mod naming;

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use outrigger_core::{
    deadline::header::{self as timeouts, InvalidTimeout},
    model::SpiffeId,
    reason::Reason,
};

pub(crate) use fields::{Field, Fields};
pub(crate) use names::{Names, REQUEST_ID, TRACEPARENT};
pub(crate) use naming::Naming;

use crate::upstream::Leg;
use fields::Set;

/// Which proxy a request left last: one that comes back to it runs in a circle.
pub(crate) const HOP: HeaderName = HeaderName::from_static("outrigger-hop");
/// `2`: HTTP/2 is to be spoken to the application, as the service's port declares it, or else since the caller's own client
/// spoke it. Not said: HTTP/1.1.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("outrigger-version");
/// How long the bodies of a request and its response may stand still (a duration of GEP-2257; zero: for ever), where the
/// caller's policy says so.
const IDLE: HeaderName = HeaderName::from_static("outrigger-idle");
/// Why an inbound could not hand a request over: no application saw it, and any method may be tried elsewhere.
pub(crate) const UNPROCESSED: HeaderName = HeaderName::from_static("outrigger-unprocessed");
/// Why an inbound answered by itself, where an application may have seen the request.
pub(crate) const REASON: HeaderName = HeaderName::from_static("outrigger-reason");
/// `never`: the inbound has been refusing requests for a while, and one that is sent to it again is refused again.
pub(crate) const RETRY: HeaderName = HeaderName::from_static("outrigger-retry");
pub(crate) const NEVER: HeaderValue = HeaderValue::from_static("never");
/// Who the verified peer is, for the application.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

const OWN_PREFIX: &str = "outrigger-";

const HOP_BY_HOP: Set = Set::of(&[
    Field::Connection,
    Field::KeepAlive,
    Field::ProxyConnection,
    Field::Te,
    Field::TransferEncoding,
    Field::Upgrade,
]);
const OWN: Set =
    Set::of(&[Field::Timeout, Field::Hop, Field::Version, Field::Idle, Field::Unprocessed, Field::Reason])
        .and(Set::OTHERS_OF_OURS);
/// What crosses no leg of either direction.
const NEVER_CROSS: Set = HOP_BY_HOP.and(OWN);
/// Credentials for a proxy are meant for this one, not for whom it talks to (RFC 9110 §11.7.2).
const NOT_OUT: Set = NEVER_CROSS.and(Set::of(&[Field::ProxyAuthorization, Field::ClientCert]));
const NOT_IN: Set = NEVER_CROSS.without(Set::of(&[Field::Hop, Field::Timeout]));
/// What frames or routes a message comes before its body (RFC 9110 §6.5.1), and HTTP/2 breaks off a message that says
/// anything of a connection at its end.
const NOT_TRAILING: Set = NEVER_CROSS.and(Set::of(&[Field::ContentLength, Field::Host]));

/// The name of this proxy among the hops of a request: random per process, so that it says nothing about it.
#[derive(Debug, Clone)]
pub(crate) struct Hop(HeaderValue);

impl Hop {
    pub(crate) fn new() -> Self {
        let name = format!("{:016x}", rand::random::<u64>());
        Self(HeaderValue::from_str(&name).unwrap_or_else(|_| HeaderValue::from_static("0")))
    }

    /// Whether a head with these `fields` left this proxy before.
    pub(crate) fn is_in(&self, fields: Fields<'_>) -> bool {
        fields.all(Field::Hop).any(|value| value == self.0)
    }
}

/// How a message goes on from here.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    /// What it is written with.
    pub(crate) leg: Leg,
    /// The protocols that may follow it on its connection.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Own workload -> mesh leg. `version`: what is to be spoken to the application, where its sidecar does not know better.
pub(crate) fn outbound_request(headers: &mut HeaderMap, hop: &Hop, version: Version, way: &Way) -> Names {
    let fields = Fields::of(headers);
    let (trailers, given, gone) = (accepts_trailers(fields), names::given(fields), fields.among(NOT_OUT));
    strip(headers, gone);
    headers.insert(HOP, hop.0.clone());
    if version == Version::HTTP_2 {
        headers.insert(VERSION, HeaderValue::from_static("2"));
    }
    pass_options(headers, trailers, way);
    names::make(headers, given)
}

/// Mesh leg -> application. `peer`: who was verified by the handshake, see [`client_cert`].
pub(crate) fn inbound_request(headers: &mut HeaderMap, peer: &HeaderValue, way: &Way) -> Names {
    let fields = Fields::of(headers);
    let (trailers, given, gone) = (accepts_trailers(fields), names::given(fields), fields.among(NOT_IN));
    strip(headers, gone);
    headers.insert(CLIENT_CERT, peer.clone());
    pass_options(headers, trailers, way);
    names::complete(headers, given)
}

/// Application -> mesh leg; the timing is set by whoever measured it. Returns what is lost by it: how long the application
/// says that it keeps an HTTP/1.1 connection (`Keep-Alive: timeout=5`), seconds.
pub(crate) fn inbound_response(headers: &mut HeaderMap) -> Option<u64> {
    let fields = Fields::of(headers);
    let (kept, gone) = (keep_alive_timeout(fields), fields.among(NEVER_CROSS));
    strip(headers, gone);
    kept
}

/// Mesh leg -> own workload.
pub(crate) fn outbound_response(headers: &mut HeaderMap) {
    strip_all(headers, NEVER_CROSS);
}

/// The answer that leaves HTTP says so on each leg anew (RFC 9110 §7.8); `protocol`: what it goes on with.
pub(crate) fn switch(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::UPGRADE, protocol);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

/// Tells the callee's sidecar how long the bodies may stand still.
pub(crate) fn set_idle(headers: &mut HeaderMap, idle: Option<Duration>) {
    if let Some(idle) = idle {
        headers.insert(IDLE, timeouts::encode(idle));
    }
}

/// How long the bodies may stand still, if the caller of an inbound says so.
pub(crate) fn idle(fields: Fields<'_>) -> Option<Duration> {
    fields.get(Field::Idle).and_then(|value| timeouts::parse(value).ok())
}

/// Whether the caller of an inbound wants its application spoken to in HTTP/2.
pub(crate) fn wants_http2(fields: Fields<'_>) -> bool {
    fields.get(Field::Version).is_some_and(|version| version == "2")
}

/// Why a peer's sidecar answered in place of its application, and whether no application saw the request.
pub(crate) fn peer_reason(fields: Fields<'_>) -> Option<(Reason, bool)> {
    let named = |field: Field| {
        let text = fields.get(field)?.as_bytes();
        Reason::ALL.iter().copied().find(|reason| reason.as_str().as_bytes() == text)
    };
    let unprocessed = named(Field::Unprocessed).map(|reason| (reason, true));
    unprocessed.or_else(|| named(Field::Reason).map(|reason| (reason, false)))
}

/// Whether a peer's sidecar asks not to be sent anything again.
pub(crate) fn asks_not_again(headers: &HeaderMap) -> bool {
    headers.get(RETRY).is_some_and(|value| value == NEVER)
}

/// How long the caller of a request still waits, see [`timeouts::read`].
pub(crate) fn timeout(fields: Fields<'_>, grpc: bool) -> Result<Option<Duration>, InvalidTimeout> {
    if fields.has(Field::Timeout) || fields.has(Field::GrpcTimeout) {
        timeouts::read(fields.map(), grpc)
    } else {
        Ok(None)
    }
}

/// What a request of this `version` wants its connection to become, as far as it can be had: not HTTP/2, which is spoken
/// from the begin or not at all, and not where `Connection` does not name it, or of HTTP/1.0 (RFC 9110 §7.8).
pub(crate) fn asked_upgrade(version: Version, fields: Fields<'_>) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !fields.has(Field::Upgrade) {
        return None;
    }
    let headers = fields.map();
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
    strip_all(trailers, NOT_TRAILING.and(NOT_OUT));
}

/// On both legs of a response.
pub(crate) fn response_trailers(trailers: &mut HeaderMap) {
    strip_all(trailers, NOT_TRAILING);
}

fn keep_alive_timeout(fields: Fields<'_>) -> Option<u64> {
    let value = fields.get(Field::KeepAlive)?.to_str().ok()?;
    value.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let named = name.trim().eq_ignore_ascii_case("timeout");
        named.then(|| value.trim().parse().ok()).flatten()
    })
}

/// Whether the sender of a message closes the connection after it.
pub(crate) fn says_close(fields: Fields<'_>) -> bool {
    elements(fields.all(Field::Connection)).any(|token| token.eq_ignore_ascii_case("close"))
}

/// The elements of a field that is a comma-separated list, in one line or more.
pub(crate) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    elements(headers.get_all(name).iter())
}

fn elements<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a str> {
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

fn strip_all(headers: &mut HeaderMap, goes: Set) {
    let gone = Fields::of(headers).among(goes);
    strip(headers, gone);
}

/// Removes `gone`, which are there, and what `Connection` names if it goes. End-to-end fields that frame or route a message
/// cannot be removed by naming them there: that would let a client strip what the next hop relies on.
fn strip(headers: &mut HeaderMap, gone: Set) {
    if gone.is_empty() {
        return;
    }
    let mut names: Vec<HeaderName> =
        Field::ALL.iter().filter(|field| gone.has(**field)).map(|field| field.name()).collect();
    if gone.has_of(Set::OTHERS_OF_OURS) {
        names.extend(headers.keys().filter(|name| fields::is_other_of_ours(name)).cloned());
    }
    if gone.has(Field::Connection) {
        let named = list(headers, &header::CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| !is_kept(name));
        names.extend(named);
    }
    for name in names {
        headers.remove(name);
    }
}

/// Names that arrived are lower-case already: `http` keeps no other.
fn is_own(name: &str) -> bool {
    name.starts_with(OWN_PREFIX)
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

fn accepts_trailers(fields: Fields<'_>) -> bool {
    fields.all(Field::Te).any(|value| {
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
pub(crate) fn client_cert(peer: &SpiffeId, own: Option<&SpiffeId>) -> HeaderValue {
    let mut value = String::with_capacity(128);
    if let Some(own) = own {
        let _infallible = write!(value, "By={own};");
    }
    let _infallible = write!(value, "URI={peer}");
    // Identities are URIs: always a header value.
    HeaderValue::try_from(value).unwrap_or_else(|_never| HeaderValue::from_static("URI="))
}

#[cfg(test)]
mod tests;
