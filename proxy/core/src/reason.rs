//! Why the proxy answered by itself: one closed list, stable in access logs, metrics and the hop header.
//!
//! Every 503 of ours means that no application saw the request, so that a client may try again with any method; a 502
//! or a 504 says that one may have.

use std::fmt;

use http::StatusCode;

/// Who has to look into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blame {
    /// Whoever sent the request.
    Client,
    /// The mesh itself: its configuration, its identities, its limits.
    Mesh,
    /// The destination's instances.
    Upstream,
}

impl Blame {
    /// As in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Mesh => "mesh",
            Self::Upstream => "upstream",
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Keeps text, status and blame of a reason on one line each, and its documentation equal to the reference.
macro_rules! reasons {
    ($($variant:ident, $text:literal, $status:expr, $blame:ident, $doc:literal;)*) => {
        /// Why the proxy answered by itself, or ended an exchange early.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $doc] $variant,)*
        }

        impl Reason {
            /// All of them, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Stable name in logs, metrics and headers.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The status answered; `None` when the exchange ended without an answer of ours.
            pub const fn status(self) -> Option<StatusCode> {
                match self {
                    $(Self::$variant => $status,)*
                }
            }

            /// Who has to look into it.
            pub const fn blame(self) -> Blame {
                match self {
                    $(Self::$variant => Blame::$blame,)*
                }
            }

            /// What happened, in a sentence for people.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => $doc,)*
                }
            }
        }
    };
}

reasons! {
    BadRequest, "bad_request", Some(StatusCode::BAD_REQUEST), Client,
        "The request's head or the framing of its body is malformed, or its target is not a name that can be a destination.";
    HeadTooLarge, "head_too_large", Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), Client,
        "The request's head has more bytes or more fields than the limits allow.";
    HeaderTimeout, "header_timeout", Some(StatusCode::REQUEST_TIMEOUT), Client,
        "The request's head did not arrive whole in time.";
    BodyTimeout, "body_timeout", Some(StatusCode::REQUEST_TIMEOUT), Client,
        "The request's body stood still for too long.";
    UnsupportedProtocol, "unsupported_protocol", Some(StatusCode::NOT_IMPLEMENTED), Client,
        "What is spoken on the connection is not what its destination is declared to speak, or not carried by this version.";
    LoopDetected, "loop_detected", Some(StatusCode::LOOP_DETECTED), Client,
        "The request came back to the proxy that sent it.";
    ExternalDenied, "external_denied", Some(StatusCode::FORBIDDEN), Client,
        "The target lies outside the mesh, and MeshConfig does not allow it.";
    ClientClosed, "client_closed", None, Client,
        "The client went away before the exchange was over.";
    NoRoute, "no_route", Some(StatusCode::NOT_FOUND), Client,
        "The destination has routes for this port, and none of their rules covers the request.";
    UnknownService, "unknown_service", Some(StatusCode::SERVICE_UNAVAILABLE), Client,
        "The control plane knows no service of this name, or the service has no such port.";
    NotReady, "not_ready", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The proxy has no identity or no configuration yet.";
    DiscoveryTimeout, "discovery_timeout", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The control plane did not answer in time for a name that the proxy met for the first time.";
    ControlPlaneAway, "control_plane_away", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The control plane cannot be reached, and its last answers do not hold the name.";
    ConnectionLimit, "connection_limit", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The destination has as many connections from this proxy as its limit allows, and none became free in time.";
    RequestLimit, "request_limit", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The destination has as many requests from this proxy under way as its limit allows.";
    PendingLimit, "pending_limit", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "As many requests wait for a connection to the destination as its limit allows.";
    ProxyOverloaded, "proxy_overloaded", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The proxy itself has too little processor time for what it has to do, and takes fewer new requests for the moment.";
    Draining, "draining", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The proxy is about to stop and takes no new requests.";
    Stopped, "stopped", None, Mesh,
        "The proxy stopped before the exchange was over: the time to finish was up, or it was told to stop at once.";
    TlsFailed, "tls_failed", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The TLS handshake with the peer failed for another reason than its identity.";
    PeerRejected, "peer_rejected", Some(StatusCode::SERVICE_UNAVAILABLE), Mesh,
        "The peer did not prove to be whom the endpoint set expects at this address, or it refused our identity.";
    InternalError, "internal_error", Some(StatusCode::INTERNAL_SERVER_ERROR), Mesh,
        "A defect of the proxy; please report it.";
    Overloaded, "overloaded", Some(StatusCode::SERVICE_UNAVAILABLE), Upstream,
        "The application has more to do than it can, and its proxy takes fewer new requests for it for the moment.";
    NoEndpoint, "no_endpoint", Some(StatusCode::SERVICE_UNAVAILABLE), Upstream,
        "The destination has no instance.";
    NameUnresolved, "name_unresolved", Some(StatusCode::SERVICE_UNAVAILABLE), Upstream,
        "A name outside the mesh has no address in DNS, or DNS did not answer.";
    ConnectFailed, "connect_failed", Some(StatusCode::SERVICE_UNAVAILABLE), Upstream,
        "The connection was refused or broke before it could be used.";
    ConnectTimeout, "connect_timeout", Some(StatusCode::SERVICE_UNAVAILABLE), Upstream,
        "TCP and TLS together took longer than the connect timeout. Says `retry-after` where the proxy of the application tells it.";
    UpstreamReset, "upstream_reset", Some(StatusCode::BAD_GATEWAY), Upstream,
        "The connection broke after the request was handed over and before the response's head.";
    BadResponse, "bad_response", Some(StatusCode::BAD_GATEWAY), Upstream,
        "The response's head is malformed or exceeds the limits.";
    ResponseTruncated, "response_truncated", None, Upstream,
        "The connection broke after the response's head; what was received was delivered, and the end is a reset.";
    RequestTimeout, "request_timeout", Some(StatusCode::GATEWAY_TIMEOUT), Upstream,
        "The request's timeout passed before the response's head.";
    PerTryTimeout, "per_try_timeout", Some(StatusCode::GATEWAY_TIMEOUT), Upstream,
        "An attempt took longer than one may, and no other was allowed or left.";
    DeadlineExceeded, "deadline_exceeded", Some(StatusCode::GATEWAY_TIMEOUT), Client,
        "The deadline that the caller set passed before the response's head.";
    StreamTimeout, "stream_timeout", None, Upstream,
        "The response's body stood still for too long, or the request's timeout passed while it was delivered.";
    StreamReset, "stream_reset", None, Upstream,
        "The application reset the stream after the response's head; what was received was delivered, and the end is a reset.";
    GrpcStatusMissing, "grpc_status_missing", None, Upstream,
        "A gRPC response ended without a status; it was delivered as it is.";
    IdleTimeout, "idle_timeout", None, Upstream,
        "Nothing moved on a TCP connection, a tunnel or an upgraded connection for too long.";
}

