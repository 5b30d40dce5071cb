//! Whether a request is taken at all. What is refused here has cost no more than its head.

use http::{Request, Response, header};
use hyper::body::Incoming;
use outrigger_core::{grpc, reason::Reason};

use super::{Inbound, forward::refuse};
use crate::{
    headers,
    http::{ResponseBody, Shape},
    overload::{Place, Refused},
    telemetry::Exchange,
    upstream::{Answer, Failed},
};

/// gRPC's health checks (`grpc.health.v1`) go on for as long as anything does: a workload that is busy is not dead.
const HEALTH: &str = "/grpc.health.v1.Health/";

impl Inbound {
    /// The request's place at the application, if there is a limit on it.
    pub(super) fn admit(
        &self,
        request: &Request<Incoming>,
        exchange: &Exchange,
    ) -> Result<Option<Place>, Refused> {
        let now = exchange.head_read().into_std();
        let refusable = !is_health_check(request);
        if let Some(line) = self.line.as_ref().filter(|_| refusable) {
            line.admit(now)?;
        }
        let Some(concurrency) = &self.concurrency else {
            return Ok(None);
        };
        Place::take(concurrency, now, refusable, &self.shared.telemetry).map(Some)
    }
}

fn is_health_check<B>(request: &Request<B>) -> bool {
    request.uri().path().starts_with(HEALTH) && grpc::is_grpc(request.headers().get(header::CONTENT_TYPE))
}

/// Says so to the caller's sidecar, which may ask somebody else.
pub(super) fn refuse_for_now(refused: Refused, shape: Shape, exchange: Exchange) -> Response<ResponseBody> {
    let Refused { reason, lasting } = refused;
    let mut response = refuse(Failed::before(reason), shape, exchange);
    if lasting {
        response.headers_mut().insert(headers::RETRY, headers::NEVER);
    }
    response
}

/// Gives a request's place back: with the answer that came, or with what it ended with in its place.
pub(super) fn give_back(end: &Result<Answer, Failed>, exchange: &mut Exchange) {
    match end {
        Ok(Answer { head, .. }) => {
            let grpc = exchange.is_grpc().then(|| grpc::status(&head.headers)).flatten();
            let status = grpc.map_or(head.status, grpc::Code::http_status);
            exchange.leave_answered(status);
        }
        // Nobody waited any longer, or the application had no connection for it.
        Err(Failed {
            reason:
                Reason::RequestTimeout
                | Reason::DeadlineExceeded
                | Reason::ConnectTimeout
                | Reason::ConnectionLimit,
            ..
        }) => exchange.leave_late(),
        Err(_) => exchange.hold_place(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_is_one_of_grpc_and_no_other() {
        for (path, kind, expected) in [
            ("/grpc.health.v1.Health/Check", "application/grpc", true),
            ("/grpc.health.v1.Health/Watch", "application/grpc+proto", true),
            ("/grpc.health.v1.Health/Check", "text/plain", false),
            ("/grpc.health.v1.HealthX/Check", "application/grpc", false),
            ("/demo.Price/Get", "application/grpc", false),
            ("/healthz", "application/grpc", false),
        ] {
            let request = Request::get(path).header(header::CONTENT_TYPE, kind).body(()).unwrap();
            assert_eq!(is_health_check(&request), expected, "{path} {kind}");
        }
    }
}
