//! Working out a Rollback: a new write with the content of an earlier revision, judged like any other. Pure.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_core::model::{Object, ObjectRef, Violation};
use outrigger_proto::policy::v1alpha1::item_result::Action;
use tonic::Code;

use super::{Draft, Plan, Rejected, Writer, create, result, same, update};
use crate::{
    api::diagnostics::diagnostic,
    store::{
        Entry, HistoryError, Key, Revision,
        objects::{self, Change, Objects},
    },
};

/// Works out what makes `only`, or all objects, what they are in `past`, which is that of `revision`.
///
/// # Errors
/// An object of the past would be refused now, a reference would dangle, or the one object was not there.
pub(in crate::api) fn rollback(
    base: &Objects,
    past: &[Entry],
    only: Option<&ObjectRef>,
    revision: Revision,
    writer: &Writer<'_>,
) -> Result<Plan, Rejected> {
    let past = decode(past, only, revision)?;
    if let Some(reference) = only
        && !past.contains_key(reference)
    {
        let message = format!("it was not there at revision {revision}");
        let violation = Violation::error("", "not_found", message)
            .remedy("`outrigger history` shows when it was; to have it gone, delete it");
        return Err(Rejected { code: Code::NotFound, diagnostics: vec![diagnostic(&violation, only, "")] });
    }
    let concerned: BTreeSet<&ObjectRef> = match only {
        Some(reference) => BTreeSet::from([reference]),
        None => past.keys().chain(base.iter().map(|(reference, _)| reference)).collect(),
    };
    let mut draft = Draft::default();
    for reference in concerned {
        let current = base.get(reference).map(AsRef::as_ref);
        let (action, object) = match (current, past.get(reference)) {
            (Some(current), Some(old)) if same(current, old) => continue,
            (Some(current), Some(old)) => (Action::Updated, update(current, old, writer)),
            (None, Some(old)) => (Action::Created, create(old, writer)),
            (_, None) => {
                draft.delete(reference);
                continue;
            }
        };
        draft.changes.push(Change::Put(Box::new(object)));
        draft.results.push(result(reference, action, 0));
    }
    draft.judge(base)
}

/// A past that cannot be gone back to.
pub(in crate::api) fn unknown(error: &HistoryError) -> Rejected {
    let code =
        if matches!(error, HistoryError::Future { .. }) { Code::InvalidArgument } else { Code::OutOfRange };
    let violation = Violation::error("revision", "not_kept", error.to_string())
        .remedy("`outrigger history` shows the revisions that are kept");
    Rejected::because(code, &violation)
}

/// Somebody was faster.
pub(in crate::api) fn changed(only: Option<&ObjectRef>, changed: Revision, since: Revision) -> Rejected {
    let message = format!("it was changed by revision {changed}, after {since}");
    let violation = Violation::error("unchanged_since", "conflict", message)
        .remedy("look at what changed, and roll back from what it is now");
    Rejected { code: Code::Aborted, diagnostics: vec![diagnostic(&violation, only, "")] }
}

/// The request does not say where to.
pub(in crate::api) fn nowhere() -> Rejected {
    let violation = Violation::error("target", "required", "it does not say which revision to go back to")
        .remedy("write a revision of the store, or an object and a revision");
    Rejected::because(Code::InvalidArgument, &violation)
}

fn decode(
    past: &[Entry],
    only: Option<&ObjectRef>,
    revision: Revision,
) -> Result<BTreeMap<ObjectRef, Object>, Rejected> {
    let key = only.map(Key::object);
    let mut decoded = BTreeMap::new();
    let mut refused = Vec::new();
    for entry in past.iter().filter(|entry| key.as_ref().is_none_or(|key| *key == entry.key)) {
        match objects::decode(&entry.key, &entry.value, entry.revision) {
            Ok(object) => {
                decoded.insert(object.reference(), object);
            }
            Err(error) => {
                let message = format!("what it was at revision {revision} is refused now: {error}");
                refused.push(diagnostic(&Violation::error("", "invalid", message), None, ""));
            }
        }
    }
    if refused.is_empty() { Ok(decoded) } else { Err(Rejected::invalid(refused)) }
}
