//! The shape of `hops`. Times in milliseconds.

use std::time::Duration;

use outrigger_core::telemetry::Class;
use outrigger_proto::status::v1alpha1 as status;
use serde::Serialize;

use super::{milliseconds, workload};

/// What `hops` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hops {
    /// With `--watch`: how long it took them to happen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) milliseconds: Option<f64>,
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
    /// `request`, `stream`, `upgrade`, `tcp`; `unknown` of a later version.
    pub(crate) class: &'static str,
    /// How many hops lie between this one and the service asked for.
    pub(crate) depth: u32,
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
    /// Phase `app`, taken apart.
    pub(crate) app: App,
    /// What no phase explains.
    pub(crate) unexplained: f64,
}

/// Phase `app`, taken apart: sums over the requests where that is known, divided by all requests. What is missing to the
/// phase is not known.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct App {
    /// Requests where it is known.
    pub(crate) requests: u64,
    /// Spent by the application itself.
    #[serde(rename = "self")]
    pub(crate) own: f64,
    /// Waited by it for its own calls.
    pub(crate) waiting: f64,
}

impl Hops {
    /// From the wire, in its order: by source and destination, or the tree of a service.
    pub(crate) fn new(response: &status::HopsResponse) -> Self {
        Self { milliseconds: None, hops: response.hops.iter().map(Hop::new).collect() }
    }

    /// The same, of which it is known how long they took to happen.
    pub(crate) fn within(mut self, passed: Duration) -> Self {
        self.milliseconds = Some(passed.as_secs_f64() * 1e3);
        self
    }
}

impl Hop {
    fn new(hop: &status::Hop) -> Self {
        Self {
            source: hop.source.clone(),
            destination: hop.destination.clone(),
            port: hop.port,
            rule: hop.rule.clone(),
            class: Class::from_wire(hop.class).map_or("unknown", Class::as_str),
            depth: hop.depth,
            requests: hop.requests,
            failures: hop.failures,
            p50: milliseconds(hop.p50),
            p99: milliseconds(hop.p99),
            mean: Makeup::new(hop.requests, hop.mean, &hop.mean_phases, hop.mean_app.as_ref()),
            slowest: Makeup::new(
                hop.slowest_requests,
                hop.slowest_mean,
                &hop.slowest_phases,
                hop.slowest_app.as_ref(),
            ),
        }
    }

    /// `demo/front`, or the whole SPIFFE ID of anything that is not a workload.
    pub(crate) fn caller(&self) -> String {
        workload(&self.source)
    }
}

impl Makeup {
    fn new(
        requests: u64,
        total: Option<prost_types::Duration>,
        phases: &[status::PhaseShare],
        app: Option<&status::AppSplit>,
    ) -> Self {
        let total = milliseconds(total);
        let phases: Vec<(String, f64)> =
            phases.iter().map(|share| (share.phase.clone(), milliseconds(share.time))).collect();
        let explained: f64 = phases.iter().map(|(_, time)| time).sum();
        let app = app.map(|app| App {
            requests: app.requests,
            own: milliseconds(app.own),
            waiting: milliseconds(app.waiting),
        });
        let unexplained = (total - explained).max(0.0);
        Self { requests, total, phases, app: app.unwrap_or_default(), unexplained }
    }

    /// The phases with `app` in three: `app_self`, `downstream_calls`, and what could not be taken apart, `app`.
    pub(crate) fn parts(&self) -> Vec<(&str, f64)> {
        let mut parts = Vec::with_capacity(self.phases.len() + 2);
        for (phase, time) in &self.phases {
            if phase == "app" {
                let rest = (time - self.app.own - self.app.waiting).max(0.0);
                // Where it is known of all, the rest is what rounding left.
                let (own, rest) = if self.app.requests >= self.requests {
                    (self.app.own + rest, 0.0)
                } else {
                    (self.app.own, rest)
                };
                parts.extend([("app_self", own), ("downstream_calls", self.app.waiting), ("app", rest)]);
            } else {
                parts.push((phase, *time));
            }
        }
        parts
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
