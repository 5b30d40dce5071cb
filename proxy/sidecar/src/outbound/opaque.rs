//! Bytes that are not HTTP, or not said to be: carried between two applications as they are, with mutual TLS between
//! the sidecars.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_core::{
    model::TrafficLimits,
    outlier::{self, verdict},
    reason::Reason,
    retry::{Outcome, Retries, Situation, Tried, Verdict},
    telemetry::Class,
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{Downstream, Outbound, destination::MeshPort};
use crate::{
    carry,
    endpoint::{Counted, Trial},
    http::Transport as _,
    tcp::Side,
    telemetry::{Direction, Exchange, Record},
    upstream::{Connected, Room},
};

impl Outbound {
    /// Carries a connection to one endpoint of `port`, to its end.
    pub(super) async fn serve_opaque(
        self: Arc<Self>,
        stream: TcpStream,
        prefix: Bytes,
        downstream: Downstream,
        port: &MeshPort,
    ) {
        let mut record = Record::new(Direction::Outbound, downstream.party(&self.shared.identity));
        record.class = Class::Tcp;
        record.generation = port.generation();
        let mut exchange = Exchange::begin(&self.shared.telemetry, &Arc::default(), record);
        let connected = match self.reach(port, &mut exchange).await {
            Ok(connected) => connected,
            Err(reason) => {
                // An end without a word could be taken for an answer.
                stream.reset_on_close();
                return exchange.over(0, 0, Some(reason));
            }
        };
        let idle = port.whole().and_then(|choice| choice.set());
        let idle = idle.ok().and_then(|set| set.set.resilience.timeouts.idle);
        let idle = idle.unwrap_or(self.shared.limits.stream_idle);
        let (connected, counted) = connected;
        let (io, _standing, cut) = connected.split();
        carry::opaque(Side::new(stream, prefix), io, idle, cut, exchange).await;
        drop((downstream.occupied, counted));
    }

    /// A connection to one of the endpoints: where one cannot be had, to another.
    async fn reach(&self, port: &MeshPort, exchange: &mut Exchange) -> Result<(Connected, Counted), Reason> {
        let choice = port.whole()?;
        exchange.note(|record| record.edges = Some(Arc::clone(choice.edges())));
        let set = choice.set()?;
        let resilience = &set.set.resilience;
        let counted = set.destination.request(resilience.limits.requests).ok_or(Reason::RequestLimit)?;
        exchange.hold_counted(counted);
        let connect_timeout = resilience.timeouts.connect.unwrap_or(port.config().connect_timeout);
        set.destination.budget.request(Instant::now().into_std());
        let mut retries = Retries::new(&resilience.retry, false);
        let mut tried = Tried::new();
        loop {
            let started = Instant::now();
            let picked = set.pick(started.into_std(), &mut tried, rand::random());
            let picked = picked.ok_or(Reason::NoEndpoint)?;
            exchange.note(|record| {
                record.attempts = retries.made() + 1;
                record.upstream = Some(Arc::clone(picked.state.party()));
            });
            exchange.stamp(|stamps| stamps.begin_attempt(started.into_std()));
            let destination = (&set.destination, &set.set);
            let admitted = (picked.accrual, picked.admission);
            exchange.hold_trial(Trial::begin(destination, picked.state, admitted, started.into_std()));
            let peer = self.pools.of(picked.state, &set.destination, &self.shared);
            let TrafficLimits { connections, pending, .. } = resilience.limits;
            let room = Room { connections, pending, queue_timeout: self.shared.limits.queue_timeout };
            let place = peer.place(room).await;
            let placed = Instant::now();
            let connected = match place {
                Ok(place) => peer.raw(connect_timeout, place).await,
                Err(reason) => Err(reason),
            };
            let now = Instant::now();
            exchange.stamp(|stamps| {
                (stamps.queued, stamps.connecting) = (placed - started, now - placed);
                stamps.handed_on = connected.is_ok().then(|| now.into_std());
            });
            let how = connected
                .as_ref()
                .err()
                .map_or(outlier::Verdict::Success, |reason| verdict(Some(*reason), None, None));
            if let Some(trial) = exchange.trial() {
                trial.handed_on(Some(placed.into_std()));
                trial.judge(now.into_std(), how);
            }
            let reason = match connected {
                Ok(connected) => return Ok(connected),
                Err(reason) => reason,
            };
            let untried = set.has_untried(now.into_std(), &tried);
            let situation = Situation {
                replayable: true,
                remaining: None,
                untried,
                relief: untried,
                pushback: None,
                random: rand::random(),
            };
            let Verdict::Retry { after } = retries.next(Outcome::of(reason), &situation) else {
                return Err(reason);
            };
            if !set.destination.budget.try_retry(now.into_std(), &resilience.budget) {
                self.shared.telemetry.metrics().retries_over_budget.inc();
                return Err(reason);
            }
            self.shared.telemetry.metrics().retries.inc();
            sleep(after).await;
        }
    }
}
