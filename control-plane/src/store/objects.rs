//! The operators' objects as one immutable picture: what compile reads, and what a write is checked against.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_core::model::{Kind, MeshConfigSpec, Object, ObjectRef, Spec};

use super::Revision;

/// All objects at one revision. Published whole after each change; cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    revision: Revision,
    by_ref: BTreeMap<ObjectRef, Arc<Object>>,
}

impl Objects {
    /// The picture of `by_ref` at `revision`.
    pub fn new(revision: Revision, by_ref: BTreeMap<ObjectRef, Arc<Object>>) -> Self {
        Self { revision, by_ref }
    }

    /// The store's revision that last changed an object.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The object of that name.
    pub fn get(&self, object: &ObjectRef) -> Option<&Arc<Object>> {
        self.by_ref.get(object)
    }

    /// All of them by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectRef, &Arc<Object>)> {
        self.by_ref.iter()
    }

    /// Those of one kind, by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, &Arc<Object>)> {
        self.by_ref.iter().filter(move |(object, _)| object.kind == kind)
    }

    /// The mesh's knobs: those written, or the defaults.
    pub fn mesh_config(&self) -> MeshConfigSpec {
        self.of_kind(Kind::MeshConfig)
            .find_map(|(_, object)| match &object.spec {
                Spec::MeshConfig(spec) => Some(spec.clone()),
                Spec::Service(_) | Spec::Route(_) => None,
            })
            .unwrap_or_default()
    }
}
