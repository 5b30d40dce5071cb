//! Connections to one upstream, kept by one worker: HTTP/2 ones that many requests share, HTTP/1 ones with one request
//! at a time, and bare ones for opaque bytes. Making one is nobody's own affair: whoever waits takes what comes first.

mod attempt;
mod body;
mod connect;
mod ending;
mod failure;
mod http1;
mod http2;
mod patient;
#[cfg(test)]
mod testing;

use std::{sync::Arc, time::Duration};

use outrigger_core::reason::Reason;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    endpoint::{Counted, DestinationState},
    http::Limits,
};

pub(crate) use attempt::{Answer, Attempt, Demand, Head, Leg};
pub(crate) use body::{Kept, UpstreamBody};
pub(crate) use connect::{Connect, Connected, FirstWord, Io, Protocol, Trust};
pub(crate) use failure::Failed;
pub(crate) use http1::Lease;
pub(crate) use http2::Stream;
pub(crate) use patient::Patient;

use http1::LOOK;

/// The connections to one upstream.
#[derive(Debug)]
pub(crate) struct Upstream<C> {
    connect: Arc<C>,
    destination: Arc<DestinationState>,
    http1: Arc<http1::Pool<C>>,
    http2: Arc<http2::Multiplexer<C>>,
}

impl<C: Connect> Upstream<C> {
    /// Without a connection yet; those that `connect` makes are counted at `destination`. HTTP/1 ones hold at most
    /// `buffer` bytes in each direction.
    pub(crate) fn new(
        connect: C,
        destination: &Arc<DestinationState>,
        limits: &Limits,
        buffer: usize,
    ) -> Self {
        let connect = Arc::new(connect);
        Self {
            http1: http1::Pool::new(Arc::clone(&connect), Arc::clone(destination), (limits, buffer)),
            http2: http2::Multiplexer::new(Arc::clone(&connect), Arc::clone(destination), limits),
            destination: Arc::clone(destination),
            connect,
        }
    }

    /// What makes its connections.
    pub(crate) fn connector(&self) -> &C {
        &self.connect
    }

    /// Whether nothing would be lost with it: no connection, and nobody who waits for one.
    pub(crate) fn is_unused(&self) -> bool {
        self.http1.is_unused() && self.http2.is_unused()
    }

    /// The right to a connection for opaque bytes.
    pub(crate) async fn place(&self, room: Room) -> Result<Counted, Reason> {
        let destination = &self.destination;
        if let Some(counted) = destination.connection(room.connections) {
            return Ok(counted);
        }
        let _pending = destination.pending(room.pending).ok_or(Reason::PendingLimit)?;
        let end = Instant::now() + room.queue_timeout;
        loop {
            let now = Instant::now();
            let in_vain = timeout_at(end.min(now + LOOK), destination.freed()).await.is_err();
            if let Some(counted) = destination.connection(room.connections) {
                return Ok(counted);
            }
            if in_vain && now + LOOK >= end {
                return Err(Reason::ConnectionLimit);
            }
            if in_vain {
                destination.make_room(LOOK);
            }
        }
    }

    /// A connection for opaque bytes, not shared and not kept, by the right to it.
    pub(crate) async fn raw(
        &self,
        connect_timeout: Duration,
        place: Counted,
    ) -> Result<(Connected, Counted), Reason> {
        let connected = timeout(connect_timeout, self.connect.connect(Protocol::Raw)).await;
        Ok((connected.unwrap_or(Err(Reason::ConnectTimeout))?, place))
    }
}

/// Which room there is for a connection of one's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// At the destination, at most so many.
    pub(crate) connections: u32,
    /// So many may wait for one.
    pub(crate) pending: u32,
    /// For so long.
    pub(crate) queue_timeout: Duration,
}

/// What an exchange has of its upstream until the response's last byte came.
#[derive(Debug)]
pub(crate) enum Occupied {
    /// A connection of its own.
    Http1(Lease),
    /// A stream among others: given back when it is dropped.
    Http2(#[expect(dead_code, reason = "its end is what counts")] Stream),
}

impl Occupied {
    /// Cancelled when a connection that left HTTP is to be cut, since its peer is not believed any more.
    pub(crate) fn cut(&self) -> CancellationToken {
        match self {
            Self::Http1(lease) => lease.cut(),
            // Streams leave nothing.
            Self::Http2(_) => CancellationToken::new(),
        }
    }
}
