//! What the control plane has sent, and what of it may be seen. Pure: no clock, no stream.
//!
//! ```text
//!             Service received             its endpoint sets known, or warm timeout
//!   wanted ---------------------> warming ------------------------------------------> visible
//!      |                             ^                                                   |
//!      |  no such service            |  a new version of it that names unknown sets      |
//!      +-----------> absent          +---------------------------------------------------+
//! ```
//!
//! The version that is visible stays so while its successor is warming: make before break.

mod contents;
mod retired;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use outrigger_core::{
    delta::TYPES,
    model::{EndpointSet, ProxyConfig, Service, ServiceName},
};
use outrigger_proto::type_url;

use super::{Pending, last_known_good::Raw};
use crate::{
    endpoint::States,
    snapshot::{Builder, Snapshot, endpoint_set_names},
};

/// What the control plane says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet, or the service is warming.
    Awaited,
    /// It is in the snapshot.
    Visible,
    /// There is no such service, or this workload may not know it.
    Absent,
}

use retired::Retired;

/// A resource, and the bytes that it was made of.
#[derive(Debug, Clone)]
pub(super) struct Held<T> {
    value: Arc<T>,
    raw: Raw,
}

impl<T> Held<T> {
    pub(super) fn new(value: T, raw: Raw) -> Self {
        Self { value: Arc::new(value), raw }
    }
}

#[derive(Debug, Default)]
struct Entry {
    visible: Option<Held<Service>>,
    warming: Option<Warming>,
    absent: bool,
}

#[derive(Debug)]
struct Warming {
    service: Held<Service>,
    until: Instant,
}

#[derive(Debug)]
enum Set {
    Awaited,
    Known(Held<EndpointSet>),
    Absent,
}

/// A response whose content is not wholly in the snapshot yet.
#[derive(Debug)]
struct Outstanding {
    nonce: String,
    revision: u64,
    waiting_for: BTreeSet<ServiceName>,
}

/// Everything received. See the module for the states of a service.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    config: Option<Held<ProxyConfig>>,
    /// Trust domain and bytes of the bundle in force.
    bundle: Option<(String, Raw)>,
    services: BTreeMap<ServiceName, Entry>,
    sets: BTreeMap<Arc<str>, Set>,
    retired: Retired,
    outstanding: BTreeMap<&'static str, VecDeque<Outstanding>>,
    applied: BTreeMap<&'static str, String>,
    /// Newest revision of a response that was applied; 0: none yet on this stream.
    revision: u64,
    /// The one before this stream.
    former_revision: u64,
    /// Something visible changed since the last snapshot.
    changed: bool,
    /// Something that is kept on disk changed since it was last looked at.
    unkept: bool,
}

impl Catalog {
    /// The proxy's own side, as far as it was received.
    pub(super) fn config(&self) -> Option<&Arc<ProxyConfig>> {
        self.config.as_ref().map(|config| &config.value)
    }

    /// How many services are wanted.
    pub(super) fn len(&self) -> usize {
        self.services.len()
    }

    /// All that are wanted.
    pub(super) fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// What is known of `name`; `None`: nobody wants it.
    pub(super) fn answer(&self, name: &ServiceName) -> Option<Answer> {
        let entry = self.services.get(name)?;
        Some(match entry {
            Entry { visible: Some(_), .. } => Answer::Visible,
            Entry { absent: true, .. } => Answer::Absent,
            _ => Answer::Awaited,
        })
    }

    /// Starts to want `name`. Returns whether that is news.
    pub(super) fn want(&mut self, name: &ServiceName) -> bool {
        if self.services.contains_key(name) {
            return false;
        }
        self.services.insert(name.clone(), Entry::default());
        true
    }

