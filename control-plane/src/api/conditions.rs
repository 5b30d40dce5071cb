//! What the server finds out about an object, as in the Gateway API. Worked out when somebody asks.

use std::sync::Arc;

use outrigger_core::model::{Condition, Kind, Object};

use crate::store::Revision;

/// What each proxy applied: everything up to a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Ascending.
    revisions: Vec<Revision>,
}

impl FromIterator<Revision> for Applied {
    fn from_iter<I: IntoIterator<Item = Revision>>(revisions: I) -> Self {
        let mut revisions: Vec<Revision> = revisions.into_iter().collect();
        revisions.sort_unstable();
        Self { revisions }
    }
}

impl Applied {
    fn behind(&self, revision: Revision) -> usize {
        self.revisions.partition_point(|applied| *applied < revision)
    }
}

/// Tells what each proxy applied.
pub type Progress = Arc<dyn Fn() -> Applied + Send + Sync>;

/// The object with its conditions.
pub(super) fn with_conditions(object: &Object, applied: &Applied) -> Object {
    let generation = object.metadata.generation;
    let condition = |kind: &str, status: bool, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        since: None,
    };
    let stored = object.metadata.updated;
    let mut conditions =
        vec![Condition { since: stored, ..condition("Accepted", true, "Accepted", String::new()) }];
    // What dangles is refused at the write, and what is referred to cannot be deleted.
    if matches!(object.spec.kind(), Kind::Route | Kind::TrafficPolicy) {
        conditions.push(Condition {
            since: stored,
            ..condition("ResolvedRefs", true, "ResolvedRefs", String::new())
        });
    }
    let proxies = applied.revisions.len();
    conditions.push(match applied.behind(object.metadata.revision) {
        0 if proxies == 0 => condition("Programmed", true, "NoProxies", "no proxy is connected".to_owned()),
        0 => condition("Programmed", true, "Programmed", format!("in force on all of {proxies} proxies")),
        behind => condition(
            "Programmed",
            false,
            "Pending",
            format!("not in force on {behind} of {proxies} proxies"),
        ),
    });
    Object { conditions, ..object.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_behind_until_it_applied_the_revision() {
        let applied: Applied = [7, 0, 9].into_iter().collect();
        for (revision, behind) in [(0, 0), (1, 1), (7, 1), (8, 2), (10, 3)] {
            assert_eq!(applied.behind(revision), behind, "{revision}");
        }
    }
}
