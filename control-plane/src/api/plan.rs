//! What a write would do, worked out in full before anything is stored. Pure: the picture and the request in, changes or
//! reasons out. Apply, its dry run, Delete and Rollback differ in nothing else.

pub(super) mod rollback;
mod set;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use outrigger_core::{
    model::{Name, Object, ObjectRef, Violation},
    wire,
};
use outrigger_proto::policy::v1alpha1::{self as proto, item_result::Action, precondition};
use tonic::Code;

pub(super) use set::Set;

use super::{
    compiled,
    diagnostics::diagnostic,
    references::{self, Clash, Dangling},
};
use crate::store::{
    Revision,
    objects::{Change, Objects},
};

/// Most items of one request.
pub(super) const MAX_ITEMS: usize = 64;

/// Who writes, and when.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    /// SPIFFE ID.
    pub(super) principal: &'a str,
    /// When.
    pub(super) now: SystemTime,
}

/// A write that may go on.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// What changes; empty when everything is as it should be.
    pub(super) changes: Vec<Change>,
    /// One for each item, in the order of the request. The revision of what changes is not known yet.
    pub(super) results: Vec<proto::ItemResult>,
}

impl Plan {
    /// Shows each object that changes as it is in `base`, and as it would be.
    pub(super) fn preview(&mut self, base: &Objects) {
        let after: BTreeMap<ObjectRef, &Object> = self
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Put(object) => Some((object.reference(), &**object)),
                Change::Delete(_) => None,
            })
            .collect();
        for result in self.results.iter_mut().filter(|result| result.action() != Action::Unchanged) {
            let reference = result.r#ref.as_ref().map(wire::policy::object_ref);
            if let Some(Ok(reference)) = reference {
                result.before = base.get(&reference).map(|object| object.as_ref().into());
                result.after = after.get(&reference).map(|object| (*object).into());
            }
        }
    }
}

/// A write that may not.
#[derive(Debug, PartialEq)]
pub(super) struct Rejected {
    /// The kind of the first reason.
    pub(super) code: Code,
    /// All reasons.
    pub(super) diagnostics: Vec<proto::Diagnostic>,
}

impl Rejected {
    /// For one reason that is no object's.
    pub(super) fn because(code: Code, violation: &Violation) -> Self {
        Self { code, diagnostics: vec![diagnostic(violation, None, "")] }
    }

    fn invalid(diagnostics: Vec<proto::Diagnostic>) -> Self {
        Self { code: Code::InvalidArgument, diagnostics }
    }
}

/// The objects of an Apply, each valid on its own.
#[derive(Debug)]
pub(super) struct Items<'a>(Vec<(Object, &'a proto::ApplyItem)>);

impl Items<'_> {
    /// In which namespaces they are; `None` stands for the mesh's own.
    pub(super) fn namespaces(&self) -> BTreeSet<Option<Name>> {
        self.0.iter().map(|(object, _)| object.metadata.namespace.clone()).collect()
    }

    fn has(&self, reference: &ObjectRef) -> bool {
        self.0.iter().any(|(object, _)| object.reference() == *reference)
    }
}

/// Decodes and validates each item.
///
/// # Errors
/// Everything that is wrong with any of them.
pub(super) fn items(request: &[proto::ApplyItem]) -> Result<Items<'_>, Rejected> {
    count(request.len())?;
    let mut diagnostics = Vec::new();
    let mut seen = BTreeSet::new();
    let mut objects = Vec::with_capacity(request.len());
    for item in request {
        let wire = as_written(item.object.as_ref());
        match wire::policy::object(&wire) {
            Ok(object) => {
                let reference = object.reference();
                if !seen.insert(reference.clone()) {
                    let violation =
                        Violation::error("metadata.name", "duplicate", "the request has this object twice")
                            .remedy("leave one of them out");
                    diagnostics.push(diagnostic(&violation, Some(&reference), &item.source));
                }
                objects.push((object, item));
            }
            Err(violations) => {
                let said = claimed(&wire);
                diagnostics.extend(violations.iter().map(|violation| proto::Diagnostic {
                    r#ref: said.clone(),
                    ..diagnostic(violation, None, &item.source)
                }));
            }
        }
    }
    if diagnostics.is_empty() { Ok(Items(objects)) } else { Err(Rejected::invalid(diagnostics)) }
}