    /// Gives `name` up; what was visible of it is retired.
    pub(super) fn give_up(&mut self, name: &ServiceName) {
        let Some(entry) = self.services.remove(name) else { return };
        if let Some(service) = &entry.visible {
            self.retired.put(name.clone(), self.with_sets(service, &BTreeSet::new()));
        }
        self.changed |= entry.visible.is_some();
        self.unkept |= entry.visible.is_some() || entry.absent;
    }

    /// Names that do not exist: the first to go when there are too many.
    pub(super) fn absent(&self) -> Vec<ServiceName> {
        self.services.iter().filter(|(_, entry)| entry.absent).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn put_config(&mut self, config: Held<ProxyConfig>) {
        self.config = Some(config);
        self.changed = true;
        self.unkept = true;
    }

    /// Notes the bundle of `trust_domain`, which is in force already.
    pub(super) fn put_bundle(&mut self, trust_domain: String, raw: Raw) {
        self.bundle = Some((trust_domain, raw));
        self.unkept = true;
    }

    /// Takes a version of a service. Nothing of it is visible before [`Self::settle`].
    pub(super) fn put_service(&mut self, service: Held<Service>, now: Instant) {
        // A late answer for a name that was given up meanwhile.
        let Some(entry) = self.services.get_mut(&service.value.name) else { return };
        let until = now.checked_add(service.value.warm_timeout).unwrap_or(now);
        self.retired.take(&service.value.name);
        entry.absent = false;
        entry.warming = Some(Warming { service, until });
    }

    /// The control plane has no such service, or no longer.
    pub(super) fn remove_service(&mut self, name: &ServiceName) {
        if let Some(entry) = self.services.get_mut(name) {
            self.changed |= entry.visible.is_some();
            self.unkept |= !entry.absent;
            self.retired.take(name);
            *entry = Entry { absent: true, ..Entry::default() };
        }
    }

    pub(super) fn put_endpoint_set(&mut self, name: &str, set: Held<EndpointSet>) {
        if let Some(slot) = self.sets.get_mut(name) {
            *slot = Set::Known(set);
            self.changed = true;
            self.unkept = true;
        }
    }

    /// The control plane has no such set, or no longer: nobody waits for it.
    pub(super) fn remove_endpoint_set(&mut self, name: &str) {
        if let Some(slot) = self.sets.get_mut(name) {
            *slot = Set::Absent;
            self.changed = true;
            self.unkept = true;
        }
    }

    /// Brings the endpoint sets wanted in line with the services: returns those to subscribe to and those to give up.
    pub(super) fn reconcile_sets(&mut self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let wanted: BTreeSet<Arc<str>> = self
            .services
            .values()
            .flat_map(|entry| {
                let warming = entry.warming.as_ref().map(|warming| &warming.service);
                entry.visible.iter().chain(warming)
            })
            .flat_map(|service| endpoint_set_names(&service.value).map(Arc::clone))
            .collect();
        let added: Vec<_> = wanted.iter().filter(|name| !self.sets.contains_key(*name)).cloned().collect();
        let dropped: Vec<_> = self.sets.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in &dropped {
            self.sets.remove(name);
        }
        for name in &added {
            self.sets.insert(Arc::clone(name), Set::Awaited);
        }
        (added, dropped)
    }

    /// Makes visible what may be: services whose endpoint sets are known, and those that waited long enough.
    pub(super) fn settle(&mut self, now: Instant) {
        let sets = &self.sets;
        for entry in self.services.values_mut() {
            let ready = entry.warming.as_ref().is_some_and(|warming| {
                warming.until <= now || awaited(sets, &warming.service.value).next().is_none()
            });
            if ready {
                entry.visible = entry.warming.take().map(|warming| warming.service);
                self.changed = true;
                self.unkept = true;
            }
        }
    }

    /// When the first warm timeout runs out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.services.values().filter_map(|entry| Some(entry.warming.as_ref()?.until)).min()
    }

