//! What signs, and how far a rotation is.

use std::time::SystemTime;

use outrigger_proto::identity::v1alpha1 as identity;
use serde::Serialize;

use super::{instant, node, rfc3339};
use crate::{duration, output::Output};

/// What `authority` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Authorities {
    pub(crate) root: Authority,
    pub(crate) intermediate: Authority,
    /// Sequence of the trust bundle.
    pub(crate) bundle_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rotation: Option<Rotation>,
}

/// A root or an intermediate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Authority {
    /// SHA-256 of its public key, hexadecimal.
    pub(crate) key_sha256: String,
    pub(crate) not_before: Option<String>,
    pub(crate) not_after: Option<String>,
}

/// A rotation under way.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rotation {
    /// `root`, `intermediate`
    pub(crate) of: &'static str,
    /// `prepared`, `retiring`, `tainted`
    pub(crate) stage: &'static str,
    /// The new one while it is prepared, then the old one.
    pub(crate) other: Authority,
    /// `activate`, `revoke`
    pub(crate) next_step: &'static str,
    /// Whether that step is safe.
    pub(crate) safe: bool,
    /// The first of the proxies that lag, and how many do.
    pub(crate) lagging: Vec<String>,
    pub(crate) lagging_count: u64,
    /// Proxies that ran before the control plane started have until then to come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) incomplete_until: Option<String>,
    /// Proxies that broke off without the new root, and may be running.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) absent: Vec<String>,
    /// Somebody who is not connected may hold a certificate of the old one until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificates_until: Option<String>,
}

/// The word for a kind.
pub(crate) fn kind(kind: identity::AuthorityKind) -> &'static str {
    match kind {
        identity::AuthorityKind::Unspecified => "none",
        identity::AuthorityKind::Root => "root",
        identity::AuthorityKind::Intermediate => "intermediate",
    }
}

impl Authority {
    fn new(authority: Option<&identity::Authority>) -> Self {
        let authority = authority.cloned().unwrap_or_default();
        Self {
            key_sha256: authority.key_sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: rfc3339(authority.not_before.as_ref()),
            not_after: rfc3339(authority.not_after.as_ref()),
        }
    }
}

impl Authorities {
    /// From the wire.
    pub(crate) fn new(wire: &identity::Authorities) -> Self {
        let (stage, next_step) = match wire.stage() {
            identity::RotationStage::Unspecified => ("none", "prepare"),
            identity::RotationStage::Prepared => ("prepared", "activate"),
            identity::RotationStage::Retiring => ("retiring", "revoke"),
            identity::RotationStage::Tainted => ("tainted", "revoke"),
        };
        let rotation = wire.other.as_ref().map(|other| Rotation {
            of: kind(wire.rotating()),
            stage,
            other: Authority::new(Some(other)),
            next_step,
            safe: wire.safe,
            lagging: wire.lagging.iter().map(|name| node(name)).collect(),
            lagging_count: wire.lagging_count,
            incomplete_until: rfc3339(wire.incomplete_until.as_ref()),
            absent: wire.absent.iter().map(|name| node(name)).collect(),
            certificates_until: rfc3339(wire.leaves_until.as_ref()),
        });
        Self {
            root: Authority::new(wire.root.as_ref()),
            intermediate: Authority::new(wire.intermediate.as_ref()),
            bundle_sequence: wire.sequence,
            rotation,
        }
    }
}

/// The first of `count` proxies and how many more there are, or both of two; `None` of none.
fn some_of(names: &[String], count: u64) -> Option<String> {
    Some(match (names, count) {
        ([], _) => return None,
        ([one], 0 | 1) => node(one),
        ([one, other], 2) => format!("{} and {}", node(one), node(other)),
        ([first, ..], count) => format!("{}, and {} more", node(first), count.saturating_sub(1)),
    })
}

/// What is in the way of the next step, one line for each reason.
pub(crate) fn obstacles(wire: &identity::Authorities, now: SystemTime) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(names) = some_of(&wire.lagging, wire.lagging_count) {
        lines.push(format!("lagging: {names}"));
    }
    if let Some(until) = instant(wire.incomplete_until.as_ref()) {
        let left = duration::span(until.duration_since(now).unwrap_or_default());
        lines.push(format!("proxies have {left} to come back after the control plane's start"));
    }
    if let Some(names) = some_of(&wire.absent, u64::try_from(wire.absent.len()).unwrap_or(u64::MAX)) {
        lines.push(format!("broke off, and may be running without the new root: {names}"));
    }
    if let Some(until) = instant(wire.leaves_until.as_ref()) {
        let left = duration::span(until.duration_since(now).unwrap_or_default());
        lines.push(format!(
            "the last certificate under the old one expires in {left}; a proxy that is not connected may hold one"
        ));
    }
    lines
}

/// The table for people, and below it what is in the way.
pub(crate) fn people(output: &Output, wire: &identity::Authorities, now: SystemTime) -> String {
    let row = |name: &str, state: &str, authority: Option<&identity::Authority>| {
        let shown = Authority::new(authority);
        let ends = authority.and_then(|authority| instant(authority.not_after.as_ref()));
        let key = shown.key_sha256.chars().take(16).collect();
        vec![name.to_owned(), state.to_owned(), key, duration::until(ends, now)]
    };
    let mut rows = vec![
        row("root", "active", wire.root.as_ref()),
        row("intermediate", "active", wire.intermediate.as_ref()),
    ];
    let view = Authorities::new(wire);
    let mut lines = Vec::new();
    if let Some(rotation) = &view.rotation {
        rows.push(row(rotation.of, rotation.stage, wire.other.as_ref()));
        lines.push(String::new());
        let verdict = if rotation.safe { "is safe" } else { "is not safe yet" };
        lines.push(format!("next: {}, which {verdict}", rotation.next_step));
        lines.extend(obstacles(wire, now));
    }
    lines.insert(0, output.table(&["AUTHORITY", "STATE", "KEY (SHA-256)", "EXPIRES"], rows, &[]));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::some_of;

    #[test]
    fn two_are_named_and_of_more_the_first() {
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(some_of(&[], 0), None);
        assert_eq!(some_of(&names[..1], 1).as_deref(), Some("a"));
        assert_eq!(some_of(&names[..2], 2).as_deref(), Some("a and b"));
        assert_eq!(some_of(&names, 3).as_deref(), Some("a, and 2 more"));
        assert_eq!(some_of(&names, 40).as_deref(), Some("a, and 39 more"), "not all are told");
    }
}
