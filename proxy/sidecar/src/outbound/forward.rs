//! One request to a destination of the mesh: attempts, until one has an answer to deliver.

use std::sync::Arc;

use http::{HeaderMap, Request, StatusCode, Version, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use outrigger_core::{deadline, reason::Reason, telemetry::timing};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Answer, Outbound,
    destination::{Choice, MeshPort},
    leg::{Prepared, edit_response},
};
use crate::{
    carry,
    endpoint::EndpointState,
    headers,
    snapshot::EndpointSetEntry,
    telemetry::Exchange,
    upstream::{self, Attempt, Demand, Failed, Head},
};

impl Outbound {
    pub(super) async fn forward(
        &self,
        request: Request<Incoming>,
        port: &MeshPort,
        exchange: &mut Exchange,
    ) -> Result<Answer, Reason> {
        let choice = port.choose(&request)?;
        exchange.note(|record| record.edges = Some(Arc::clone(choice.edges())));
        let mut prepared = self.prepare(request, (port, choice), exchange)?;
        let set = choice.set()?;
        let requests = set.set.resilience.limits.requests;
        let counted = set.destination.request(requests).ok_or(Reason::RequestLimit)?;
        exchange.hold_counted(counted);
        let upgrade = prepared.upgrade.take();
        let limit = prepared.deadline.limit();
        let attempts = Attempts { outbound: self, port, set, prepared };
        let answered = attempts.run(exchange).await.map_err(|failed| failed.reason)?;
        let deadline = limit.map(|limit| Instant::from_std(limit.at));
        self.deliver(answered, choice, (upgrade, deadline), exchange)
    }

    /// Makes a peer's answer one for the own workload.
    fn deliver(
        &self,
        answered: upstream::Answer,
        choice: Choice<'_>,
        (upgrade, deadline): (Option<OnUpgrade>, Option<Instant>),
        exchange: &mut Exchange,
    ) -> Result<Answer, Reason> {
        let upstream::Answer { mut head, body, occupied } = answered;
        self.read_figures(&head.headers, exchange);
        if let Some((reason, _unprocessed)) = headers::peer_reason(&head.headers) {
            exchange.note(|record| record.refuse(reason));
            if exchange.is_grpc() {
                exchange.hold_upstream(occupied);
                return Err(reason);
            }
        }
        let switched = head.headers.get(header::UPGRADE).cloned();
        let upstream = head.extensions.remove::<OnUpgrade>();
        headers::outbound_response(&mut head.headers);
        edit_response(choice.rule, &mut head.headers);
        head.version = Version::HTTP_11;
        let cut = occupied.cut();
        exchange.hold_upstream(occupied);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(protocol), Some(downstream), Some(upstream)) = (switched, upgrade, upstream) else {
                return Err(Reason::BadResponse);
            };
            headers::switch(&mut head.headers, protocol);
            exchange.answered(head.status, &head.headers);
            let switched = exchange.switch();
            let idle = choice.set()?.set.resilience.timeouts.idle.unwrap_or(self.shared.limits.stream_idle);
            self.shared.tasks.spawn(async move {
                carry::upgraded::<TcpStream>(downstream, upstream, idle, cut.cancelled(), switched).await;
            });
            return Ok(Answer::Switched(Box::new(head)));
        }
        Ok(Answer::Upstream(Box::new(head), body, deadline))
    }

    /// The peer is authenticated and the connection our own: its figures are read here, and stripped with all others.
    fn read_figures(&self, headers: &HeaderMap, exchange: &mut Exchange) {
        match headers.get(timing::HEADER).map(timing::parse) {
            Some(Ok(figures)) => exchange.set_figures(figures),
            Some(Err(_)) => {
                self.shared.telemetry.metrics().timings_invalid.inc();
            }
            None => {}
        }
    }
}

/// The attempts of one request.
struct Attempts<'a> {
    outbound: &'a Outbound,
    port: &'a MeshPort,
    set: &'a EndpointSetEntry,
    prepared: Prepared,
}

impl Attempts<'_> {
    async fn run(self, exchange: &mut Exchange) -> Result<upstream::Answer, Failed> {
        let mut left = self.set.set.resilience.retry.attempts;
        loop {
            exchange.note(|record| record.attempts += 1);
            let picked = self.set.pick(rand::random());
            let (endpoint, state) = picked.ok_or(Failed::before(Reason::NoEndpoint))?;
            exchange.note(|record| {
                record.upstream = Some(endpoint.address);
                record.upstream_identity = Some(endpoint.identity.clone());
            });
            let head = self.head();
            match self.once(state, head, exchange).await {
                Err(failed)
                    if failed.unprocessed
                        && left > 0
                        && !matches!(failed.reason, Reason::TlsFailed | Reason::PeerRejected)
                        && self.prepared.upload.is_replayable() =>
                {
                    left -= 1;
                    self.prepared.upload.rewind();
                }
                done => {
                    self.prepared.upload.settle();
                    return done;
                }
            }
        }
    }

    /// The head for the next attempt, with what is left of the deadline.
    fn head(&self) -> Head {
        let mut head = self.prepared.head.clone();
        let per_try = self.set.set.resilience.timeouts.per_try;
        let now = Instant::now().into_std();
        let remaining = self.prepared.deadline.attempt(now, per_try).remaining(now);
        deadline::header::write(&mut head.headers, self.prepared.grpc, remaining);
        head
    }

    async fn once(
        &self,
        state: &Arc<EndpointState>,
        head: Head,
        exchange: &mut Exchange,
    ) -> Result<upstream::Answer, Failed> {
        let shared = &self.outbound.shared;
        let resilience = &self.set.set.resilience;
        let in_flight = state.begin();
        let peer = self.outbound.pools.of(state, &self.set.destination, shared);
        let attempt = Attempt {
            upstream: &*peer,
            leg: self.prepared.leg,
            demand: Demand {
                max_idle: shared.limits.pool_idle,
                keep: shared.limits.pool_idle,
                connect_timeout: resilience.timeouts.connect.unwrap_or(self.port.config().connect_timeout),
                queue_timeout: shared.limits.queue_timeout,
                connections: resilience.limits.connections,
                pending: resilience.limits.pending,
            },
            limits: &shared.limits,
            telemetry: &shared.telemetry,
            counts_informational: false,
        };
        let limit =
            self.prepared.deadline.attempt(Instant::now().into_std(), resilience.timeouts.per_try).limit();
        let sent = attempt.send(head, &self.prepared.upload, exchange);
        let mut answer = match limit {
            Some(limit) => timeout_at(Instant::from_std(limit.at), sent)
                .await
                .map_err(|_elapsed| Failed::after(limit.reason))??,
            None => sent.await?,
        };
        if let upstream::Occupied::Http1(lease) = &mut answer.occupied {
            lease.set_keep(shared.limits.pool_idle);
        }
        if let Some((reason, true)) = headers::peer_reason(&answer.head.headers) {
            tracing::debug!(%reason, "peer could not hand the request over");
        }
        exchange.hold_in_flight(in_flight);
        Ok(answer)
    }
}
