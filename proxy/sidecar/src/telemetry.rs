//! What the data path tells about itself: a record per request, metrics, and the time of each edge's requests.

mod access;
mod edges;
mod exchange;
mod loads;
mod metrics;
mod sparing;
mod traces;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use outrigger_core::{
    model::SpiffeId,
    reason::Reason,
    telemetry::{Edge, PhaseTimes},
};
use outrigger_tls::Refusal;
use prometheus_client::registry::Registry;

pub use access::{AccessLog, Direction};
pub(crate) use access::{Authority, Party, Record, Times};
pub(crate) use edges::{EdgeHandles, Edges};
pub(crate) use exchange::Exchange;
pub(crate) use metrics::{Metrics, Open};
pub use traces::{Calling, Inside, Traces};

use edges::EdgeCollector;
use loads::Loads;
use sparing::Sparing;

use crate::{
    http::{Fault, Overheard},
    report::Activity,
};

/// What a peer is to us on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It asks.
    Downstream,
    /// It answers.
    Upstream,
}

impl Role {
    /// As in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
        }
    }
}

/// Everything that is counted; shared by all workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    edges: Arc<Edges>,
    traces: Traces,
    metrics: Metrics,
    loads: Loads,
    access_log: Option<AccessLog>,
    /// For what strangers can make the proxy say, inbound and outbound.
    sparing: [Sparing; 2],
    /// For what peers make the parser refuse, by direction and role.
    refusals: [[Sparing; 2]; 2],
    activity: Activity,
    /// What is not over yet is cut off.
    stopped: AtomicBool,
}

impl Telemetry {
    /// Registers the data path's metrics. `access_log`: where the line of each request goes; `None`: nowhere.
    pub fn new(registry: &mut Registry, access_log: Option<AccessLog>) -> Self {
        let (edges, traces) = (Arc::new(Edges::default()), Traces::default());
        let loads = Loads::default();
        registry.register_collector(Box::new(loads.clone()));
        registry.register_collector(Box::new(EdgeCollector(Arc::clone(&edges), traces.clone())));
        if let Some(log) = &access_log {
            registry.register(
                "outrigger_access_lines_dropped",
                "Lines of the access log that were dropped because it is read too slowly or cannot be written",
                log.dropped(),
            );
        }
        Self(Arc::new(Inner {
            edges,
            traces,
            metrics: Metrics::new(registry),
            loads,
            access_log,
            sparing: Default::default(),
            refusals: Default::default(),
            activity: Activity::default(),
            stopped: AtomicBool::new(false),
        }))
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

    /// Told of each exchange that ended.
    pub fn activity(&self) -> &Activity {
        &self.0.activity
    }

    /// Ties an application's calls to the requests it works on.
    pub fn traces(&self) -> &Traces {
        &self.0.traces
    }

    pub(crate) fn edge_table(&self) -> &Edges {
        &self.0.edges
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn loads(&self) -> &Loads {
        &self.0.loads
    }

    /// Whether a line may be logged that a peer can cause at will; if so, how many of its kind were left unsaid before.
    pub(crate) fn say(&self, direction: Direction) -> Option<u64> {
        let [inbound, outbound] = &self.0.sparing;
        match direction {
            Direction::Inbound => inbound.say(Instant::now()),
            Direction::Outbound => outbound.say(Instant::now()),
        }
    }

    /// Counts and logs that the peer of an open connection is no longer trusted.
    pub(crate) fn distrusted(&self, direction: Direction, peer: SocketAddr, refusal: &Refusal) {
        self.metrics().distrusted(direction, refusal.reason);
        if let Some(unsaid) = self.say(direction) {
            let presented = refusal.presented.as_ref().map(SpiffeId::as_str);
            let (direction, reason) = (direction.as_str(), refusal.reason.as_str());
            tracing::info!(direction, peer.addr = %peer, presented, reason, unsaid, "peer no longer trusted");
        }
    }

    /// Counts and logs what the parser of HTTP/2 refused of a peer. It is beside the records of requests: what was refused may
    /// have been one, or none yet, or none any more.
    pub(crate) fn refused(&self, direction: Direction, role: Role, peer: SocketAddr, overheard: &Overheard) {
        let Overheard { refusal, times, words } = overheard;
        self.metrics().http2_refused(direction, role, *refusal, *times);
        let by_role = self.0.refusals.get(direction as usize);
        let sparing = by_role.and_then(|by_role| by_role.get(role as usize));
        let Some(unsaid) = sparing.and_then(|sparing| sparing.say(Instant::now())) else {
            return;
        };
        let (direction, role, reason) = (direction.as_str(), role.as_str(), refusal.fault.as_str());
        let ended = refusal.ended.as_str();
        if refusal.fault == Fault::StreamClosed {
            // It may have been on its way.
            tracing::info!(direction, role, peer.addr = %peer, ended, reason, detail = words, times, unsaid, "HTTP/2 refused");
        } else {
            tracing::warn!(direction, role, peer.addr = %peer, ended, reason, detail = words, times, unsaid, "HTTP/2 refused");
        }
    }

    /// From now on what ends before its time ends because the proxy stops.
    pub(crate) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
    }

    /// Why an exchange ends that nobody waits for any more.
    pub(crate) fn left(&self) -> Reason {
        if self.0.stopped.load(Ordering::Acquire) { Reason::Stopped } else { Reason::ClientClosed }
    }

    /// Counts and logs the end of an exchange.
    pub(crate) fn record(&self, record: &Record, times: &Times<'_>) {
        self.0.metrics.count(record);
        self.0.activity.note();
        if let Some(log) = &self.0.access_log {
            log.record(record, times);
        }
    }

    /// Counts and logs an answer to a head of `peer` that never became a request.
    pub(crate) fn refused_head(&self, direction: Direction, peer: Arc<Party>, reason: Reason) {
        let mut record = Record::new(direction, peer);
        record.refuse(reason);
        let times = Times { duration: Duration::ZERO, phases: &PhaseTimes::default() };
        self.record(&record, &times);
    }
}
