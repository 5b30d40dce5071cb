//! Sets of objects that are applied together: what an earlier Apply of the same set wrote, and this one does not have, is
//! pruned. Which set an object is in stands on the object itself. Pure.

use outrigger_core::model::{Name, Object, ObjectRef, Violation};
use tonic::Code;

use super::{Items, Rejected};
use crate::store::objects::Objects;

/// The annotation with the name of an object's set.
pub(in crate::api) const ANNOTATION: &str = "outrigger.dev/applied-set";

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

    /// What is to be pruned: the set's objects that are not among `items`.
    pub(super) fn pruned(&self, base: &Objects, items: &Items<'_>) -> Vec<ObjectRef> {
        if !self.prune {
            return Vec::new();
        }
        let ours = base.iter().filter(|(_, object)| set_of(object) == Some(self.name.as_str()));
        let gone = ours.filter(|(reference, _)| !items.has(reference));
        gone.map(|(reference, _)| reference.clone()).collect()
    }

    /// Why `current` may not be taken into the set.
    pub(super) fn conflict(&self, current: &Object) -> Option<Violation> {
        let other = set_of(current).filter(|other| *other != self.name.as_str())?;
        let message = format!("it belongs to the set '{other}'");
        let remedy = "apply it with that set, or delete it first";
        Some(Violation::error("set", "conflict", message).remedy(remedy))
    }
}

/// `wanted` in its set: that of the request, else the one that it is in.
pub(super) fn placed(wanted: &Object, current: Option<&Object>, set: Option<&Set>) -> Object {
    let mut object = wanted.clone();
    let name = set.map(|set| set.name.as_str()).or_else(|| current.and_then(set_of));
    match name {
        Some(name) => object.metadata.annotations.insert(ANNOTATION.to_owned(), name.to_owned()),
        None => object.metadata.annotations.remove(ANNOTATION),
    };
    object
}

fn set_of(object: &Object) -> Option<&str> {
    object.metadata.annotations.get(ANNOTATION).map(String::as_str)
}
