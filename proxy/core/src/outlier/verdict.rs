//! The end of an attempt -> what it says about the endpoint. One answer for ejection and balancing alike.

use std::fmt;

use http::StatusCode;

use crate::{grpc::Code, reason::Reason};

/// What the end of an attempt says about the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It answered as it should: [`PeakEwma::record`](crate::balance::PeakEwma::record).
    Success,
    /// It did not: [`PeakEwma::penalise`](crate::balance::PeakEwma::penalise).
    Failure(Failure),
    /// Nothing: the client went away, or the proxy itself ended the request.
    Ignored,
}

/// In which way an endpoint failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// The connection broke.
    Reset,
    /// The timeout that is configured for the destination passed.
    Timeout,
    /// The application answered with a failure.
    Application,
    /// It, or its sidecar, says that it has too much to do, or is about to stop.
    Overloaded,
    /// The caller's own deadline passed, or a body stood still. Perhaps nobody could have done it in time.
    Deadline,
}

impl Failure {
    /// Whether it counts only against an endpoint whose peers do better: a defect of the application, or an impatient
    /// caller, is no reason to eject anybody.
    pub const fn is_relative(self) -> bool {
        match self {
            Self::Connect | Self::Reset | Self::Timeout => false,
            Self::Application | Self::Overloaded | Self::Deadline => true,
        }
    }

    /// As in logs, metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Application => "application",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an attempt's end says. `reason`: why this proxy ended it, if it did; it goes first. Then `grpc`, the status of a
/// gRPC response if it has one, then the `status` of its head. The reasons that a peer's sidecar sent with its own answer
/// do not belong here, but to [`verdict_of_peer`].
pub fn verdict(reason: Option<Reason>, grpc: Option<Code>, status: Option<StatusCode>) -> Verdict {
    match (reason, grpc, status) {
        (Some(reason), ..) => of_reason(reason),
        (None, Some(code), _) => of_grpc(code),
        (None, None, Some(status)) => of_status(status),
        (None, None, None) => Verdict::Ignored,
    }
}

/// What the answer says that a peer's sidecar gave in place of its application, and why it did. An application that refuses
/// connections is not there, as if its sidecar were not: no other has to do better. The rest is a status like any; so is
/// an application that lets connections wait, which may just have too much to do, as the others have.
pub fn verdict_of_peer(reason: Reason, status: StatusCode) -> Verdict {
    match reason {
        Reason::ConnectFailed => Verdict::Failure(Failure::Connect),
        _ => of_status(status),
    }
}

fn of_reason(reason: Reason) -> Verdict {
    match reason {
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::TlsFailed | Reason::PeerRejected => {
            Verdict::Failure(Failure::Connect)
        }
        Reason::UpstreamReset | Reason::ResponseTruncated => Verdict::Failure(Failure::Reset),
        Reason::PerTryTimeout | Reason::RequestTimeout => Verdict::Failure(Failure::Timeout),
        Reason::BadResponse | Reason::StreamReset | Reason::GrpcStatusMissing => {
            Verdict::Failure(Failure::Application)
        }
        Reason::DeadlineExceeded | Reason::StreamTimeout => Verdict::Failure(Failure::Deadline),
        Reason::BadRequest
        | Reason::HeadTooLarge
        | Reason::HeaderTimeout
        | Reason::BodyTimeout
        | Reason::UnsupportedProtocol
        | Reason::LoopDetected
        | Reason::ExternalDenied
        | Reason::ClientClosed
        | Reason::NoRoute
        | Reason::UnknownService
        | Reason::NotReady
        | Reason::DiscoveryTimeout
        | Reason::ControlPlaneAway
        | Reason::ConnectionLimit
        | Reason::RequestLimit
        | Reason::PendingLimit
        | Reason::ProxyOverloaded
        | Reason::Overloaded
        | Reason::Draining
        | Reason::InternalError
        | Reason::NoEndpoint
        | Reason::NameUnresolved
        | Reason::IdleTimeout
        | Reason::Stopped => Verdict::Ignored,
    }
}

/// The codes that are the server's doing; the others answer what the client asked.
fn of_grpc(code: Code) -> Verdict {
    match code {
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Verdict::Success,
        Code::Cancelled => Verdict::Ignored,
        Code::Unknown | Code::Internal | Code::DataLoss => Verdict::Failure(Failure::Application),
        Code::Unavailable | Code::ResourceExhausted => Verdict::Failure(Failure::Overloaded),
        Code::DeadlineExceeded => Verdict::Failure(Failure::Deadline),
    }
}

fn of_status(status: StatusCode) -> Verdict {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Verdict::Failure(Failure::Overloaded)
        }
        // As UNIMPLEMENTED in gRPC: it depends on what was asked.
        StatusCode::NOT_IMPLEMENTED => Verdict::Success,
        status if status.is_server_error() => Verdict::Failure(Failure::Application),
        _ => Verdict::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Verdict {
        verdict(None, None, Some(StatusCode::from_u16(status).unwrap()))
    }

