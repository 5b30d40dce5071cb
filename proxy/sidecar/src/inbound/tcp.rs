//! Opaque bytes from a peer to the application, and back.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_core::telemetry::Class;

use super::{Inbound, Peer, forward::CONNECT_TIMEOUT};
use crate::{
    carry,
    http::{Limits, Transport as _},
    tcp::Side,
    telemetry::{Direction, Exchange, Party, Record},
    trust::Trusted,
    upstream::Room,
};

impl Inbound {
    /// Carries one connection to its end.
    pub(super) async fn serve_tcp(&self, peer: Peer, mut trusted: Trusted) {
        let Peer { address, identity, stream, .. } = peer;
        let mut record = Record::new(Direction::Inbound, Party::downstream(address, Some(identity)));
        record.class = Class::Tcp;
        record.generation = self.shared.snapshot.load().generation;
        record.upstream = Some(Arc::clone(&self.application.connector().party));
        let exchange = Exchange::begin(&self.shared.telemetry, &Arc::default(), record);
        let Limits { app_connections, app_pending, queue_timeout, .. } = self.shared.limits;
        let room = Room { connections: app_connections, pending: app_pending, queue_timeout };
        let connected = match self.application.place(room).await {
            Ok(place) => self.application.raw(CONNECT_TIMEOUT, place).await,
            Err(reason) => Err(reason),
        };
        match connected {
            Ok((connected, counted)) => {
                let idle = self.shared.limits.inbound_idle;
                let downstream = Side::new(stream, Bytes::new());
                Box::pin(carry::opaque(downstream, connected.io, idle, trusted.cut(), exchange)).await;
                drop(counted);
            }
            Err(reason) => {
                // The caller must see that nobody is there, and not an application that says nothing.
                stream.reset_on_close();
                exchange.over(0, 0, Some(reason));
            }
        }
    }
}
