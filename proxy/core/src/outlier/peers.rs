//! Whether an endpoint fails because of itself, or as everybody does.
//!
//! Two measures, both over the healthy others that answered anything in the last 10 s: how many of them failed in their
//! latest answer, which sees at once that all of an application broke, and the share of failures in all their answers of
//! those 10 s, which sees that it always fails that often. An endpoint is clearly worse if the others fail at most a third
//! as often as it does by both. Where more than a third of what they do fails, nobody is.

use std::{sync::Arc, time::Instant};

use super::Accrual;
use crate::window::Counts;

/// So many times as often.
const CLEARLY: u64 = 3;

/// Fewer answers of the others say nothing.
const EVIDENCE: u64 = 5;

/// The others, taken together.
#[derive(Debug, Default)]
struct Peers {
    active: u64,
    failing: u64,
    answers: Counts,
}

/// Whether the others show that it can be done better than by `accrual`, which has failed in a row.
pub(super) fn others_do_better(members: &[Arc<Accrual>], accrual: &Accrual, now: Instant) -> bool {
    let (peers, own) = (Peers::of(members, accrual, now), accrual.answers(now));
    peers.is_evidence()
        && CLEARLY * peers.failing <= peers.active
        && CLEARLY * peers.answers.rare * total(own) <= own.rare * total(peers.answers)
}

/// Whether the others fail too, now that a probe of `accrual` failed.
pub(super) fn others_fail_too(members: &[Arc<Accrual>], accrual: &Accrual, now: Instant) -> bool {
    let peers = Peers::of(members, accrual, now);
    peers.is_evidence()
        && (CLEARLY * peers.failing > peers.active || CLEARLY * peers.answers.rare > total(peers.answers))
}

impl Peers {
    fn of(members: &[Arc<Accrual>], accrual: &Accrual, now: Instant) -> Self {
        let mut peers = Self::default();
        for peer in members.iter().filter(|peer| !std::ptr::eq(Arc::as_ptr(peer), accrual)) {
            let answers = peer.answers(now);
            if peer.is_ejected() || total(answers) == 0 {
                continue;
            }
            peers.active += 1;
            peers.failing += u64::from(peer.is_failing());
            peers.answers.common += answers.common;
            peers.answers.rare += answers.rare;
        }
        peers
    }

    fn is_evidence(&self) -> bool {
        total(self.answers) >= EVIDENCE
    }
}

fn total(answers: Counts) -> u64 {
    answers.common + answers.rare
}