impl Reason {
    /// Whether somebody had no room for the request: the client is asked to wait before it tries again.
    pub const fn is_want_of_room(self) -> bool {
        matches!(
            self,
            Self::ConnectionLimit
                | Self::RequestLimit
                | Self::PendingLimit
                | Self::ProxyOverloaded
                | Self::Overloaded
        )
    }

    /// Whether a peer's sidecar that says so had no room for the request, or its application none for a connection: likewise. An
    /// application that lets connections wait has too much to do, most likely; a peer that does is not there.
    pub const fn is_want_of_room_there(self) -> bool {
        self.is_want_of_room() || matches!(self, Self::ConnectTimeout)
    }

    /// Whether no application saw anything of the request: it may be sent elsewhere, whatever its method. Every 503 of
    /// ours, and what is refused before a destination is chosen.
    pub const fn is_unprocessed(self) -> bool {
        match self {
            Self::BadRequest
            | Self::HeadTooLarge
            | Self::HeaderTimeout
            | Self::UnsupportedProtocol
            | Self::LoopDetected
            | Self::ExternalDenied
            | Self::NoRoute
            | Self::UnknownService
            | Self::NotReady
            | Self::DiscoveryTimeout
            | Self::ControlPlaneAway
            | Self::ConnectionLimit
            | Self::RequestLimit
            | Self::PendingLimit
            | Self::ProxyOverloaded
            | Self::Overloaded
            | Self::Draining
            | Self::TlsFailed
            | Self::PeerRejected
            | Self::NoEndpoint
            | Self::NameUnresolved
            | Self::ConnectFailed
            | Self::ConnectTimeout => true,
            // A timeout may pass before anything was handed over, but its name does not say so.
            Self::BodyTimeout
            | Self::ClientClosed
            | Self::InternalError
            | Self::UpstreamReset
            | Self::BadResponse
            | Self::ResponseTruncated
            | Self::RequestTimeout
            | Self::PerTryTimeout
            | Self::DeadlineExceeded
            | Self::StreamTimeout
            | Self::StreamReset
            | Self::GrpcStatusMissing
            | Self::IdleTimeout
            | Self::Stopped => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text of `docs/reference/reasons.md`.
pub fn reference() -> String {
    use fmt::Write as _;

    let mut text = String::from(
        "# Reasons\n\n\
         Written from `outrigger_core::reason`; a test keeps the two equal.\n\n\
         Every answer that a proxy makes by itself carries one of these in its access log (`reason`) and in its\n\
         metrics. They are stable: a name is never reused with another meaning.\n\n\
         A 503 of ours means that no application saw the request: any method may be tried again. A 502 or a 504 says\n\
         that one may have. A reason without a status ends an exchange whose head was already on its way.\n\n\
         | Reason | Status | Look at | Meaning |\n\
         |---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let status = reason.status().map_or_else(|| "-".to_owned(), |status| status.as_u16().to_string());
        // Writing to a String cannot fail.
        let _infallible =
            writeln!(text, "| `{reason}` | {status} | {} | {} |", reason.blame(), reason.description());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/reasons.md");

    #[test]
    fn names_are_snake_case_and_unique() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn a_503_is_never_given_once_an_application_may_have_seen_the_request() {
        for reason in [
            Reason::UpstreamReset,
            Reason::BadResponse,
            Reason::RequestTimeout,
            Reason::ResponseTruncated,
            Reason::StreamTimeout,
        ] {
            assert_ne!(reason.status(), Some(StatusCode::SERVICE_UNAVAILABLE), "{reason}");
        }
    }

    #[test]
    fn every_503_is_unprocessed_and_no_502_or_504() {
        for reason in Reason::ALL {
            match reason.status() {
                Some(StatusCode::SERVICE_UNAVAILABLE) => assert!(reason.is_unprocessed(), "{reason}"),
                Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) | None => {
                    assert!(!reason.is_unprocessed(), "{reason}");
                }
                Some(_) => {}
            }
        }
    }

    #[test]
    fn the_reference_is_what_the_code_says() {
        let written = fs::read_to_string(REFERENCE).unwrap_or_default();
        assert!(
            written == reference(),
            "docs/reference/reasons.md is not what the code says; write this to it:\n{}",
            reference()
        );
    }
}
