//! Sets of objects that are applied together: what an earlier Apply of the same set wrote, and this one does not have, is
//! pruned in the namespaces that this one has objects of, and only there. A name of a set is anybody's: who writes to one
//! namespace must neither stand in the way of a set in another, nor have something of it deleted. Which set an object is
//! in stands on the object itself. Pure.

use outrigger_core::model::{Metadata, Name, Object, ObjectRef, Violation};
use outrigger_proto::policy::v1alpha1::{self as proto, item_result::Action};
use tonic::Code;

use super::{Items, Rejected, result};
use crate::{
    api::diagnostics::diagnostic,
    store::{Revision, objects::Objects},
};

/// The set of an Apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Set {
    name: Name,
    prune: bool,
}

impl Set {
    /// Reads the fields of a request; `None`: it is of no set.
    ///
    /// # Errors
    /// The name is none, or there is something to prune from nothing.
    pub(in crate::api) fn new(name: &str, prune: bool) -> Result<Option<Self>, Rejected> {
        let wrong = |violation: &Violation| Rejected::because(Code::InvalidArgument, violation);
        if name.is_empty() {
            let violation = Violation::error("prune", "required", "there is no set to prune")
                .remedy("name the set that the objects belong to");
            return if prune { Err(wrong(&violation)) } else { Ok(None) };
        }
        let name = name.parse::<Name>();
        let name =
            name.map_err(|error| wrong(&Violation::error("set", "invalid_name", error.to_string())))?;
        Ok(Some(Self { name, prune }))
    }

    /// What becomes of the set's objects that are not among `items`.
    pub(super) fn rest(&self, base: &Objects, items: &Items<'_>) -> Rest {
        let mut rest = Rest::default();
        if !self.prune {
            return rest;
        }
        let namespaces = items.namespaces();
        let ours = base.iter().filter(|(_, object)| set_of(object) == Some(self.name.as_str()));
        for (reference, object) in ours.filter(|(reference, _)| !items.has(reference)) {
            if namespaces.contains(&reference.namespace) {
                rest.gone.push(reference.clone());
            } else {
                rest.left.push(Left {
                    object: reference.clone(),
                    revision: object.metadata.revision,
                    set: self.name.clone(),
                });
            }
        }
        rest
    }

    /// Why `current` may not be taken into the set.
    pub(super) fn conflict(&self, current: &Object) -> Option<Violation> {
        let other = set_of(current).filter(|other| *other != self.name.as_str())?;
        let message = format!("it belongs to the set '{other}'");
        let remedy = "apply it with that set, or delete it first";
        Some(Violation::error("set", "conflict", message).remedy(remedy))
    }
}

/// The objects of a set that a request does not have.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// To be pruned.
    pub(super) gone: Vec<ObjectRef>,
    /// Out of the request's reach.
    pub(super) left: Vec<Left>,
}

/// An object of the set that stays although the request does not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Left {
    /// Which.
    pub(in crate::api) object: ObjectRef,
    revision: Revision,
    set: Name,
}

impl Left {
    /// What is said of it.
    pub(in crate::api) fn result(&self) -> proto::ItemResult {
        let message = format!(
            "it belongs to the set '{}' and stays: the request has no object of its namespace",
            self.set
        );
        let violation = Violation::warning("prune", "not_pruned", message).remedy("delete it if it is to go");
        proto::ItemResult {
            diagnostics: vec![diagnostic(&violation, Some(&self.object), "")],
            ..result(&self.object, Action::Unchanged, self.revision)
        }
    }
}

/// `wanted` in its set: that of the request, else the one that it is in.
pub(super) fn placed(wanted: &Object, current: Option<&Object>, set: Option<&Set>) -> Object {
    let mut object = wanted.clone();
    let name = set.map(|set| set.name.as_str()).or_else(|| current.and_then(set_of));
    match name {
        Some(name) => object.metadata.annotations.insert(Metadata::APPLIED_SET.to_owned(), name.to_owned()),
        None => object.metadata.annotations.remove(Metadata::APPLIED_SET),
    };
    object
}

fn set_of(object: &Object) -> Option<&str> {
    object.metadata.annotations.get(Metadata::APPLIED_SET).map(String::as_str)
}
