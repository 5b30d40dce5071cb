//! What the proxy tells the control plane: which configuration it applied, where its requests' time went, and how the
//! endpoints that it calls are.

mod activity;
mod applied;
mod ledger;
mod telemetry;

use outrigger_core::telemetry::{Edge, EndpointFigures};
use outrigger_tls::Identity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{discovery::Status, reconnect::keep};

pub use activity::Activity;
pub use telemetry::Reporter;

/// Where the figures of edges and endpoints are read. Implemented by the data path's telemetry, and by tests.
pub trait Figures: Send + Sync {
    /// The figures of every edge since the start of the process, each edge once.
    fn edges(&self) -> Vec<Edge>;

    /// Requests so far that were counted on the edge of the others, because the table was full.
    fn overflowed(&self) -> u64;

    /// How every endpoint is now that the proxy may call, in any order; what is worth telling is chosen from them.
    fn endpoints(&self) -> Vec<EndpointFigures>;

    /// Told of whatever may have changed them.
    fn activity(&self) -> &Activity;
}

/// Reports what is applied, after each change, until `stop`.
pub async fn applied(
    channel: Channel,
    status: watch::Receiver<Status>,
    identity: Identity,
    stop: CancellationToken,
) {
    keep(&mut applied::Reporter::new(channel, status, identity), &stop).await;
}
