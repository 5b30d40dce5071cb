//! Where the time of an edge's requests went. An edge is (destination, port, rule, class); their number is bounded.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_core::{
    model::ServiceName,
    telemetry::{Class, Edge, EdgeKey, Histogram, Sparse, bucket_upper, hop::Split},
};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter},
    registry::Unit,
};

use super::{Traces, access::Fields};

/// Edges with figures of their own; the requests of all others are counted on one edge without a name.
pub(crate) const MAX_EDGES: usize = 1000;

/// Every how many buckets of the histogram there is one in the exposition: a doubling.
const CLASSIC_STEP: usize = 8;

/// The figures of one edge.
#[derive(Debug)]
pub(crate) struct EdgeCounters {
    key: EdgeKey,
    requests: AtomicU64,
    failures: AtomicU64,
    unexplained_ns: AtomicU64,
    total: Histogram,
}

impl EdgeCounters {
    fn new(key: EdgeKey) -> Arc<Self> {
        Arc::new(Self {
            key,
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            unexplained_ns: AtomicU64::new(0),
            total: Histogram::new(),
        })
    }

    /// Counts one request.
    pub(crate) fn record(&self, split: &Split, failed: bool) {
        self.requests.fetch_add(1, Relaxed);
        if failed {
            self.failures.fetch_add(1, Relaxed);
        }
        let unexplained = u64::try_from(split.unexplained().as_nanos()).unwrap_or(u64::MAX);
        self.unexplained_ns.fetch_add(unexplained, Relaxed);
        self.total.record(split.total, &split.phases, split.waiting);
    }

    fn read(&self) -> Edge {
        Edge {
            key: self.key.clone(),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            total: self.total.snapshot(),
        }
    }
}

/// The figures of one destination and rule, by class: looked up by the first request of a class and not by each.
#[derive(Debug)]
pub(crate) struct EdgeHandles {
    /// The backend, and its port.
    pub(crate) destination: (ServiceName, u16),
    /// The rule that chose it.
    pub(crate) rule: Option<Arc<str>>,
    /// Both as they are written in each line of the log.
    pub(super) fields: Fields,
    held: [OnceLock<Arc<EdgeCounters>>; Class::ALL.len()],
}

impl EdgeHandles {
    pub(crate) fn new(destination: (ServiceName, u16), rule: Option<Arc<str>>) -> Self {
        Self { destination, rule, fields: Fields::default(), held: Default::default() }
    }

    /// The figures of `class`.
    pub(super) fn of(&self, class: Class, edges: &Edges) -> Arc<EdgeCounters> {
        let held = self.held.get(class as usize);
        if let Some(edge) = held.and_then(OnceLock::get) {
            return Arc::clone(edge);
        }
        let key = EdgeKey { destination: Some(self.destination.clone()), rule: self.rule.clone(), class };
        let edge = edges.of(key);
        // Where the table is full each request is looked up, since each is counted there.
        if let Some(held) = held.filter(|_| edge.key != EdgeKey::OTHER) {
            let _other_was_first = held.set(Arc::clone(&edge));
        }
        edge
    }
}

/// All edges.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    table: Mutex<HashMap<EdgeKey, Arc<EdgeCounters>>>,
    overflowed: AtomicU64,
}

impl Edges {
    /// The figures of `key`, or of all edges beyond the bound together.
    pub(crate) fn of(&self, key: EdgeKey) -> Arc<EdgeCounters> {
        let mut table = self.table.lock();
        if let Some(edge) = table.get(&key) {
            return Arc::clone(edge);
        }
        let key = if table.len() < MAX_EDGES {
            key
        } else {
            self.overflowed.fetch_add(1, Relaxed);
            EdgeKey::OTHER
        };
        let edge = table.entry(key).or_insert_with_key(|key| EdgeCounters::new(key.clone()));
        Arc::clone(edge)
    }

    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    pub(crate) fn read(&self) -> Vec<Edge> {
        self.all().iter().map(|edge| edge.read()).collect()
    }

    fn all(&self) -> Vec<Arc<EdgeCounters>> {
        self.table.lock().values().cloned().collect()
    }
}

/// The edges as OpenMetrics, and what could not be told of them.
#[derive(Debug)]
pub(crate) struct EdgeCollector(pub(crate) Arc<Edges>, pub(crate) Traces);

type Labels = Vec<(&'static str, String)>;

impl Collector for EdgeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut edges: Vec<(Labels, Edge, u64)> = self
            .0
            .all()
            .iter()
            .map(|edge| {
                let read = edge.read();
                (labels(&read.key), read, edge.unexplained_ns.load(Relaxed))
            })
            .collect();
        edges.sort_by(|one, other| one.0.cmp(&other.0));
        encode_counts(&mut encoder, &edges)?;
        encode_phases(&mut encoder, &edges)?;
        encode_app(&mut encoder, &edges)?;
        let mut family = encoder.encode_descriptor(
            "outrigger_edge_duration",
            "From the request's head to where the class ends: to the last byte that the client accepted (request), to the \
             response's head (stream, upgrade), to the connection established (tcp)",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (labels, edge, _) in &edges {
            let (sum, buckets) = classic(&edge.total);
            family.encode_family(labels)?.encode_histogram::<NoLabelSet>(
                sum.as_secs_f64(),
                edge.total.count(),
                &buckets,
                None,
            )?;
        }
        for (name, help, value) in [
            (
                "outrigger_edges_overflowed",
                "Requests counted on the edge 'other' because the table of edges was full",
                self.0.overflowed(),
            ),
            (
                "outrigger_traces_refused",
                "Requests whose time in the application is not taken apart because the table of traces was full",
                self.1.refused(),
            ),
        ] {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(family)?;
        }
        Ok(())
    }
}

