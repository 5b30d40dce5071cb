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
    content: BTreeMap<ResourceName, BTreeMap<Option<View>, Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// The world that it was compiled from; it holds for all since.
    since: u64,
    resource: Arc<Resource>,
}

impl Cache {
    /// Empty, for the world of that number.
    pub(super) fn new(sequence: u64) -> Self {
        Self(Mutex::new(Inner { newest: sequence, content: BTreeMap::new() }))
    }

    /// The content of `name` for `view` as of world number `sequence`, or what `compile` makes of it. Never that of a
    /// later world: what it refers to would be missing from the reader's.
    pub(super) fn get_or_compile(
        &self,
        sequence: u64,
        name: ResourceName,
        view: Option<View>,
        compile: impl FnOnce() -> Option<Resource>,
    ) -> Option<Arc<Resource>> {
        if let Some(kept) = self.0.lock().content.get(&name).and_then(|views| views.get(&view))
            && kept.since <= sequence
        {
            return Some(Arc::clone(&kept.resource));
        }
        // Outside of the lock: two streams may do it twice.
        let resource = Arc::new(compile()?);
        let mut inner = self.0.lock();
        if inner.newest == sequence {
            let kept = Kept { since: sequence, resource: Arc::clone(&resource) };
            inner.content.entry(name).or_default().insert(view, kept);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(version: &str) -> Option<Resource> {
        Some(Resource { version: version.to_owned(), body: Vec::new(), causes: Vec::new() })
    }

    #[test]
    fn nobody_reads_what_is_older_or_newer_than_its_world() {
        let cache = Cache::new(1);
        let name = ResourceName::proxy_config;
        let get = |sequence, version| {
            let found = cache.get_or_compile(sequence, name(), None, || resource(version));
            found.unwrap().version.clone()
        };
        assert_eq!(get(1, "one"), "one");
        assert_eq!(get(1, "again"), "one", "compiled once");
        cache.advance(2, []);
        assert_eq!(get(2, "again"), "one", "what did not change holds on");
        cache.advance(3, &[name()]);
        assert_eq!(get(3, "three"), "three");
        assert_eq!(get(2, "one"), "one", "a reader of an older world does not see it");
        assert_eq!(get(3, "again"), "three", "nor takes it away");
    }
}
