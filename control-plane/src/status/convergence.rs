//! Has everybody applied it, and who has not.

use std::collections::BTreeSet;

use outrigger_core::wire;
use outrigger_proto::status::v1alpha1::{Convergence, ProxyState};
use prost::Message;
use tokio::time::Instant;

use super::Node;
use crate::{
    registry::{Snapshot, Standing},
    store::PAGE_BYTES,
};

/// How far the proxies are with one revision.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standings {
    revision: u64,
    targeted: usize,
    behind: Vec<ProxyState>,
    /// Some proxy rejected it, and no news is to be expected.
    rejected: bool,
}

impl Standings {
    /// Judges the proxies on the board and those that are registered without a stream, which nobody can reach.
    pub(super) fn new(revision: u64, nodes: &[Node], registry: &Snapshot) -> Self {
        let unreachable: Vec<ProxyState> = unreachable(nodes, registry);
        let mut behind: Vec<ProxyState> =
            nodes.iter().filter(|node| !node.current(revision)).map(Node::to_wire).collect();
        let rejected = nodes.iter().any(|node| {
            node.connected()
                && node.progress.applied < revision
                && node.progress.rejections.iter().any(|rejection| rejection.revision >= revision)
        });
        let targeted = nodes.len() + unreachable.len();
        behind.extend(unreachable);
        // An answer may have no room for all: who says why comes first.
        behind.sort_by_key(|proxy| proxy.rejections.is_empty());
        Self { revision, targeted, behind, rejected }
    }

    /// Whether waiting longer changes nothing.
    pub(super) fn done(&self) -> bool {
        self.behind.is_empty() || self.rejected
    }

    /// For the API; as many of those behind as fit a message, and the number of all.
    pub(super) fn to_wire(&self, committed: Option<Instant>, last: bool) -> Convergence {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut bytes = 0;
        let fitting = self.behind.iter().take_while(|proxy| {
            bytes += proxy.encoded_len();
            bytes <= PAGE_BYTES
        });
        Convergence {
            revision: self.revision,
            targeted: count(self.targeted),
            current: count(self.targeted - self.behind.len()),
            done: last,
            converged: self.behind.is_empty(),
            behind: fitting.cloned().collect(),
            elapsed: committed.map(|since| wire::time::encode_duration(since.elapsed())),
        }
    }
}

/// Registered workloads whose proxies have no discovery stream: they run on what they know.
pub(crate) fn unreachable(nodes: &[Node], registry: &Snapshot) -> Vec<ProxyState> {
    let known: BTreeSet<&str> = nodes.iter().map(|node| &*node.id).collect();
    let members = registry.members.values().filter(|member| member.standing == Standing::Live);
    let states = members.filter_map(|member| {
        let claim = &member.registration.claim;
        let id = format!("{}#{}", claim.identity, claim.name.id);
        (!known.contains(id.as_str())).then(|| ProxyState {
            node_id: id,
            spiffe_id: claim.identity.to_string(),
            connected: false,
            ..ProxyState::default()
        })
    });
    states.collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_proto::status::v1alpha1::Rejection;

    use super::*;
    use crate::{
        registry::{Limits, Table},
        status::{Board, Progress},
    };

    #[test]
    fn the_answer_fits_a_message_however_many_are_behind() {
        let (board, now) = (Board::default(), Instant::now());
        let identity = "spiffe://outrigger.local/ns/demo/sa/front".parse().unwrap();
        for number in 0..10_000 {
            let (stream, id) = (format!("{number}"), format!("{identity}#front-{number:05}"));
            drop(board.connect(&stream, &id, &identity, "0.1.0", SystemTime::UNIX_EPOCH));
        }
        let rejections = vec![Rejection { revision: 1, ..Rejection::default() }];
        board.progress("9999", Progress { rejections, ..Progress::default() });
        let registry = Table::load(Limits::default(), 0, [], now).snapshot();
        let answer = Standings::new(1, &board.nodes(now), &registry).to_wire(None, true);
        assert!(answer.encoded_len() < 2 * PAGE_BYTES, "{}", answer.encoded_len());
        assert_eq!((answer.targeted, answer.current, answer.converged), (10_000, 0, false));
        assert!(answer.behind[0].node_id.ends_with("#front-09999"), "who says why comes first");
    }
}
