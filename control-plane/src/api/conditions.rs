//! What the server finds out about an object, as in the Gateway API. Worked out when somebody asks.

use std::sync::Arc;

use outrigger_core::model::{Condition, Kind, Object};

use crate::store::Revision;

/// How far a revision has come on the proxies that it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programmed {
    /// All of them applied it.
    Everywhere {
        /// How many.
        proxies: usize,
    },
    /// Some did not, yet.
    Behind {
        /// How many did not.
        behind: usize,
        /// Of how many.
        proxies: usize,
    },
}

/// Tells how far a revision has come.
pub type Progress = Arc<dyn Fn(Revision) -> Programmed + Send + Sync>;

/// The object with its conditions.
pub(super) fn with_conditions(object: &Object, progress: &Progress) -> Object {
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
    if object.spec.kind() == Kind::Route {
        conditions.push(Condition {
            since: stored,
            ..condition("ResolvedRefs", true, "ResolvedRefs", String::new())
        });
    }
    conditions.push(match progress(object.metadata.revision) {
        Programmed::Everywhere { proxies: 0 } => {
            condition("Programmed", true, "NoProxies", "no proxy is connected".to_owned())
        }
        Programmed::Everywhere { proxies } => {
            condition("Programmed", true, "Programmed", format!("applied by all of {proxies} proxies"))
        }
        Programmed::Behind { behind, proxies } => condition(
            "Programmed",
            false,
            "Pending",
            format!("{behind} of {proxies} proxies have not applied it"),
        ),
    });
    Object { conditions, ..object.clone() }
}
