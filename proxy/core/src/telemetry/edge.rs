//! One edge's figures, and their form on the wire.

use std::sync::Arc;

use outrigger_proto::telemetry::v1alpha1 as proto;
use prost::Message as _;

use super::{
    Class, PHASES,
    sparse::{AppSplit, BUCKETS, Bucket, FIRST_BUCKET, LAST_BUCKET, Sparse},
};
use crate::model::{ServiceName, Violation};

/// No encoded [`proto::Edge`] is larger.
pub const MAX_EDGE_BYTES: usize = 4096;

/// Room kept for everything but the histogram: names are at most 127 and [`MAX_RULE`] bytes.
const MAX_KEY_BYTES: usize = 512;
/// `<namespace>/<route>#<rule>`: three labels.
const MAX_RULE: usize = 3 * 63 + 2;
/// The destination of requests that found the table of edges full.
const OTHER: &str = "other";

/// Names an edge as seen by the caller's proxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeKey {
    /// The backend chosen and its port; `None`: the edges beyond the cap, together.
    pub destination: Option<(ServiceName, u16)>,
    /// The rule that chose it; `None` without one.
    pub rule: Option<Arc<str>>,
    /// What is counted.
    pub class: Class,
}

impl EdgeKey {
    /// Everything that found the table of edges full, of whatever class.
    pub const OTHER: Self = Self { destination: None, rule: None, class: Class::Request };
}

/// What was counted on one edge: all of it, or what was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Which.
    pub key: EdgeKey,
    /// Requests.
    pub requests: u64,
    /// Answered 5xx, reset, or answered by the proxy itself.
    pub failures: u64,
    /// Their totals and phases.
    pub total: Sparse,
}

impl Edge {
    /// The form on the wire: messages of at most [`MAX_EDGE_BYTES`] that add up to this edge; nearly always one.
    pub fn to_wire(&self) -> Vec<proto::Edge> {
        let empty = || {
            let (destination, port) = match &self.key.destination {
                Some((service, port)) => (service.to_string(), u32::from(*port)),
                None => (OTHER.to_owned(), 0),
            };
            proto::Edge {
                destination,
                port,
                rule: self.key.rule.as_deref().unwrap_or_default().to_owned(),
                requests: 0,
                failures: 0,
                total: Some(proto::Histogram::default()),
                class: proto::Class::from(self.key.class).into(),
            }
        };
        let mut first = empty();
        first.requests = self.requests;
        first.failures = self.failures;
        let mut parts = Vec::new();
        let mut part = first;
        let mut size = MAX_KEY_BYTES;
        for (index, bucket) in self.total.iter() {
            let bucket = bucket_to_wire(index, bucket);
            // A tag and a length of one or two bytes.
            let needed = bucket.encoded_len() + 3;
            if size + needed > MAX_EDGE_BYTES {
                parts.push(std::mem::replace(&mut part, empty()));
                size = MAX_KEY_BYTES;
            }
            size += needed;
            part.total.get_or_insert_default().buckets.push(bucket);
        }
        parts.push(part);
        parts
    }
}

fn bucket_to_wire(index: i32, bucket: &Bucket) -> proto::Bucket {
    let used = bucket.phases_us.iter().rposition(|sum| *sum > 0).map_or(0, |last| last + 1);
    proto::Bucket {
        index,
        count: bucket.count,
        total_us: bucket.total_us,
        phases_us: bucket.phases_us.iter().take(used).copied().collect(),
        app_split: bucket.app.requests,
        app_own_us: bucket.app.own_us,
        app_waiting_us: bucket.app.waiting_us,
    }
}

impl TryFrom<proto::Edge> for Edge {
    type Error = Violation;