    /// What is received and valid, but not visible, and what it waits for.
    pub(super) fn pending(&self) -> Vec<Pending> {
        let warming = self.services.iter().filter_map(|(name, entry)| Some((name, entry.warming.as_ref()?)));
        warming
            .map(|(name, warming)| {
                let mut sets = awaited(&self.sets, &warming.service.value).map(|set| &**set);
                let mut cause = format!("waiting for EndpointSet {}", sets.next().unwrap_or_default());
                match sets.count() {
                    0 => {}
                    more => cause.push_str(&format!(" and {more} more")),
                }
                Pending { type_url: type_url::SERVICE, name: name.to_string(), cause }
            })
            .collect()
    }

    /// Notes that the response `nonce`, of `revision`, was taken in whole.
    pub(super) fn received(&mut self, type_url: &'static str, nonce: String, revision: u64) {
        // Whatever is warming now may be of this response, or of one before it that it supersedes; after a reconnect
        // it may even be of the stream before, and be the reason why this response is empty.
        let waiting_for = if type_url == type_url::SERVICE {
            let warming = self.services.iter().filter(|(_, entry)| entry.warming.is_some());
            warming.map(|(name, _)| name.clone()).collect()
        } else {
            BTreeSet::new()
        };
        self.outstanding.entry(type_url).or_default().push_back(Outstanding { nonce, revision, waiting_for });
    }

    /// To be called once the snapshot is in force: which responses are wholly in it now.
    pub(super) fn published(&mut self) {
        let services = &self.services;
        for (type_url, queue) in &mut self.outstanding {
            for outstanding in queue.iter_mut() {
                outstanding
                    .waiting_for
                    .retain(|name| services.get(name).is_some_and(|entry| entry.warming.is_some()));
            }
            while let Some(done) = queue.pop_front_if(|first| first.waiting_for.is_empty()) {
                self.revision = self.revision.max(done.revision);
                self.applied.insert(type_url, done.nonce);
            }
        }
    }

    /// Newest nonce of each type whose content is in the snapshot, with all before it.
    pub(super) fn applied(&self) -> BTreeMap<&'static str, String> {
        self.applied.clone()
    }

    /// Whether a response was applied to each type that something is wanted of: what was held before this stream is
    /// confirmed or replaced then.
    pub(super) fn is_confirmed(&self) -> bool {
        TYPES.iter().all(|kind| {
            let wanted = match kind.url {
                type_url::SERVICE => !self.services.is_empty(),
                type_url::ENDPOINT_SET => !self.sets.is_empty(),
                _ => true,
            };
            !wanted || self.applied.contains_key(kind.url)
        })
    }

    /// Nonces are a stream's own, and so are revisions, of a store that may have been restored: another stream counts
    /// anew.
    pub(super) fn forget_nonces(&mut self) {
        self.former_revision = self.newest_revision();
        self.revision = 0;
        self.outstanding.clear();
        self.applied.clear();
    }

    /// Whether there is a new snapshot to build, once for each change.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All that is visible.
    pub(super) fn snapshot(&self, states: &States, generation: u64) -> Snapshot {
        let mut builder = Builder::new(states);
        if let Some(config) = &self.config {
            builder = builder.config(Arc::clone(&config.value));
        }
        for (name, set) in &self.sets {
            if let Set::Known(set) = set {
                builder = builder.endpoint_set(Arc::clone(name), Arc::clone(&set.value));
            }
        }
        let visible = self.services.values().filter_map(|entry| entry.visible.as_ref());
        visible
            .fold(builder, |builder, service| builder.service(Arc::clone(&service.value)))
            .build(generation)
    }
}

/// The endpoint sets of `service` about which nothing is known yet, each once.
fn awaited<'a>(
    sets: &'a BTreeMap<Arc<str>, Set>,
    service: &'a Service,
) -> impl Iterator<Item = &'a Arc<str>> {
    let names: BTreeSet<_> = endpoint_set_names(service).collect();
    names.into_iter().filter(|name| matches!(sets.get(*name), None | Some(Set::Awaited)))
}

#[cfg(test)]
mod tests;
