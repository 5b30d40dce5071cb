//! What of the figures the control plane has: pure bookkeeping, so that a broken stream neither loses nor doubles.
//!
//! A report that was not acknowledged is sent again as it is, under its own sequence number: the control plane may have
//! counted it already, and then counts it no second time. What happens meanwhile goes into the next one.

use std::collections::{BTreeMap, VecDeque};

use outrigger_core::telemetry::{Edge, EdgeKey, MAX_EDGE_BYTES};
use outrigger_proto::telemetry::v1alpha1::ReportRequest;

/// Edges of one report: 1 MiB at most.
const EDGES: usize = (1 << 20) / MAX_EDGE_BYTES;

/// The account of one run of the process.
#[derive(Debug)]
pub(super) struct Ledger {
    run: u64,
    sequence: u64,
    /// What all reports so far add up to, acknowledged or not.
    reported: BTreeMap<EdgeKey, Edge>,
    overflowed: u64,
    unacknowledged: VecDeque<ReportRequest>,
}

impl Ledger {
    /// A new one; `run` tells this run of the process from others.
    pub(super) fn new(run: u64) -> Self {
        Self { run, sequence: 0, reported: BTreeMap::new(), overflowed: 0, unacknowledged: VecDeque::new() }
    }

    /// The report to send now, the oldest that was not acknowledged.
    pub(super) fn next(&self) -> Option<&ReportRequest> {
        self.unacknowledged.front()
    }

    /// The control plane has counted everything up to `sequence`.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        while self.unacknowledged.pop_front_if(|report| report.sequence <= sequence).is_some() {}
    }

    /// Writes down what was added since the last time, unless something is unacknowledged still: then it waits, and
    /// nothing grows. `totals` are counted from the start of the process.
    pub(super) fn add(&mut self, totals: Vec<Edge>, overflowed: u64) {
        if !self.unacknowledged.is_empty() {
            return;
        }
        let mut edges = Vec::new();
        for total in totals {
            let added = match self.reported.get(&total.key) {
                Some(reported) => since(&total, reported),
                None => total.clone(),
            };
            if added.requests > 0 || added.failures > 0 || !added.total.is_empty() {
                edges.extend(added.to_wire());
                self.reported.insert(total.key.clone(), total);
            }
        }
        let mut overflow = overflowed.saturating_sub(self.overflowed);
        self.overflowed = self.overflowed.max(overflowed);
        let mut edges = edges.into_iter().peekable();
        while edges.peek().is_some() || overflow > 0 {
            self.sequence += 1;
            self.unacknowledged.push_back(ReportRequest {
                sequence: self.sequence,
                run: self.run,
                edges: edges.by_ref().take(EDGES).collect(),
                overflowed: std::mem::take(&mut overflow),
                ..ReportRequest::default()
            });
        }
    }
}

fn since(total: &Edge, earlier: &Edge) -> Edge {
    Edge {
        key: total.key.clone(),
        requests: total.requests.saturating_sub(earlier.requests),
        failures: total.failures.saturating_sub(earlier.failures),
        total: total.total.since(&earlier.total),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_core::telemetry::{Bucket, Sparse, bucket_index};

    use super::*;

    fn edge(name: usize, requests: u64) -> Edge {
        let mut total = Sparse::default();
        let bucket = Bucket { count: requests, total_us: requests * 1000, ..Bucket::default() };
        total.add(bucket_index(Duration::from_millis(1)), &bucket);
        let service = format!("demo/price-{name}").parse().unwrap();
        Edge {
            key: EdgeKey { destination: Some((service, 80)), ..EdgeKey::OTHER },
            requests,
            failures: 0,
            total,
        }
    }

    fn counted(report: &ReportRequest) -> u64 {
        report.edges.iter().map(|edge| edge.requests).sum()
    }

    #[test]
    fn a_report_holds_what_was_added_since_the_last_one() {
        let mut ledger = Ledger::new(7);
        ledger.add(vec![edge(1, 10)], 0);
        let first = ledger.next().unwrap().clone();
        assert_eq!((first.sequence, first.run, counted(&first)), (1, 7, 10));
        ledger.acknowledge(1);
        assert!(ledger.next().is_none());
        ledger.add(vec![edge(1, 13), edge(2, 1)], 2);
        let second = ledger.next().unwrap();
        assert_eq!((second.sequence, counted(second), second.overflowed), (2, 4, 2));
        let buckets = &second.edges[0].total.as_ref().unwrap().buckets;
        assert_eq!((buckets[0].count, buckets[0].total_us), (3, 3000));
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_as_it_was() {
        let mut ledger = Ledger::new(7);
        ledger.add(vec![edge(1, 10)], 0);
        let first = ledger.next().unwrap().clone();
        ledger.add(vec![edge(1, 15)], 0);
        assert_eq!(ledger.next(), Some(&first));
        ledger.acknowledge(1);
        ledger.add(vec![edge(1, 15)], 0);
        assert_eq!(counted(ledger.next().unwrap()), 5);
    }

    #[test]
    fn nothing_new_is_no_report() {
        let mut ledger = Ledger::new(7);
        ledger.add(vec![edge(1, 10)], 0);
        ledger.acknowledge(1);
        ledger.add(vec![edge(1, 10)], 0);
        assert!(ledger.next().is_none());
    }

    #[test]
    fn many_edges_are_split_into_reports_of_one_mebibyte() {
        let mut ledger = Ledger::new(7);
        ledger.add((0..1000).map(|name| edge(name, 1)).collect(), 5);
        let (mut reports, mut requests, mut overflowed) = (0, 0, 0);
        while let Some(report) = ledger.next().cloned() {
            reports += 1;
            requests += counted(&report);
            overflowed += report.overflowed;
            assert!(report.edges.len() <= EDGES);
            ledger.acknowledge(report.sequence);
        }
        assert_eq!((reports, requests, overflowed), (4, 1000, 5));
    }

    /// Broken streams at every point: what the control plane counts is what happened.
    #[test]
    fn nothing_is_lost_or_doubled_whatever_breaks() {
        for broken in 0_u32..256 {
            let mut ledger = Ledger::new(7);
            let (mut happened, mut received, mut last) = (0, 0, 0);
            for step in 0..8 {
                happened += 3;
                ledger.add(vec![edge(1, happened)], 0);
                while let Some(report) = ledger.next().cloned() {
                    // The control plane's side: a repeat is acknowledged and not counted.
                    if report.sequence > last {
                        last = report.sequence;
                        received += counted(&report);
                    }
                    if broken >> step & 1 == 1 {
                        // The acknowledgement is lost.
                        break;
                    }
                    ledger.acknowledge(report.sequence);
                }
            }
            while let Some(report) = ledger.next().cloned() {
                received += if report.sequence > last { counted(&report) } else { 0 };
                last = last.max(report.sequence);
                ledger.acknowledge(report.sequence);
                ledger.add(vec![edge(1, happened)], 0);
            }
            ledger.add(vec![edge(1, happened)], 0);
            received += ledger.next().map_or(0, counted);
            assert_eq!(received, happened, "{broken:b}");
        }
    }
}
