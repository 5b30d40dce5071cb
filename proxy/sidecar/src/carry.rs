//! What follows on a connection that is not HTTP, or no longer: bytes are carried both ways, and the exchange that began
//! it is recorded when they are over.

use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use outrigger_core::reason::Reason;

use crate::{
    http::{FOR_EVER, Guarded, Transport},
    tcp::{self, Ended, Side, Why},
    telemetry::Exchange,
    upstream::Patient,
};

/// Carries opaque bytes until they are over, nothing moved for `idle` (zero: for ever), or `cut` is ready.
pub(crate) async fn opaque<D: Transport, U: Transport>(
    downstream: Side<D>,
    upstream: U,
    idle: Duration,
    cut: impl Future<Output = ()>,
    exchange: Exchange,
) {
    let idle = if idle.is_zero() { FOR_EVER } else { idle };
    let ended = tcp::relay(downstream, Side::new(upstream, Bytes::new()), idle, cut).await;
    finish(&ended, exchange);
}

/// The same for two connections that left HTTP together, once both sides have said so. `D` is what the downstream's
/// connection runs on.
pub(crate) async fn upgraded<D: Transport>(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    idle: Duration,
    cut: impl Future<Output = ()>,
    exchange: Exchange,
) {
    let both = tokio::try_join!(downstream, upstream);
    let (downstream, upstream) = match both {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "connection ended before it left HTTP");
            return exchange.over(0, 0, Some(Reason::ClientClosed));
        }
    };
    let downstream = downstream.downcast::<TokioIo<Guarded<D>>>().ok().and_then(|parts| {
        let (io, rest) = parts.io.into_inner().into_inner()?;
        Some(Side::new(io, joined(parts.read_buf, rest)))
    });
    let upstream = upstream.downcast::<TokioIo<Patient>>().ok();
    let (Some(downstream), Some(upstream)) = (downstream, upstream) else {
        return exchange.over(0, 0, Some(Reason::InternalError));
    };
    let upstream = Side::new(upstream.io.into_inner().into_inner(), upstream.read_buf);
    let idle = if idle.is_zero() { FOR_EVER } else { idle };
    let ended = tcp::relay(downstream, upstream, idle, cut).await;
    finish(&ended, exchange);
}

/// What the parser read of it, and what was not read through it.
pub(crate) fn joined(read: Bytes, rest: Bytes) -> Bytes {
    match (read.is_empty(), rest.is_empty()) {
        (_, true) => read,
        (true, false) => rest,
        (false, false) => [read, rest].concat().into(),
    }
}

fn finish(ended: &Ended, exchange: Exchange) {
    if let Some(error) = &ended.error {
        tracing::debug!(%error, why = ?ended.why, "connection broke");
    }
    let reason = match ended.why {
        Why::Finished => None,
        Why::DownstreamReset => Some(Reason::ClientClosed),
        Why::UpstreamReset => Some(Reason::UpstreamReset),
        Why::Idle => Some(Reason::IdleTimeout),
        Why::Cut => Some(Reason::Draining),
    };
    // Seen from the relay "sent" is to the upstream; the record's view is the downstream's.
    exchange.over(ended.received, ended.sent, reason);
}
