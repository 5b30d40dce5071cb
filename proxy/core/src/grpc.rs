//! What a proxy has to know of gRPC: which requests are gRPC, how they ended, how an answer of the proxy's own looks to
//! them, and how many messages a body carries. Over HTTP/2 as in gRPC's `PROTOCOL-HTTP2.md`.

mod code;
mod messages;

pub use code::Code;
pub use messages::Messages;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::reason::Reason;

/// Name of the field, in headers or trailers, that tells how a call ended.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Whether a `content-type` says gRPC: `application/grpc`, perhaps with `+proto` or another format. gRPC-Web
/// (`application/grpc-web`) is another protocol.
pub fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    const PREFIX: &[u8] = b"application/grpc";
    let value = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    value.split_at_checked(PREFIX.len()).is_some_and(|(begin, rest)| {
        begin.eq_ignore_ascii_case(PREFIX) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
    })
}

/// How a call ended, as `fields` tell it: the trailers, or the headers of an answer that has no body ("Trailers-Only").
/// `None` when they do not. What is no number, or one that gRPC does not know, is [`Code::Unknown`].
pub fn status(fields: &HeaderMap) -> Option<Code> {
    let value = fields.get(STATUS)?;
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(number.and_then(Code::from_number).unwrap_or(Code::Unknown))
}

/// How a call ended whose response has no `grpc-status`, by gRPC's `http-grpc-status-mapping.md`.
pub fn from_http(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// What a gRPC client is told in place of a [`Reason`]'s HTTP status. As [`from_http`] has it, but where gRPC has a more
/// exact word; [`Code::Unavailable`], which clients take as leave to try again, only where that mapping or
/// `PROTOCOL-HTTP2.md` gives it too.
pub fn from_reason(reason: Reason) -> Code {
    match reason {
        Reason::ClientClosed => Code::Cancelled,
        Reason::ExternalDenied => Code::PermissionDenied,
        Reason::NoRoute | Reason::UnsupportedProtocol => Code::Unimplemented,
        Reason::HeaderTimeout
        | Reason::BodyTimeout
        | Reason::RequestTimeout
        | Reason::PerTryTimeout
        | Reason::DeadlineExceeded
        | Reason::StreamTimeout => Code::DeadlineExceeded,
        Reason::BadRequest
        | Reason::HeadTooLarge
        | Reason::LoopDetected
        | Reason::InternalError
        | Reason::BadResponse
        | Reason::StreamReset => Code::Internal,
        Reason::GrpcStatusMissing => Code::Unknown,
        Reason::UnknownService
        | Reason::NotReady
        | Reason::DiscoveryTimeout
        | Reason::ControlPlaneAway
        | Reason::ConnectionLimit
        | Reason::RequestLimit
        | Reason::PendingLimit
        | Reason::ProxyOverloaded
        | Reason::Overloaded
        | Reason::Draining
        | Reason::TlsFailed
        | Reason::PeerRejected
        | Reason::NoEndpoint
        | Reason::NameUnresolved
        | Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::UpstreamReset
        | Reason::ResponseTruncated
        | Reason::IdleTimeout
        | Reason::Stopped => Code::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc+json", true),
            ("application/grpc;charset=utf-8", true),
            ("Application/GRPC", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcs", false),
            ("application/json", false),
            ("application/grp", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(Some(&HeaderValue::from_str(text).unwrap())), expected, "{text:?}");
        }
        assert!(!is_grpc(None));
    }

    #[test]
    fn the_status_is_read_from_headers_or_trailers() {
        for (text, code) in [
            ("0", Code::Ok),
            ("14", Code::Unavailable),
            ("16", Code::Unauthenticated),
            ("17", Code::Unknown),
            ("99999999999", Code::Unknown),
            ("-1", Code::Unknown),
            ("", Code::Unknown),
            ("ok", Code::Unknown),
        ] {
            let fields = HeaderMap::from_iter([(STATUS, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(status(&fields), Some(code), "{text:?}");
        }
        assert_eq!(status(&HeaderMap::new()), None);
    }

    #[test]
    fn a_response_without_a_status_is_mapped_from_http() {
        for (status, code) in [
            (200, Code::Unknown),
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (431, Code::Internal),
            (500, Code::Unknown),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
        ] {
            assert_eq!(from_http(StatusCode::from_u16(status).unwrap()), code, "{status}");
        }
    }

    #[test]
    fn a_call_of_which_no_application_saw_anything_may_be_tried_again() {
        for reason in Reason::ALL {
            let unavailable = from_reason(*reason) == Code::Unavailable;
            if reason.status() == Some(StatusCode::SERVICE_UNAVAILABLE) {
                assert!(unavailable, "{reason}");
            }
            assert_ne!(from_reason(*reason), Code::Ok, "{reason}");
        }
    }
}
