//! One line per request.

mod line;
mod party;
mod sink;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, StatusCode, Version, header, uri::PathAndQuery};
use outrigger_core::{
    grpc::Code,
    reason::Reason,
    telemetry::{Class, PhaseTimes},
};

pub(super) use party::Fields;
pub(crate) use party::Party;
pub use sink::AccessLog;

use super::EdgeHandles;
use crate::headers::Names;

/// Seen from the own workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To it.
    Inbound,
    /// From it.
    Outbound,
}

impl Direction {
    /// As in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom a request was sent to, in the form in which it came.
#[derive(Debug)]
pub(crate) enum Authority {
    /// By its `Host`.
    Host(HeaderValue),
    /// By its target.
    Target(http::uri::Authority),
}

/// What is known of a request when it is over. Queries, and headers other than the two that name a request, are not
/// in it: they carry secrets.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) direction: Direction,
    pub(crate) downstream: Arc<Party>,
    pub(crate) method: Option<Method>,
    pub(crate) version: Option<Version>,
    pub(crate) authority: Option<Authority>,
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) traceparent: Option<HeaderValue>,
    /// Where it was routed to.
    pub(crate) edges: Option<Arc<EdgeHandles>>,
    pub(crate) class: Class,
    /// How often it was sent; more than once: some of it was retried.
    pub(crate) attempts: u32,
    pub(crate) grpc_status: Option<Code>,
    /// Where the last attempt went.
    pub(crate) upstream: Option<Arc<Party>>,
    pub(crate) generation: u64,
    pub(crate) status: Option<StatusCode>,
    pub(crate) reason: Option<Reason>,
    /// To the downstream: of the response's body, or of what followed it.
    pub(crate) bytes: u64,
    /// From the downstream, where it is not a request's body.
    pub(crate) received: u64,
}

/// How long a request took, and where that time went: beside its [`Record`], which is carried while it lasts.
#[derive(Debug)]
pub(crate) struct Times<'a> {
    pub(crate) duration: Duration,
    pub(crate) phases: &'a PhaseTimes,
}

impl Record {
    pub(crate) fn new(direction: Direction, downstream: Arc<Party>) -> Self {
        Self {
            direction,
            downstream,
            method: None,
            version: None,
            authority: None,
            path: None,
            request_id: None,
            traceparent: None,
            edges: None,
            class: Class::Request,
            attempts: 0,
            grpc_status: None,
            upstream: None,
            generation: 0,
            status: None,
            reason: None,
            bytes: 0,
            received: 0,
        }
    }

    /// What the head says.
    pub(crate) fn describe<B>(&mut self, request: &Request<B>) {
        self.method = Some(request.method().clone());
        self.version = Some(request.version());
        self.path = request.uri().path_and_query().cloned();
        self.authority = request.headers().get(header::HOST).cloned().map(Authority::Host);
    }

    /// What it is called.
    pub(crate) fn name(&mut self, names: Names) {
        self.request_id = Some(names.request_id);
        self.traceparent = Some(names.traceparent);
    }

    /// The proxy answered by itself, or ended the exchange. The first reason is the cause; later ones follow from it.
    pub(crate) fn refuse(&mut self, reason: Reason) {
        if self.reason.is_none() {
            self.reason = Some(reason);
            self.status = self.status.or(reason.status());
        }
    }

    /// Answered 5xx, cut short by the callee, or made by the proxy itself; a client that went away, or a proxy that stops, is
    /// no failure of the edge.
    pub(crate) fn is_failure(&self) -> bool {
        if matches!(self.reason, Some(Reason::ClientClosed | Reason::Stopped)) {
            return false;
        }
        self.reason.is_some()
            || self.status.is_some_and(|status| status.is_server_error())
            || self.grpc_status.is_some_and(is_server_s)
    }
}

/// Codes that say that the server failed, and not that it refused.
fn is_server_s(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss
    )
}
