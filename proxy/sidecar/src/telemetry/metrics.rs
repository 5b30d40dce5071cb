//! Counters of the data path that are not an edge's. Labels come from closed lists and from the settings only.

use std::sync::OnceLock;

use outrigger_core::reason::Reason;
use outrigger_tls::PeerRejected;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Direction, Record, Role};
use crate::http::Refusal;

/// Labels of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requests {
    direction: &'static str,
    /// `2xx`, ..., `none` when no head was delivered.
    status: &'static str,
    /// Why the proxy answered by itself or ended the exchange; empty when it did not.
    reason: &'static str,
}

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Side {
    direction: &'static str,
}

/// Labels of refused peers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    direction: &'static str,
    reason: &'static str,
}

/// Labels of what the parser refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    direction: &'static str,
    role: &'static str,
    ended: &'static str,
    reason: &'static str,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Family<Requests, Counter>,
    /// Handles on them, by [`place`]: taken by the first request of a kind.
    held: Box<[OnceLock<Counter>]>,
    accepted: Family<Side, Counter>,
    open: Family<Side, Gauge>,
    opened: Family<Side, Counter>,
    rejected: Family<Rejected, Counter>,
    handshakes_failed: Family<Side, Counter>,
    distrusted: Family<Rejected, Counter>,
    detection_timeouts: Family<Side, Counter>,
    http2_refused: Family<Refused, Counter>,
    /// Inbound figures that exceeded the time that passed.
    pub(crate) timings_clamped: Counter,
    /// Inbound figures that could not be read.
    pub(crate) timings_invalid: Counter,
    /// `1xx` answers other than `100` that were not passed on.
    pub(crate) informational_dropped: Counter,
    /// Attempts that followed another one of the same request.
    pub(crate) retries: Counter,
    /// Attempts that would have, had the budget allowed it.
    pub(crate) retries_over_budget: Counter,
    /// Requests over the limit of an application that is not enforced.
    pub(crate) tolerated: Counter,
    /// Pooled connections found closed and replaced before the request was handed on.
    pub(crate) pool_replaced: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            held: (0..PLACES).map(|_| OnceLock::new()).collect(),
            accepted: Family::default(),
            open: Family::default(),
            opened: Family::default(),
            rejected: Family::default(),
            handshakes_failed: Family::default(),
            distrusted: Family::default(),
            detection_timeouts: Family::default(),
            http2_refused: Family::default(),
            timings_clamped: Counter::default(),
            timings_invalid: Counter::default(),
            informational_dropped: Counter::default(),
            retries: Counter::default(),
            retries_over_budget: Counter::default(),
            tolerated: Counter::default(),
            pool_replaced: Counter::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("outrigger"));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests that are over", self.requests.clone());
        registry.register("connections_accepted", "Connections accepted", self.accepted.clone());
        registry.register("connections_open", "Accepted connections that are open", self.open.clone());
        registry.register(
            "upstream_connections_opened",
            "Connections opened to upstreams",
            self.opened.clone(),
        );
        registry.register(
            "peers_rejected",
            "Peers refused in the handshake, by the reason",
            self.rejected.clone(),
        );
        registry.register(
            "handshakes_failed",
            "TLS handshakes that failed for another reason than the peer's identity",
            self.handshakes_failed.clone(),
        );
        registry.register(
            "connections_distrusted",
            "Open connections closed because their peer's chain no longer verified, by the reason",
            self.distrusted.clone(),
        );
        registry.register(
            "detection_timeouts",
            "Connections taken for opaque because their client said too little in time",
            self.detection_timeouts.clone(),
        );
        registry.register(
            "http2_refused",
            "Streams and connections of HTTP/2 that were ended for what is wrong with their frames, by the reason",
            self.http2_refused.clone(),
        );
        registry.register(
            "timings_clamped",
            "Inbound figures that exceeded the time that passed, and were cut",
            self.timings_clamped.clone(),
        );
        registry.register(
            "timings_invalid",
            "Inbound figures that could not be read",
            self.timings_invalid.clone(),
        );
        registry.register(
            "informational_dropped",
            "1xx answers other than 100 that were not passed on",
            self.informational_dropped.clone(),
        );
        registry.register("retries", "Attempts after the first one of a request", self.retries.clone());
        registry.register(
            "retries_over_budget",
            "Attempts that were not made because the retry budget was spent",
            self.retries_over_budget.clone(),
        );
        registry.register(
            "requests_tolerated",
            "Requests that would have been refused as 'overloaded', were the limit on the application enforced",
            self.tolerated.clone(),
        );
        registry.register(
            "pooled_connections_replaced",
            "Pooled connections found closed when a request wanted them",
            self.pool_replaced.clone(),
        );
    }

    pub(super) fn count(&self, record: &Record) {
        let class = record.status.map_or(0, |status| usize::from(status.as_u16() / 100).min(5));
        let counter = || {
            let status = STATUSES.get(class).copied().unwrap_or_default();
            let reason = record.reason.map_or("", |reason| reason.as_str());
            let labels = Requests { direction: record.direction.as_str(), status, reason };
            self.requests.get_or_create_owned(&labels)
        };
        match self.held.get(place(record.direction, class, record.reason)) {
            Some(held) => held.get_or_init(counter).inc(),
            None => counter().inc(),
        };
    }

    /// A connection was accepted; it is open until the guard is dropped.
    pub(crate) fn accepted(&self, direction: Direction) -> Open {
        let side = Side { direction: direction.as_str() };
        self.accepted.get_or_create(&side).inc();
        let open = self.open.get_or_create_owned(&side);
        open.inc();
        Open(open)
    }

    /// A connection to an upstream was opened.
    pub(crate) fn opened(&self, direction: Direction) {
        self.opened.get_or_create(&Side { direction: direction.as_str() }).inc();
    }

    /// A peer was refused.
    pub(crate) fn rejected(&self, direction: Direction, reason: PeerRejected) {
        let labels = Rejected { direction: direction.as_str(), reason: reason.as_str() };
        self.rejected.get_or_create(&labels).inc();
    }

    /// The peer of an open connection is no longer trusted.
    pub(super) fn distrusted(&self, direction: Direction, reason: PeerRejected) {
        let labels = Rejected { direction: direction.as_str(), reason: reason.as_str() };
        self.distrusted.get_or_create(&labels).inc();
    }

    /// A client said too little for its protocol to be found out in time.
    pub(crate) fn detection_timed_out(&self, direction: Direction) {
        self.detection_timeouts.get_or_create(&Side { direction: direction.as_str() }).inc();
    }

    /// The parser refused what a peer sent.
    pub(super) fn http2_refused(&self, direction: Direction, role: Role, refusal: Refusal, times: u32) {
        let labels = Refused {
            direction: direction.as_str(),
            role: role.as_str(),
            ended: refusal.ended.as_str(),
            reason: refusal.fault.as_str(),
        };
        self.http2_refused.get_or_create(&labels).inc_by(times.into());
    }

    /// A handshake failed otherwise.
    pub(crate) fn handshake_failed(&self, direction: Direction) {
        self.handshakes_failed.get_or_create(&Side { direction: direction.as_str() }).inc();
    }
}

/// By class of the status.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
const REASONS: usize = Reason::ALL.len() + 1;
const PLACES: usize = 2 * STATUSES.len() * REASONS;

/// The place of a kind of request among all.
fn place(direction: Direction, class: usize, reason: Option<Reason>) -> usize {
    let reason = reason.map_or(0, |reason| reason as usize + 1);
    (direction as usize * STATUSES.len() + class) * REASONS + reason
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_of_request_has_a_place_of_its_own() {
        let mut places = BTreeSet::new();
        for direction in [Direction::Inbound, Direction::Outbound] {
            for class in 0..STATUSES.len() {
                for reason in Reason::ALL.iter().copied().map(Some).chain([None]) {
                    assert!(places.insert(place(direction, class, reason)), "{direction} {class} {reason:?}");
                }
            }
        }
        assert_eq!((places.len(), places.last()), (PLACES, Some(&(PLACES - 1))));
    }
}
