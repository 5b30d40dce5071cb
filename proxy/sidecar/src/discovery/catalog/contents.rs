//! What of the catalog is kept on disk, and how it comes back: only what is visible, since what is still warming would
//! have nobody to bring its endpoint sets.

use std::{collections::BTreeSet, sync::Arc};

use outrigger_core::model::{EndpointSet, Service, ServiceName};
use outrigger_proto::type_url;

use super::{Catalog, Entry, Held, Set};
use crate::{
    discovery::{
        last_known_good::{Contents, Item, MAX_BYTES, MAX_NAMES},
        validate,
    },
    snapshot::endpoint_set_names,
};

impl Catalog {
    /// Whether there is something else to keep, once for each change.
    pub(in crate::discovery) fn take_unkept(&mut self) -> bool {
        std::mem::take(&mut self.unkept)
    }

    /// Newest revision of a response that was applied, of this stream or the one before.
    pub(super) fn newest_revision(&self) -> u64 {
        if self.revision == 0 { self.former_revision } else { self.revision }
    }

    /// What is to be kept, of at most [`MAX_NAMES`] names and about [`MAX_BYTES`]; `None` as long as there is no own side
    /// and nobody to trust. `names`: all that are wanted, those in use last first. Those that do not exist come after
    /// all that do, so that whoever asks for ever new names drives nothing out that works.
    pub(in crate::discovery) fn contents(&self, names: &[ServiceName]) -> Option<Contents> {
        let (config, (trust_domain, bundle)) = (self.config.as_ref()?, self.bundle.as_ref()?);
        let mut collected = Collected::default();
        collected.add([
            Item::new(type_url::PROXY_CONFIG, validate::SELF.into(), &config.raw),
            Item::new(type_url::TRUST_BUNDLE, trust_domain.as_str().into(), bundle),
        ]);
        let visible = names.iter().filter_map(|name| self.services.get(name)?.visible.as_ref());
        let mut count = 0;
        for service in visible.take(MAX_NAMES) {
            collected.add(self.with_sets(service, &collected.sets));
            count += 1;
        }
        let active = std::mem::take(&mut collected.items);
        for items in self.retired.newest_first().take(MAX_NAMES - count) {
            collected.add(items.iter().cloned());
            count += 1;
        }
        let absent = names.iter().filter(|name| self.services.get(name).is_some_and(|entry| entry.absent));
        Some(Contents {
            revision: self.newest_revision(),
            items: active,
            retired: collected.items,
            absent: absent.take(MAX_NAMES - count).cloned().collect(),
        })
    }

    /// `service` and its endpoint sets, without those that are `collected` already.
    pub(super) fn with_sets(&self, service: &Held<Service>, collected: &BTreeSet<Arc<str>>) -> Vec<Item> {
        let names: BTreeSet<_> = endpoint_set_names(&service.value).collect();
        let sets = names.into_iter().filter(|name| !collected.contains(*name));
        let sets = sets.filter_map(|name| match self.sets.get(name) {
            Some(Set::Known(set)) => Some(Item::new(type_url::ENDPOINT_SET, Arc::clone(name), &set.raw)),
            _ => None,
        });
        let own = Item::new(type_url::SERVICE, service.value.name.to_string().into(), &service.raw);
        std::iter::once(own).chain(sets).collect()
    }

    /// Takes back a service that was visible: it is, at once.
    pub(in crate::discovery) fn restore_service(&mut self, service: Held<Service>) {
        let name = service.value.name.clone();
        self.services.insert(name, Entry { visible: Some(service), ..Entry::default() });
        self.changed = true;
    }

    /// Takes back an answer for a name that nobody used; the newest last.
    pub(in crate::discovery) fn retire(&mut self, name: ServiceName, items: Vec<Item>) {
        self.retired.put(name, items);
    }

    /// Takes the last answer for a name out that nobody had used for a while.
    pub(in crate::discovery) fn take_retired(&mut self, name: &ServiceName) -> Option<Vec<Item>> {
        self.retired.take(name)
    }

    /// Takes back that there is no such service.
    pub(in crate::discovery) fn restore_absent(&mut self, name: ServiceName) {
        self.services.insert(name, Entry { absent: true, ..Entry::default() });
    }

    /// Takes back an endpoint set that a service names; returns whether one does.
    pub(in crate::discovery) fn restore_endpoint_set(&mut self, name: &str, set: Held<EndpointSet>) -> bool {
        self.put_endpoint_set(name, set);
        self.sets.contains_key(name)
    }

    /// All that was kept is taken back; `revision` was the newest in it.
    pub(in crate::discovery) fn restored(&mut self, revision: u64) {
        self.former_revision = revision;
        self.unkept = false;
    }
}

#[derive(Debug, Default)]
struct Collected {
    items: Vec<Item>,
    sets: BTreeSet<Arc<str>>,
    bytes: usize,
}

impl Collected {
    /// Adds what belongs together, if there is room for all of it.
    fn add(&mut self, items: impl IntoIterator<Item = Item>) {
        let items: Vec<_> = items.into_iter().collect();
        let bytes = items.iter().map(Item::bytes).sum::<usize>();
        if self.bytes + bytes > MAX_BYTES {
            return;
        }
        self.bytes += bytes;
        let sets = items.iter().filter(|item| item.type_url == type_url::ENDPOINT_SET);
        self.sets.extend(sets.map(|item| Arc::clone(&item.name)));
        self.items.extend(items);
    }
}