/// Works out an Apply.
///
/// # Errors
/// A precondition does not hold, an object is of another set, a reference dangles, a target has a policy already, or
/// proxies could not take what comes of it.
pub(super) fn apply(
    base: &Objects,
    items: &Items<'_>,
    set: Option<&Set>,
    writer: &Writer<'_>,
) -> Result<Plan, Rejected> {
    let mut draft = Draft::default();
    for (object, item) in &items.0 {
        let reference = object.reference();
        let current = base.get(&reference).map(AsRef::as_ref);
        let taken = set.and_then(|set| current.and_then(|current| set.conflict(current)));
        if let Some(violation) = unmet(item.precondition.as_ref(), current).or(taken) {
            draft.conflicts.push(diagnostic(&violation, Some(&reference), &item.source));
        }
        let object = set::placed(object, current, set);
        let (action, revision, change) = match current {
            Some(current) if same(current, &object) => (Action::Unchanged, current.metadata.revision, None),
            Some(current) => (Action::Updated, 0, Some(update(current, &object, writer))),
            None => (Action::Created, 0, Some(create(&object, writer))),
        };
        draft.changes.extend(change.map(|object| Change::Put(Box::new(object))));
        draft.results.push(result(&reference, action, revision));
    }
    for reference in set.map_or_else(Vec::new, |set| set.pruned(base, items)) {
        draft.delete(&reference);
    }
    draft.judge(base)
}

