//! What the data path tells about itself: a record per request, metrics, and the time of each edge's requests.

mod access;
mod edges;
mod exchange;
mod metrics;

use std::sync::Arc;

use outrigger_core::{reason::Reason, telemetry::Edge};
use prometheus_client::registry::Registry;

pub use access::Direction;
pub(crate) use access::Record;
pub(crate) use edges::EdgeCounters;
pub(crate) use exchange::{Exchange, Held};
pub(crate) use metrics::{Metrics, Open};

use edges::{EdgeCollector, Edges};

/// Everything that is counted; shared by all workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    edges: Arc<Edges>,
    metrics: Metrics,
    access_log: bool,
}

impl Telemetry {
    /// Registers the data path's metrics. `access_log`: one event per request, target `access`.
    pub fn new(registry: &mut Registry, access_log: bool) -> Self {
        let edges = Arc::new(Edges::default());
        registry.register_collector(Box::new(EdgeCollector(Arc::clone(&edges))));
        Self(Arc::new(Inner { edges, metrics: Metrics::new(registry), access_log }))
    }

    /// The figures of every edge since the start of the process, in no particular order. A report sends what was added
    /// since the last one: [`Sparse::since`](outrigger_core::telemetry::Sparse::since).
    pub fn edges(&self) -> Vec<Edge> {
        self.0.edges.read()
    }

    /// Requests that were counted on the edge `other` because the table was full.
    pub fn overflowed(&self) -> u64 {
        self.0.edges.overflowed()
    }

    pub(crate) fn edge_table(&self) -> &Edges {
        &self.0.edges
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Counts and logs the end of an exchange.
    pub(crate) fn record(&self, record: &Record) {
        self.0.metrics.count(record);
        if self.0.access_log {
            record.log();
        }
    }

    /// Counts and logs an answer to a head that never became a request.
    pub(crate) fn refused_head(&self, direction: Direction, peer: std::net::SocketAddr, reason: Reason) {
        let mut record = Record::new(direction, peer);
        record.refuse(reason);
        self.record(&record);
    }
}