    #[test]
    fn answers_are_judged_by_their_status() {
        for good in [101, 200, 204, 301, 400, 404, 408, 499, 501] {
            assert_eq!(status(good), Verdict::Success, "{good}");
        }
        for broken in [500, 502, 504, 507, 599] {
            assert_eq!(status(broken), Verdict::Failure(Failure::Application), "{broken}");
        }
        for overloaded in [429, 503] {
            assert_eq!(status(overloaded), Verdict::Failure(Failure::Overloaded), "{overloaded}");
        }
        assert_eq!(verdict(None, None, None), Verdict::Ignored);
    }

    #[test]
    fn a_grpc_status_goes_before_the_200_that_carries_it() {
        let grpc = |code| verdict(None, Some(code), Some(StatusCode::OK));
        assert_eq!(grpc(Code::Ok), Verdict::Success);
        assert_eq!(grpc(Code::NotFound), Verdict::Success);
        assert_eq!(grpc(Code::Internal), Verdict::Failure(Failure::Application));
        assert_eq!(grpc(Code::Unavailable), Verdict::Failure(Failure::Overloaded));
        assert_eq!(grpc(Code::ResourceExhausted), Verdict::Failure(Failure::Overloaded));
        assert_eq!(grpc(Code::Cancelled), Verdict::Ignored);
    }

    #[test]
    fn a_reason_goes_before_everything_and_a_client_that_leaves_never_counts() {
        let ended = |reason| verdict(Some(reason), Some(Code::Ok), Some(StatusCode::OK));
        assert_eq!(ended(Reason::ClientClosed), Verdict::Ignored);
        assert_eq!(ended(Reason::RequestLimit), Verdict::Ignored);
        assert_eq!(ended(Reason::ConnectTimeout), Verdict::Failure(Failure::Connect));
        assert_eq!(ended(Reason::ResponseTruncated), Verdict::Failure(Failure::Reset));
        assert_eq!(ended(Reason::PerTryTimeout), Verdict::Failure(Failure::Timeout));
        assert_eq!(ended(Reason::DeadlineExceeded), Verdict::Failure(Failure::Deadline));
    }

    #[test]
    fn a_sidecar_without_an_application_is_as_good_as_none_and_the_rest_of_what_it_says_is_a_status() {
        let said = |reason: Reason| verdict_of_peer(reason, reason.status().unwrap());
        assert_eq!(said(Reason::ConnectFailed), Verdict::Failure(Failure::Connect));
        assert_ne!(said(Reason::ConnectTimeout), Verdict::Failure(Failure::Connect), "its queue may be full");
        assert_eq!(said(Reason::Overloaded), Verdict::Failure(Failure::Overloaded));
        assert_eq!(said(Reason::Draining), Verdict::Failure(Failure::Overloaded));
        assert_eq!(said(Reason::UpstreamReset), Verdict::Failure(Failure::Application));
        assert_eq!(said(Reason::BadRequest), Verdict::Success);
    }

    #[test]
    fn whoever_is_to_blame_for_a_reason_it_is_not_the_endpoint_if_it_is_the_client() {
        for reason in Reason::ALL.iter().filter(|reason| reason.blame() == crate::reason::Blame::Client) {
            match verdict(Some(*reason), None, None) {
                Verdict::Ignored => {}
                Verdict::Failure(failure) => assert!(failure.is_relative(), "{reason}"),
                Verdict::Success => panic!("{reason}"),
            }
        }
    }
}
