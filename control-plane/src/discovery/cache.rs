//! Encoded resources, shared by all streams with the same view: a resource is compiled once, not once a proxy.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{Resource, ResourceName};
use crate::compile::View;

/// Holds what exists and was asked for since it last changed: bounded by the mesh's resources times its namespaces.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The newest world. Readers of older ones put nothing in: it may be stale.
    newest: u64,
    content: BTreeMap<ResourceName, BTreeMap<Option<View>, Arc<Resource>>>,
}

impl Cache {
    /// Empty, for the world of that number.
    pub(super) fn new(sequence: u64) -> Self {
        Self(Mutex::new(Inner { newest: sequence, content: BTreeMap::new() }))
    }

    /// The content of `name` for `view` as of world number `sequence` or later, or what `compile` makes of it.
    pub(super) fn get_or_compile(
        &self,
        sequence: u64,
        name: ResourceName,
        view: Option<View>,
        compile: impl FnOnce() -> Option<Resource>,
    ) -> Option<Arc<Resource>> {
        if let Some(found) = self.0.lock().content.get(&name).and_then(|views| views.get(&view)) {
            return Some(Arc::clone(found));
        }
        // Outside of the lock: two streams may do it twice.
        let resource = Arc::new(compile()?);
        let mut inner = self.0.lock();
        if inner.newest == sequence {
            inner.content.entry(name).or_default().insert(view, Arc::clone(&resource));
        }
        Some(resource)
    }

    /// World number `sequence` is the newest, and changed `names`.
    pub(super) fn advance<'a>(&self, sequence: u64, names: impl IntoIterator<Item = &'a ResourceName>) {
        let mut inner = self.0.lock();
        inner.newest = sequence;
        for name in names {
            inner.content.remove(name);
        }
    }
}
