//! Bytes that are not HTTP, or not said to be: carried between two applications as they are, with mutual TLS between
//! the sidecars.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_core::{reason::Reason, telemetry::Class};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{Downstream, Outbound, destination::MeshPort};
use crate::{
    carry,
    http::Transport as _,
    tcp::Side,
    telemetry::{Direction, Exchange, Record},
    upstream::Connected,
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
        let mut record = Record::new(Direction::Outbound, downstream.peer);
        record.class = Class::Tcp;
        record.downstream_identity = self.shared.identity.id();
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
        let (io, _retired, cut) = connected.split();
        carry::opaque(Side::new(stream, prefix), io, idle, cut, exchange).await;
        drop(downstream.occupied);
    }

    /// A connection to one of the endpoints: where one cannot be had, to another.
    async fn reach(&self, port: &MeshPort, exchange: &mut Exchange) -> Result<Connected, Reason> {
        let choice = port.whole()?;
        exchange.note(|record| record.edges = Some(Arc::clone(choice.edges())));
        let set = choice.set()?;
        let resilience = &set.set.resilience;
        let counted = set.destination.request(resilience.limits.requests).ok_or(Reason::RequestLimit)?;
        exchange.hold_counted(counted);
        let connect_timeout = resilience.timeouts.connect.unwrap_or(port.config().connect_timeout);
        let (endpoint, state) = set.pick(rand::random()).ok_or(Reason::NoEndpoint)?;
        exchange.note(|record| {
            record.upstream = Some(endpoint.address);
            record.upstream_identity = Some(endpoint.identity.clone());
        });
        let peer = self.pools.of(state, &set.destination, &self.shared);
        let started = Instant::now();
        exchange.stamp(|stamps| {
            stamps.first_attempt.get_or_insert(started.into_std());
            stamps.attempt = Some(started.into_std());
        });
        let connected = timeout(connect_timeout, peer.raw()).await;
        exchange.stamp(|stamps| stamps.connecting = started.elapsed());
        exchange.hold_in_flight(state.begin());
        connected.map_err(|_elapsed| Reason::ConnectTimeout)?
    }
}
