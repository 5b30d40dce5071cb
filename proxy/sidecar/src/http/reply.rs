//! Answers of the proxy's own.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use outrigger_core::{grpc, reason::Reason, retry::GRPC_PUSHBACK};
use tokio::time::Instant;

use super::ResponseBody;
use crate::telemetry::Exchange;

/// The form that a client understands an answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A sentence.
    Text,
    /// To a HEAD: the head that the sentence would have. Over HTTP/2 the parser would not leave it out by itself.
    Head,
    /// A status of gRPC in the head of a response without a body.
    Grpc,
}

impl Shape {
    /// For a request with `method`.
    pub(crate) fn of(method: &Method) -> Self {
        if *method == Method::HEAD { Self::Head } else { Self::Text }
    }
}

/// The answer to a request that is not forwarded, or could not be. After what the client did wrong the connection is
/// not trusted any further.
pub(crate) fn own_answer(reason: Reason, shape: Shape, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.note(|record| record.refuse(reason));
    // A reason without a status: the client is gone, or sends no more of what it promised. If it reads the answer, the fault
    // was its own.
    let status = reason.status().unwrap_or(StatusCode::BAD_REQUEST);
    exchange.stamp(|stamps| stamps.head_sent = Some(Instant::now().into_std()));
    if shape == Shape::Grpc {
        return grpc_answer(reason, exchange);
    }
    let text = Bytes::from(format!("outrigger: {reason}: {}\n", reason.description()));
    let length = HeaderValue::from(text.len());
    let text = if shape == Shape::Head { Bytes::new() } else { text };
    let mut response = Response::new(ResponseBody::own(text, Some(exchange)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if matches!(reason, Reason::BadRequest | Reason::UnsupportedProtocol | Reason::BodyTimeout) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Tells the client when it may try again what somebody had no room for: after 1 to 2 s, so that not all come back together
/// (RFC 9110 §10.2.3, gRFC A6). Said to the own workload only: another sidecar has endpoints to choose from.
pub(crate) fn ask_patience(shape: Shape, headers: &mut HeaderMap) {
    match shape {
        Shape::Text | Shape::Head => {
            let seconds = 1 + u16::from(rand::random::<bool>());
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        Shape::Grpc => {
            let millis = 1000 + u16::from(rand::random::<u8>()) * 4;
            headers.insert(GRPC_PUSHBACK, HeaderValue::from(millis));
        }
    }
}

/// A head that ends the response ("Trailers-Only" in gRPC's `PROTOCOL-HTTP2.md`).
fn grpc_answer(reason: Reason, exchange: Exchange) -> Response<ResponseBody> {
    let text = format!("outrigger: {reason}");
    let mut response = Response::new(ResponseBody::own(Bytes::new(), Some(exchange)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(grpc::STATUS, grpc::from_reason(reason).header_value());
    if let Ok(message) = HeaderValue::try_from(text) {
        headers.insert("grpc-message", message);
    }
    response
}

/// `200` to a CONNECT.
pub(crate) fn accepted(exchange: Exchange) -> Response<ResponseBody> {
    Response::new(ResponseBody::own(Bytes::new(), Some(exchange)))
}
