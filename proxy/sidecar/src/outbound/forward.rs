//! One request to a destination of the mesh: attempts, until one has an answer to deliver.

use std::{pin::Pin, sync::Arc};

use http::{HeaderMap, Request, StatusCode, Version, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use outrigger_core::{reason::Reason, telemetry::timing};
use tokio::{net::TcpStream, time::Instant};

use super::{
    Answer, Outbound, Refusal,
    attempts::Attempts,
    destination::{Choice, MeshPort},
    leg::edit_response,
};
use crate::{
    carry, headers,
    http::{Shape, ask_patience},
    telemetry::Exchange,
    upstream::{self, Occupied},
};

/// A request under way to its peer.
type Forwarding<'a> = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send + 'a>>;

impl Outbound {
    /// What can be said at once is said at once: what is returned, which is made for every request and moved as a whole, is of what
    /// waits only.
    pub(super) fn forward<'a>(
        &'a self,
        request: Request<Incoming>,
        port: &'a MeshPort,
        exchange: &'a mut Exchange,
    ) -> Result<Forwarding<'a>, Refusal> {
        let choice = port.choose(&request)?;
        exchange.note(|record| record.edges = Some(Arc::clone(choice.edges())));
        let mut prepared = self.prepare(request, (port, choice), exchange)?;
        let set = choice.set()?;
        let requests = set.set.resilience.limits.requests;
        let counted = set.destination.request(requests).ok_or(Reason::RequestLimit)?;
        exchange.hold_counted(counted);
        let upgrade = prepared.upgrade.take();
        let deadline = prepared.deadline.limit().map(|limit| Instant::from_std(limit.at));
        let mut attempts = Attempts::new(self, (port, set), prepared);
        Ok(Box::pin(async move {
            let answered = attempts.run(exchange).await.map_err(|failed| failed.reason)?;
            self.deliver(answered, choice, (upgrade, deadline), exchange)
        }))
    }

    /// Makes a peer's answer one for the own workload.
    fn deliver(
        &self,
        answered: upstream::Answer,
        choice: Choice<'_>,
        (upgrade, deadline): (Option<OnUpgrade>, Option<Instant>),
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let upstream::Answer { mut head, body, occupied, refused } = answered;
        self.take_figures(&mut head.headers, exchange);
        let mut deadline = deadline;
        if let Some((reason, _unprocessed)) = refused {
            exchange.note(|record| record.refuse(reason));
            if exchange.is_grpc() {
                // Said again in gRPC's words.
                return Err(Refusal { reason, of_peer: true });
            }
            // A few bytes that say that it is over may come when it is.
            deadline = None;
        }
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let switched = switches.then(|| head.headers.get(header::UPGRADE).cloned()).flatten();
        let upstream = head.extensions.remove::<OnUpgrade>();
        headers::outbound_response(&mut head.headers);
        if refused.is_some_and(|(reason, _)| reason.is_want_of_room_there()) {
            ask_patience(Shape::Text, &mut head.headers);
        }
        edit_response(choice.rule, &mut head.headers);
        head.version = Version::HTTP_11;
        let cut = occupied.as_ref().filter(|_| switches).map(Occupied::cut);
        exchange.hold_upstream(occupied);
        if switches {
            let (Some(protocol), Some(downstream), Some(upstream)) = (switched, upgrade, upstream) else {
                return Err(Reason::BadResponse.into());
            };
            headers::switch(&mut head.headers, protocol);
            exchange.answered(head.status, &head.headers, Instant::now());
            let switched = exchange.switch();
            let idle = choice.set()?.set.resilience.timeouts.idle.unwrap_or(self.shared.limits.stream_idle);
            self.shared.tasks.spawn(async move {
                let cut = cut.unwrap_or_default();
                carry::upgraded::<TcpStream>(downstream, upstream, idle, cut.cancelled(), switched).await;
            });
            return Ok(Answer::Switched(Box::new(head)));
        }
        Ok(Answer::Upstream(Box::new(head), body, deadline))
    }

    /// The peer is authenticated and the connection our own: its figures are believed. They go no further.
    fn take_figures(&self, headers: &mut HeaderMap, exchange: &mut Exchange) {
        match headers.remove(timing::HEADER).as_ref().map(timing::parse) {
            Some(Ok(figures)) => exchange.set_figures(figures),
            Some(Err(_)) => {
                self.shared.telemetry.metrics().timings_invalid.inc();
            }
            None => {}
        }
    }
}