    fn try_from(wire: proto::Edge) -> Result<Self, Violation> {
        let destination = if wire.destination == OTHER {
            None
        } else {
            let service = wire.destination.parse().map_err(|error: crate::model::InvalidName| {
                Violation::error("destination", "invalid_name", error.to_string())
            })?;
            let port = u16::try_from(wire.port)
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| Violation::error("port", "out_of_range", "a port is 1 to 65535"))?;
            Some((service, port))
        };
        if wire.rule.len() > MAX_RULE || !wire.rule.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Violation::error("rule", "invalid_name", "not the name of a rule"));
        }
        Ok(Self {
            key: EdgeKey {
                destination,
                rule: (!wire.rule.is_empty()).then(|| wire.rule.into()),
                class: Class::from_wire(wire.class)?,
            },
            requests: wire.requests,
            failures: wire.failures,
            total: Sparse::try_from(&wire.total.unwrap_or_default())
                .map_err(|violation| violation.under("total"))?,
        })
    }
}

impl From<&Sparse> for proto::Histogram {
    fn from(sparse: &Sparse) -> Self {
        Self { buckets: sparse.iter().map(|(index, bucket)| bucket_to_wire(index, bucket)).collect() }
    }
}

impl TryFrom<&proto::Histogram> for Sparse {
    type Error = Violation;

