//! How a request crosses the mesh: as a stream among others, or on a connection of its own; and what becomes of its head.

use std::sync::Arc;

use http::{HeaderMap, Request, Version, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use outrigger_core::{
    deadline::{self, Deadline},
    model::{AppProtocol, HeaderMutation, HttpFilter, RouteRule},
    reason::Reason,
    route,
};

use super::{
    Outbound,
    destination::{Choice, MeshPort},
};
use crate::{
    headers::{self, Field, Fields, Way},
    http::{Gate, Upload, expects_continue, is_idempotent},
    telemetry::Exchange,
    upstream::{Head, Leg},
};

/// A longer body of an HTTP/1 request, or one of unknown length, does not share a connection: it would take the window of
/// one stream at a time, and on its own connection the kernel's flow control is all there is (SEMANTICS D.8).
const SHARED_BODY: u64 = 64 * 1024;

/// A request that is ready to be sent, as often as it has to be.
pub(super) struct Prepared {
    pub(super) head: Head,
    pub(super) upload: Arc<Upload>,
    pub(super) leg: Leg,
    /// The downstream's side of an upgrade that was asked for.
    pub(super) upgrade: Option<OnUpgrade>,
    pub(super) deadline: Deadline,
    pub(super) idempotent: bool,
    pub(super) grpc: bool,
}

impl Outbound {
    /// Makes the request one for the mesh, by its rule, and finds out how long there is for it.
    pub(super) fn prepare(
        &self,
        mut request: Request<Incoming>,
        (port, choice): (&MeshPort, Choice<'_>),
        exchange: &mut Exchange,
    ) -> Result<Prepared, Reason> {
        let grpc = exchange.is_grpc();
        let over_http1 = request.version() != Version::HTTP_2;
        let fields = Fields::of(request.headers());
        let asked = headers::asked_upgrade(request.version(), fields);
        let caller = headers::timeout(fields, grpc).map_err(|error| {
            tracing::debug!(%error, "timeout of the caller");
            Reason::BadRequest
        })?;
        let expects = over_http1 && expects_continue(fields);
        let expects_other = fields.has(Field::Expect) && !expects;
        let upgrade = asked.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut head, body) = request.into_parts();
        let policy = choice.set().ok().map(|set| &set.set.resilience.timeouts);
        let idle = policy.and_then(|timeouts| timeouts.idle);
        let policy = policy.and_then(|timeouts| timeouts.request);
        let rule = choice.rule.and_then(|rule| rule.request_timeout);
        let configured = deadline::request_timeout(rule, policy, port.config().request_timeout);
        let deadline = Deadline::new(exchange.head_read().into_std(), configured, caller);

        if expects_other {
            head.headers.remove(header::EXPECT);
        }
        let gate = if expects { Gate::Expecting } else { Gate::Open };
        let (begun, stands) = (exchange.head_read(), idle.unwrap_or(self.shared.limits.body_timeout));
        let upload = Upload::new(body, begun, head.version, gate, stands, grpc);
        let large = !upload.is_bodiless() && upload.length().is_none_or(|length| length > SHARED_BODY);
        let own = over_http1 && (upgrade.is_some() || expects || large);
        let leg = if own { Leg::Http1 } else { Leg::Http2 };
        if let Some(rule) = choice.rule {
            edit(rule, &mut head.headers, request_edits);
        }
        let way = Way { leg, upgrade: asked };
        let version = match port.protocol() {
            AppProtocol::Http1 if !over_http1 => Version::HTTP_11,
            AppProtocol::Http2 | AppProtocol::Grpc => Version::HTTP_2,
            _ => head.version,
        };
        if !over_http1 && version != Version::HTTP_2 {
            headers::join_cookies(&mut head.headers);
        }
        let names = headers::outbound_request(&mut head.headers, &self.shared.hop, version, &way);
        headers::set_idle(&mut head.headers, idle);
        exchange.call(names.trace);
        exchange.note(|record| record.name(names));
        exchange.set_upload(&upload);
        let idempotent = is_idempotent(&head.method);
        let head = Head { method: head.method, uri: head.uri, headers: head.headers };
        Ok(Prepared { head, upload, leg, upgrade, deadline, idempotent, grpc })
    }
}

/// A rule's edits of a response.
pub(super) fn edit_response(rule: Option<&RouteRule>, headers: &mut HeaderMap) {
    if let Some(rule) = rule {
        edit(rule, headers, response_edits);
    }
}

fn request_edits(filter: &HttpFilter) -> Option<&HeaderMutation> {
    match filter {
        HttpFilter::RequestHeaders(mutation) => Some(mutation),
        HttpFilter::ResponseHeaders(_) => None,
    }
}

fn response_edits(filter: &HttpFilter) -> Option<&HeaderMutation> {
    match filter {
        HttpFilter::ResponseHeaders(mutation) => Some(mutation),
        HttpFilter::RequestHeaders(_) => None,
    }
}

/// Applies a rule's edits. What frames the message, and what is said of the connection it came on, is not theirs to
/// change: the message would be framed wrong, or fields of one connection would be passed on.
fn edit(rule: &RouteRule, headers: &mut HeaderMap, edits: fn(&HttpFilter) -> Option<&HeaderMutation>) {
    if rule.filters.is_empty() {
        return;
    }
    let fixed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE]
        .map(|name| (headers.get_all(&name).iter().cloned().collect::<Vec<_>>(), name));
    for mutation in rule.filters.iter().filter_map(edits) {
        route::mutate(mutation, headers);
    }
    for (values, name) in fixed {
        headers.remove(&name);
        for value in values {
            headers.append(&name, value);
        }
    }
}
