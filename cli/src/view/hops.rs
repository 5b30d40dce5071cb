//! The shape of `hops`. Times in milliseconds.

use outrigger_proto::status::v1alpha1 as status;
use serde::Serialize;

use super::{milliseconds, workload};

/// What `hops` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hops {
    pub(crate) hops: Vec<Hop>,
}

/// One hop.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hop {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) port: u32,
    pub(crate) rule: String,
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) mean: Makeup,
    pub(crate) slowest: Makeup,
}

/// What a mean is made of.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Makeup {
    pub(crate) requests: u64,
    pub(crate) total: f64,
    /// By phase, in the order in which a request meets them.
    #[serde(serialize_with = "in_order")]
    pub(crate) phases: Vec<(String, f64)>,
    /// What no phase explains.
    pub(crate) unexplained: f64,
}

impl Hops {
    /// From the wire, ordered by source, destination, port and rule.
    pub(crate) fn new(response: &status::HopsResponse) -> Self {
        let mut hops: Vec<Hop> = response.hops.iter().map(Hop::new).collect();
        hops.sort_by(|left, right| {
            let key = |hop: &Hop| (hop.source.clone(), hop.destination.clone(), hop.port, hop.rule.clone());
            key(left).cmp(&key(right))
        });
        Self { hops }
    }
}

impl Hop {
    fn new(hop: &status::Hop) -> Self {
        Self {
            source: hop.source.clone(),
            destination: hop.destination.clone(),
            port: hop.port,
            rule: hop.rule.clone(),
            requests: hop.requests,
            failures: hop.failures,
            p50: milliseconds(hop.p50),
            p99: milliseconds(hop.p99),
            mean: Makeup::new(hop.requests, hop.mean, &hop.mean_phases),
            slowest: Makeup::new(hop.slowest_requests, hop.slowest_mean, &hop.slowest_phases),
        }
    }

    /// `demo/front`, or the whole SPIFFE ID of anything that is not a workload.
    pub(crate) fn caller(&self) -> String {
        workload(&self.source)
    }
}

impl Makeup {
    fn new(requests: u64, total: Option<prost_types::Duration>, phases: &[status::PhaseShare]) -> Self {
        let total = milliseconds(total);
        let phases: Vec<(String, f64)> =
            phases.iter().map(|share| (share.phase.clone(), milliseconds(share.time))).collect();
        let explained: f64 = phases.iter().map(|(_, time)| time).sum();
        Self { requests, total, phases, unexplained: (total - explained).max(0.0) }
    }

    /// The time of one phase; zero when it did not occur.
    pub(crate) fn phase(&self, name: &str) -> f64 {
        self.phases.iter().find(|(phase, _)| phase == name).map_or(0.0, |(_, time)| *time)
    }
}

/// Pairs as a map that keeps their order.
#[expect(clippy::ptr_arg, reason = "serde calls it with the field's own type")]
fn in_order<S: serde::Serializer>(pairs: &Vec<(String, f64)>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}