/// The references of a Delete.
///
/// # Errors
/// Everything that is wrong with any of them.
pub(super) fn targets(
    request: &[proto::DeleteItem],
) -> Result<Vec<(ObjectRef, &proto::DeleteItem)>, Rejected> {
    count(request.len())?;
    let mut diagnostics = Vec::new();
    let mut seen = BTreeSet::new();
    let mut targets = Vec::with_capacity(request.len());
    for (index, item) in request.iter().enumerate() {
        let wire = item.r#ref.clone().unwrap_or_default();
        match wire::policy::object_ref(&wire) {
            Ok(reference) => {
                if !seen.insert(reference.clone()) {
                    let violation = Violation::error("", "duplicate", "the request has this object twice");
                    diagnostics.push(diagnostic(&violation, Some(&reference), ""));
                }
                targets.push((reference, item));
            }
            Err(violation) => {
                let violation = violation.under(&format!("items[{index}].ref"));
                let said = proto::ObjectRef {
                    namespace: cut(&wire.namespace),
                    name: cut(&wire.name),
                    kind: wire.kind,
                };
                diagnostics.push(proto::Diagnostic { r#ref: Some(said), ..diagnostic(&violation, None, "") });
            }
        }
    }
    if diagnostics.is_empty() { Ok(targets) } else { Err(Rejected::invalid(diagnostics)) }
}

/// Works out a Delete.
///
/// # Errors
/// An object is not there, a precondition does not hold, or something else refers to what would go.
pub(super) fn delete(base: &Objects, targets: &[(ObjectRef, &proto::DeleteItem)]) -> Result<Plan, Rejected> {
    let mut missing = Vec::new();
    let mut draft = Draft { mends: true, ..Draft::default() };
    for (reference, item) in targets {
        let current = base.get(reference).map(AsRef::as_ref);
        if current.is_none() {
            let violation = Violation::error("", "not_found", "there is no such object");
            missing.push(diagnostic(&violation, Some(reference), ""));
        } else if let Some(violation) = unmet(item.precondition.as_ref(), current) {
            draft.conflicts.push(diagnostic(&violation, Some(reference), ""));
        }
        draft.delete(reference);
    }
    if !missing.is_empty() {
        return Err(Rejected { code: Code::NotFound, diagnostics: missing });
    }
    draft.judge(base)
}

/// A write before it is judged.
#[derive(Debug, Default)]
struct Draft {
    conflicts: Vec<proto::Diagnostic>,
    changes: Vec<Change>,
    results: Vec<proto::ItemResult>,
    /// What is deleted.
    going: BTreeSet<ObjectRef>,
    /// It only deletes: what was too much before it must not stand in its way.
    mends: bool,
}

impl Draft {
    fn delete(&mut self, reference: &ObjectRef) {
        self.going.insert(reference.clone());
        self.changes.push(Change::Delete(reference.clone()));
        self.results.push(result(reference, Action::Deleted, 0));
    }

    fn judge(self, base: &Objects) -> Result<Plan, Rejected> {
        let Self { conflicts, changes, results, going, mends } = self;
        if !conflicts.is_empty() {
            return Err(Rejected { code: Code::Aborted, diagnostics: conflicts });
        }
        let after = base.after(&changes, base.revision());
        let dangling = references::check(&after);
        if !dangling.is_empty() {
            let code = if going.is_empty() { Code::InvalidArgument } else { Code::FailedPrecondition };
            let diagnostics = dangling.iter().map(|dangling| said_of(dangling, &going)).collect();
            return Err(Rejected { code, diagnostics });
        }
        let clashes = references::clashes(base, &after);
        if !clashes.is_empty() {
            let said = |clash: &Clash| diagnostic(&clash.violation, Some(&clash.object), "");
            return Err(Rejected::invalid(clashes.iter().map(said).collect()));
        }
        let unacceptable = if mends { Vec::new() } else { compiled::check(base, &after) };
        if !unacceptable.is_empty() {
            let said = |found: &compiled::Unacceptable| diagnostic(&found.violation, Some(&found.object), "");
            return Err(Rejected::invalid(unacceptable.iter().map(said).collect()));
        }
        Ok(Plan { changes, results })
    }
}

/// A dangling reference, told as a defect of what would go when it goes, else of what refers to it.
fn said_of(dangling: &Dangling, going: &BTreeSet<ObjectRef>) -> proto::Diagnostic {
    if !going.contains(&dangling.target) {
        return diagnostic(&dangling.violation, Some(&dangling.object), "");
    }
    let message = format!("{} refers to it in {}", dangling.object, dangling.violation.field);
    let violation = Violation::error("", "referenced", message)
        .remedy("change or delete that first, or delete both in one call");
    diagnostic(&violation, Some(&dangling.target), "")
}

fn count(items: usize) -> Result<(), Rejected> {
    if (1..=MAX_ITEMS).contains(&items) {
        return Ok(());
    }
    let violation = Violation::error("items", "out_of_range", format!("the request has {items} items"))
        .remedy(format!("send 1 to {MAX_ITEMS} in one request"));
    Err(Rejected::invalid(vec![diagnostic(&violation, None, "")]))
}

/// The part of an object that is its author's; the rest is ours, and ignored in a write.
fn as_written(object: Option<&proto::Object>) -> proto::Object {
    let mut wire = object.cloned().unwrap_or_default();
    wire.status = None;
    wire.metadata = wire.metadata.map(|metadata| proto::Metadata {
        namespace: metadata.namespace,
        name: metadata.name,
        labels: metadata.labels,
        annotations: metadata.annotations,
        ..proto::Metadata::default()
    });
    wire
}

/// What an object that is not valid says of itself.
fn claimed(wire: &proto::Object) -> Option<proto::ObjectRef> {
    let metadata = wire.metadata.as_ref()?;
    let kind = match wire.spec.as_ref()? {
        proto::object::Spec::Service(_) => proto::Kind::Service,
        proto::object::Spec::Route(_) => proto::Kind::Route,
        proto::object::Spec::TrafficPolicy(_) => proto::Kind::TrafficPolicy,
        proto::object::Spec::MeshConfig(_) => proto::Kind::MeshConfig,
    };
    Some(proto::ObjectRef {
        kind: kind.into(),
        namespace: cut(&metadata.namespace),
        name: cut(&metadata.name),
    })
}

/// The beginning of a name that may be none.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn unmet(precondition: Option<&proto::Precondition>, current: Option<&Object>) -> Option<Violation> {
    let conflict = |message: String| {
        let remedy = "get the object and apply your change to what it is now, or leave the revision out to overwrite it";
        Some(Violation::error("metadata.revision", "conflict", message).remedy(remedy))
    };
    match (precondition.and_then(|precondition| precondition.kind), current) {
        (Some(precondition::Kind::Revision(expected)), Some(object))
            if object.metadata.revision != expected =>
        {
            conflict(format!("it is at revision {}, not {expected}", object.metadata.revision))
        }
        (Some(precondition::Kind::Revision(expected)), None) => {
            conflict(format!("it does not exist, and is expected at revision {expected}"))
        }
        (Some(precondition::Kind::MustNotExist(true)), Some(object)) => {
            conflict(format!("it exists already, at revision {}", object.metadata.revision))
        }
        _ => None,
    }
}

/// Whether an author would see no difference.
fn same(current: &Object, wanted: &Object) -> bool {
    current.spec == wanted.spec
        && current.metadata.labels == wanted.metadata.labels
        && current.metadata.annotations == wanted.metadata.annotations
}

fn create(object: &Object, writer: &Writer<'_>) -> Object {
    let mut object = object.clone();
    object.metadata.generation = 1;
    object.metadata.created = Some(writer.now);
    object.metadata.updated = Some(writer.now);
    object.metadata.updated_by = writer.principal.to_owned();
    object.metadata.uid = format!("{:032x}", rand::random::<u128>());
    object
}

fn update(current: &Object, wanted: &Object, writer: &Writer<'_>) -> Object {
    let mut object = wanted.clone();
    let spec_changed = u64::from(current.spec != wanted.spec);
    object.metadata.generation = current.metadata.generation + spec_changed;
    object.metadata.created = current.metadata.created;
    object.metadata.updated = Some(writer.now);
    object.metadata.updated_by = writer.principal.to_owned();
    object.metadata.uid = current.metadata.uid.clone();
    object
}

fn result(reference: &ObjectRef, action: Action, revision: Revision) -> proto::ItemResult {
    proto::ItemResult {
        r#ref: Some(reference.into()),
        action: action.into(),
        revision,
        ..proto::ItemResult::default()
    }
}