    fn try_from(wire: &proto::Histogram) -> Result<Self, Violation> {
        if wire.buckets.len() > BUCKETS {
            return Err(Violation::error("buckets", "too_many", format!("more than {BUCKETS}")));
        }
        let mut sparse = Self::default();
        for (place, bucket) in wire.buckets.iter().enumerate() {
            let at = |field: &str| format!("buckets[{place}].{field}");
            if !(FIRST_BUCKET..=LAST_BUCKET).contains(&bucket.index) {
                let message = format!("a bucket's index is {FIRST_BUCKET} to {LAST_BUCKET}");
                return Err(Violation::error(at("index"), "out_of_range", message));
            }
            if bucket.phases_us.len() > PHASES {
                let message = format!("more than the {PHASES} phases that this version knows");
                return Err(Violation::error(at("phases_us"), "too_many", message));
            }
            let mut phases_us = [0; PHASES];
            for (mine, theirs) in phases_us.iter_mut().zip(&bucket.phases_us) {
                *mine = *theirs;
            }
            let app = AppSplit {
                requests: bucket.app_split,
                own_us: bucket.app_own_us,
                waiting_us: bucket.app_waiting_us,
            };
            let index = bucket.index;
            let bucket = Bucket { count: bucket.count, total_us: bucket.total_us, phases_us, app };
            if bucket != Bucket::default() {
                sparse.add(index, &bucket);
            }
        }
        Ok(sparse)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sparse(buckets: impl IntoIterator<Item = (i32, Bucket)>) -> Sparse {
        let mut sparse = Sparse::default();
        for (index, bucket) in buckets {
            sparse.add(index, &bucket);
        }
        sparse
    }

    fn edge(total: Sparse) -> Edge {
        let label = "n".repeat(63);
        Edge {
            key: EdgeKey {
                destination: Some((format!("{label}/{label}").parse().unwrap(), u16::MAX)),
                rule: Some(format!("{label}/{label}#{label}").into()),
                class: Class::Stream,
            },
            requests: u64::MAX,
            failures: u64::MAX,
            total,
        }
    }

    fn joined(parts: Vec<proto::Edge>) -> Edge {
        let mut parts = parts.into_iter().map(|part| Edge::try_from(part).unwrap());
        let mut whole = parts.next().unwrap();
        for part in parts {
            assert_eq!(part.key, whole.key);
            whole.requests += part.requests;
            whole.failures += part.failures;
            whole.total.merge(&part.total);
        }
        whole
    }

    #[test]
    fn the_worst_edge_is_split_into_messages_of_4_kib_at_most() {
        let app = AppSplit { requests: u64::MAX, own_us: u64::MAX, waiting_us: u64::MAX };
        let worst = Bucket { count: u64::MAX, total_us: u64::MAX, phases_us: [u64::MAX; PHASES], app };
        let edge = edge(sparse((FIRST_BUCKET..=LAST_BUCKET).map(|index| (index, worst))));
        let parts = edge.to_wire();
        assert!(parts.len() > 1);
        for part in &parts {
            assert!(part.encoded_len() <= MAX_EDGE_BYTES, "{}", part.encoded_len());
        }
        assert_eq!(joined(parts), edge);
    }

    #[test]
    fn an_edge_of_ten_seconds_fits_one_message() {
        // 5 000 requests over 32 buckets (four doublings), every phase stamped, the application's time split.
        let app = AppSplit { requests: 156, own_us: 78_000, waiting_us: 78_000 };
        let bucket = Bucket { count: 156, total_us: 1_560_000, phases_us: [156_000; PHASES], app };
        let parts = edge(sparse((-60..-28).map(|index| (index, bucket)))).to_wire();
        assert_eq!(parts.len(), 1);
    }

    #[test]
    fn an_edge_without_buckets_keeps_its_counts() {
        let edge = edge(Sparse::default());
        assert_eq!(joined(edge.to_wire()), edge);
    }

    #[test]
    fn the_edge_of_the_others_has_no_name() {
        let edge = Edge { key: EdgeKey::OTHER, requests: 1, failures: 0, total: Sparse::default() };
        assert_eq!(joined(edge.to_wire()), edge);
    }

    #[test]
    fn a_wrong_message_names_its_field() {
        let good = edge(sparse([(0, Bucket { count: 1, ..Bucket::default() })])).to_wire().remove(0);
        let field = |change: fn(&mut proto::Edge)| {
            let mut wire = good.clone();
            change(&mut wire);
            Edge::try_from(wire).unwrap_err().field
        };
        assert_eq!(field(|wire| wire.destination = "price".to_owned()), "destination");
        assert_eq!(field(|wire| wire.port = 0), "port");
        assert_eq!(field(|wire| wire.port = 65536), "port");
        assert_eq!(field(|wire| wire.rule = "a\nb".to_owned()), "rule");
        assert_eq!(field(|wire| wire.rule = "a".repeat(192)), "rule");
        assert_eq!(field(|wire| wire.class = 99), "class");
        let histogram = |wire: &mut proto::Edge, bucket: proto::Bucket| {
            wire.total.get_or_insert_default().buckets.push(bucket);
        };
        let mut wire = good.clone();
        histogram(&mut wire, proto::Bucket { index: 50, ..proto::Bucket::default() });
        assert_eq!(Edge::try_from(wire).unwrap_err().field, "total.buckets[1].index");
        let mut wire = good.clone();
        histogram(&mut wire, proto::Bucket { phases_us: vec![0; 11], ..proto::Bucket::default() });
        assert_eq!(Edge::try_from(wire).unwrap_err().field, "total.buckets[1].phases_us");
        let mut wire = good;
        for _ in 0..BUCKETS {
            histogram(&mut wire, proto::Bucket::default());
        }
        assert_eq!(Edge::try_from(wire).unwrap_err().field, "total.buckets");
    }

    proptest! {
        #[test]
        fn an_edge_survives_a_round_trip(
            buckets in proptest::collection::vec(
                (
                    FIRST_BUCKET..=LAST_BUCKET,
                    proptest::array::uniform5(0..u64::MAX / 200),
                    proptest::array::uniform10(0..u64::MAX / 200),
                ),
                0..164,
            ),
        ) {
            let edge = edge(sparse(buckets.into_iter().map(|(index, sums, phases_us)| {
                let [count, total_us, requests, own_us, waiting_us] = sums;
                let app = AppSplit { requests, own_us, waiting_us };
                (index, Bucket { count: count + 1, total_us, phases_us, app })
            })));
            let parts = edge.to_wire();
            for part in &parts {
                prop_assert!(part.encoded_len() <= MAX_EDGE_BYTES);
            }
            prop_assert_eq!(joined(parts), edge);
        }
    }
}
