//! Why there is no response, and what that says of the request: whether an application may have seen it.

use http::Request;
use outrigger_core::{reason::Reason, retry::Unanswered};

use super::{ending::End, http1::Connection, http2::Stream};
use crate::http::{RequestBody, Upload};

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) reason: Reason,
    /// No application saw the request, and any may be asked instead.
    pub(crate) unprocessed: bool,
}

impl Failed {
    pub(crate) fn before(reason: Reason) -> Self {
        Self { reason, unprocessed: true }
    }

    pub(crate) fn after(reason: Reason) -> Self {
        Self { reason, unprocessed: false }
    }

    /// `processed`: an application may have seen the request before it failed so.
    pub(super) fn or_processed(self, processed: bool) -> Self {
        if processed && self.unprocessed { Self::after(Reason::UpstreamReset) } else { self }
    }
}

/// What became of a request on an HTTP/1 connection that brought no response.
pub(super) enum NoAnswer {
    /// Nothing was written: the request is as good as new.
    Unsent(Box<Request<RequestBody>>),
    /// The peer had closed the connection before it looked at the request.
    Closed,
    /// The application has not read all of it, or broke off on purpose: it has not read any of it if it is gone.
    Unread,
    /// The connection broke before the first byte of a response.
    Broke,
    /// Everything else.
    For(Reason),
}

/// Why an HTTP/1 connection brought no response to what was written.
pub(super) fn no_answer(error: &hyper::Error, upload: &Upload, connection: &Connection) -> NoAnswer {
    if let Some(reason) = upload.failure() {
        return NoAnswer::For(reason);
    }
    if error.is_parse() {
        return NoAnswer::For(Reason::BadResponse);
    }
    match connection.unanswered() {
        Some(End::Orderly) if connection.is_of_a_peer() => NoAnswer::Closed,
        Some(End::Reset) if !connection.is_of_a_peer() => {
            let unanswered = Unanswered { writes: connection.writes(), whole: upload.ended().is_some() };
            if unanswered.reset_means_unread() { NoAnswer::Unread } else { NoAnswer::Broke }
        }
        _ => NoAnswer::Broke,
    }
}

/// Why a stream ended without a response.
pub(super) fn no_response(error: &h2::Error, stream: &Stream, upload: &Upload, fresh: bool) -> Failed {
    // What the peer says that it did not begin with (RFC 9113 §6.8, §8.7).
    if error.is_go_away() && error.is_remote() {
        stream.is_last();
        return Failed::before(Reason::ConnectFailed);
    }
    if error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        return Failed::before(Reason::ConnectFailed);
    }
    if let Some(reason) = upload.failure() {
        return Failed::after(reason);
    }
    if error.is_io() || error.is_go_away() {
        stream.is_last();
        // On a new connection it is our certificate that was refused, and nothing was served.
        if fresh && stream.is_refused() {
            return Failed::before(Reason::PeerRejected);
        }
    }
    if error.is_library() && !error.is_io() {
        return Failed::after(Reason::BadResponse);
    }
    Failed::after(Reason::UpstreamReset)
}

/// Why a request could not be written to a stream.
pub(super) fn not_sent(stream: &Stream) -> Reason {
    if stream.is_refused() { Reason::PeerRejected } else { Reason::ConnectFailed }
}