fn encode_counts(encoder: &mut DescriptorEncoder<'_>, edges: &[(Labels, Edge, u64)]) -> fmt::Result {
    encode_count(encoder, edges, ("outrigger_edge_requests", "Requests over the edge"), |edge| {
        edge.requests
    })?;
    let help = "Those answered 5xx, cut short by the callee, or answered by the proxy itself";
    encode_count(encoder, edges, ("outrigger_edge_failures", help), |edge| edge.failures)
}

fn encode_count(
    encoder: &mut DescriptorEncoder<'_>,
    edges: &[(Labels, Edge, u64)],
    (name, help): (&str, &str),
    value: impl Fn(&Edge) -> u64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, edge, _) in edges {
        ConstCounter::new(value(edge)).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn encode_phases(encoder: &mut DescriptorEncoder<'_>, edges: &[(Labels, Edge, u64)]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "outrigger_edge_phase",
        "Time spent in each phase of the requests; 'unexplained' is what no phase accounts for",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    for (labels, edge, unexplained) in edges {
        let sum = edge.total.sum();
        let times = outrigger_core::telemetry::Phase::ALL
            .into_iter()
            .map(|phase| (phase.as_str(), sum.phase(phase)))
            .chain([("unexplained", Duration::from_nanos(*unexplained))]);
        for (phase, time) in times {
            let mut labels = labels.clone();
            labels.push(("phase", phase.to_owned()));
            ConstCounter::new(time.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Phase `app` taken apart, over the requests where that is known.
fn encode_app(encoder: &mut DescriptorEncoder<'_>, edges: &[(Labels, Edge, u64)]) -> fmt::Result {
    let help = "Requests whose time in phase 'app' could be taken apart";
    encode_count(encoder, edges, ("outrigger_edge_app_split", help), |edge| edge.total.sum().app.requests)?;
    let mut family = encoder.encode_descriptor(
        "outrigger_edge_app",
        "Phase 'app' of these requests: spent by the application itself, and waited by it for its own calls",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    for (labels, edge, _) in edges {
        let app = edge.total.sum().app;
        for (part, micros) in [("self", app.own_us), ("waiting", app.waiting_us)] {
            let mut labels = labels.clone();
            labels.push(("part", part.to_owned()));
            let time = Duration::from_micros(micros);
            ConstCounter::new(time.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn labels(key: &EdgeKey) -> Labels {
    let (destination, port) = match &key.destination {
        Some((service, port)) => (service.to_string(), port.to_string()),
        None => ("other".to_owned(), String::new()),
    };
    let rule = key.rule.as_deref().unwrap_or_default().to_owned();
    let class = key.class.as_str().to_owned();
    vec![("destination", destination), ("port", port), ("rule", rule), ("class", class)]
}

/// Sum, and (upper bound, requests in this bucket): one bucket per doubling. The bounds are those of the exact
/// histogram, so that no request moves.
fn classic(total: &Sparse) -> (Duration, Vec<(f64, u64)>) {
    use outrigger_core::telemetry::{FIRST_BUCKET, LAST_BUCKET};
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let mut counts = total.iter().peekable();
    let mut index = FIRST_BUCKET;
    while index < LAST_BUCKET {
        let mut count = 0;
        while let Some((_, bucket)) = counts.next_if(|(place, _)| *place <= index) {
            count += bucket.count;
        }
        buckets.push((bucket_upper(index).as_secs_f64(), count));
        index = index.saturating_add(i32::try_from(CLASSIC_STEP).unwrap_or(1));
    }
    let rest = counts.map(|(_, bucket)| bucket.count).sum();
    buckets.push((f64::INFINITY, rest));
    (Duration::from_micros(total.sum().total_us), buckets)
}

#[cfg(test)]
mod tests {
    use outrigger_core::telemetry::Class;

    use super::*;

    fn key(number: usize) -> EdgeKey {
        let service = format!("demo/price-{number}").parse().unwrap();
        EdgeKey { destination: Some((service, 80)), ..EdgeKey::OTHER }
    }

    #[test]
    fn edges_beyond_the_bound_share_one() {
        let edges = Edges::default();
        for number in 0..MAX_EDGES {
            edges.of(key(number));
        }
        assert_eq!(edges.overflowed(), 0);
        let other = edges.of(key(MAX_EDGES));
        assert!(Arc::ptr_eq(&other, &edges.of(key(MAX_EDGES + 1))));
        assert_eq!(edges.overflowed(), 2);
        assert_eq!(other.read().key.destination, None);
        assert!(!Arc::ptr_eq(&other, &edges.of(key(0))));
        assert_eq!(edges.read().len(), MAX_EDGES + 1);
    }

    #[test]
    fn classes_are_counted_apart_but_not_beyond_the_bound() {
        let edges = Edges::default();
        let stream = EdgeKey { class: Class::Stream, ..key(0) };
        assert!(!Arc::ptr_eq(&edges.of(key(0)), &edges.of(stream)));
        for number in 1..MAX_EDGES {
            edges.of(key(number));
        }
        let tcp = EdgeKey { class: Class::Tcp, ..key(0) };
        assert_eq!(edges.of(tcp).read().key, EdgeKey::OTHER);
    }
}
