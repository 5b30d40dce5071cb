//! The end of an attempt -> deliver it, or try again, and when.
//!
//! [`Retries`] decides for one request; what it allows, the destination's [`Budget`] may still refuse:
//!
//! ```text
//! attempt ends -> Retries::next -> Deliver
//!                               -> Retry { after } -> Budget::try_retry -> no: deliver
//!                                                                       -> yes: wait, another endpoint, attempt
//! ```
//!
//! The bias is to do no harm: a request of which an application may have seen something is sent again only if its method
//! is idempotent (RFC 9110 §9.2.2) and its policy says so.

mod budget;
mod pushback;
mod tried;

pub use budget::Budget;
pub use pushback::{GRPC_PUSHBACK, MAX_PUSHBACK, Pushback, pushback};
pub use tried::Tried;

use std::time::Duration;

use http::StatusCode;

use crate::{model::Retry, reason::Reason};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No application saw anything of the request: the connection could not be made in time or at all, the stream was
    /// refused, or an authenticated peer says that it handed nothing over.
    Unprocessed,
    /// The connection broke after the request was handed over and before the response's head.
    Reset,
    /// The attempt took longer than one may: treated as [`Reset`](Self::Reset).
    PerTryTimeout,
    /// An authenticated peer says that it has no room for it: treated as [`Unprocessed`](Self::Unprocessed), where somebody
    /// else may have.
    Refused,
    /// A response's head came. A gRPC status counts as [`Code::http_status`](crate::grpc::Code::http_status).
    Status(StatusCode),
    /// A limit of ours at the destination: other endpoints have it too.
    Limited,
    /// Anything else: no other attempt could end better, or the request is over.
    Final,
}

impl Outcome {
    /// Of an attempt that ended without a response.
    pub const fn of(reason: Reason) -> Self {
        match reason {
            Reason::ConnectFailed | Reason::ConnectTimeout | Reason::TlsFailed | Reason::PeerRejected => {
                Self::Unprocessed
            }
            Reason::UpstreamReset | Reason::BadResponse => Self::Reset,
            Reason::PerTryTimeout => Self::PerTryTimeout,
            Reason::ConnectionLimit | Reason::RequestLimit | Reason::PendingLimit => Self::Limited,
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
            | Reason::Draining
            | Reason::ProxyOverloaded
            | Reason::Overloaded
            | Reason::InternalError
            | Reason::NoEndpoint
            | Reason::NameUnresolved
            | Reason::ResponseTruncated
            | Reason::RequestTimeout
            | Reason::DeadlineExceeded
            | Reason::StreamTimeout
            | Reason::StreamReset
            | Reason::GrpcStatusMissing
            | Reason::IdleTimeout
            | Reason::Stopped => Self::Final,
        }
    }
}

/// What holds at the end of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// Whether the request can be sent again: it has no body, or all that was read of it is kept.
    pub replayable: bool,
    /// What is left of the request's deadline; `None`: there is none.
    pub remaining: Option<Duration>,
    /// Whether an endpoint is available that this request has not tried.
    pub untried: bool,
    /// Whether one of those may have room (see [`has_relief`](crate::overload::has_relief)).
    pub relief: bool,
    /// What the response says about trying again (see [`pushback()`]).
    pub pushback: Option<Pushback>,
    /// Uniform over all of `u64`.
    pub random: u64,
}

/// What to do with the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Hand it to the client as it is.
    Deliver,
    /// Begin another attempt after so long, if the budget allows it; else deliver.
    Retry {
        /// The pause. It ends before the deadline.
        after: Duration,
    },
}

/// The retries of one request.
#[derive(Debug, Clone)]
pub struct Retries<'p> {
    policy: &'p Retry,
    idempotent: bool,
    /// How many were begun.
    made: u32,
    /// Whether one went without a pause.
    hurried: bool,
}

impl<'p> Retries<'p> {
    /// Of a request whose method is `idempotent` or not ([`http::Method::is_idempotent`]).
    pub fn new(policy: &'p Retry, idempotent: bool) -> Self {
        Self { policy, idempotent, made: 0, hurried: false }
    }

    /// How many retries were allowed so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Takes the end of an attempt and says what to do with it. After [`Verdict::Deliver`] it is not asked again.
    ///
    /// The first retry goes at once if nothing was processed and another endpoint is there; each other one after a pause
    /// with full jitter, or after what the server asks for, exactly. A pause that would not end before the deadline is
    /// no retry.
    pub fn next(&mut self, outcome: Outcome, situation: &Situation) -> Verdict {
        if self.made >= self.policy.attempts
            || !situation.replayable
            || !self.may_retry(outcome, situation.relief)
        {
            return Verdict::Deliver;
        }
        let at_once =
            matches!(outcome, Outcome::Unprocessed | Outcome::Refused) && situation.untried && !self.hurried;
        let after = match situation.pushback {
            Some(Pushback::Never) => return Verdict::Deliver,
            Some(Pushback::After(asked)) if asked > MAX_PUSHBACK => return Verdict::Deliver,
            Some(Pushback::After(asked)) => asked,
            None if at_once => Duration::ZERO,
            None => self.backoff(situation.random),
        };
        if situation.remaining.is_some_and(|remaining| after >= remaining) {
            return Verdict::Deliver;
        }
        self.made += 1;
        self.hurried |= at_once;
        Verdict::Retry { after }
    }

    fn may_retry(&self, outcome: Outcome, relief: bool) -> bool {
        match outcome {
            Outcome::Unprocessed => true,
            Outcome::Refused => relief,
            Outcome::Reset | Outcome::PerTryTimeout => self.idempotent && self.policy.reset,
            Outcome::Status(status) => self.idempotent && self.policy.statuses.contains(&status.as_u16()),
            Outcome::Limited | Outcome::Final => false,
        }
    }

    /// Uniform in 0 ..= min(base * 2^(n - 1), max), n the number of the retry to come, from 1 (full jitter).
    fn backoff(&self, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(self.made).unwrap_or(u32::MAX);
        let longest = self.policy.backoff_base.saturating_mul(factor).min(self.policy.backoff_max);
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX - 1);
        // The high half of the product is uniform in 0 ..= longest.
        let nanos = (u128::from(random) * (u128::from(longest) + 1)) >> 64;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(longest))
    }
}

#[cfg(test)]
mod tests;
