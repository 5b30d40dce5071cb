//! The task that makes the next world out of what changed.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use outrigger_core::model::TrustBundle;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    cache::Cache,
    debounce::Debounce,
    world::{Change, ResourceName, World},
};
use crate::{
    compile::Policies,
    registry::{Member, Snapshot},
    store::{Progress, objects::Objects},
};

/// Changes that a world remembers.
const REMEMBERED: usize = 256;

/// What a world is made of, as it changes.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// How far the store has come.
    pub progress: watch::Receiver<Progress>,
    /// The operators' objects.
    pub objects: watch::Receiver<Arc<Objects>>,
    /// Who is registered; loaded.
    pub registry: watch::Receiver<Snapshot>,
    /// Whom the mesh trusts.
    pub trust: watch::Receiver<Trust>,
}

/// Whom the mesh trusts, and as of which revision of the store.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The roots.
    pub bundle: Arc<TrustBundle>,
    /// Every change of the authorities up to this revision is in it.
    pub revision: u64,
}

impl Inputs {
    /// Returns when any of them changed; `None` when one ended, and nothing will change any more.
    async fn changed(&mut self) -> Option<()> {
        tokio::select! {
            changed = self.progress.changed() => changed,
            changed = self.objects.changed() => changed,
            changed = self.registry.changed() => changed,
            changed = self.trust.changed() => changed,
        }
        .ok()
    }

    fn read(&mut self) -> Moment {
        // First of all: what it says was written may then be missing below, but never the other way round.
        let progress = *self.progress.borrow_and_update();
        Moment {
            progress,
            objects: Arc::clone(&self.objects.borrow_and_update()),
            registry: self.registry.borrow_and_update().clone(),
            trust: self.trust.borrow_and_update().clone(),
        }
    }
}

/// The inputs at one moment.
struct Moment {
    progress: Progress,
    objects: Arc<Objects>,
    registry: Snapshot,
    trust: Trust,
}

impl Moment {
    /// The revision up to which everything is here; `None` while something written has not arrived.
    fn complete(&self) -> Option<u64> {
        let here = self.progress.objects <= self.objects.revision()
            && self.progress.workloads <= self.registry.revision
            && self.progress.authority <= self.trust.revision;
        here.then_some(self.progress.newest)
    }
}

/// Builds the first world, and starts the task that builds the next ones. It ends with its inputs or its readers.
pub fn start(mut inputs: Inputs) -> watch::Receiver<Arc<World>> {
    let moment = inputs.read();
    let first = World {
        sequence: 1,
        revision: moment.complete().unwrap_or_default(),
        objects: moment.objects.revision(),
        policies: Policies::new(moment.objects.iter()),
        registry: moment.registry,
        bundle: moment.trust.bundle,
        changes: VecDeque::new(),
        committed: VecDeque::from([(moment.progress.newest, Instant::now())]),
        cache: Arc::new(Cache::new(1)),
    };
    let (publish, worlds) = watch::channel(Arc::new(first));
    tokio::spawn(run(inputs, publish));
    worlds
}

async fn run(mut inputs: Inputs, publish: watch::Sender<Arc<World>>) {
    let mut debounce = Debounce::default();
    loop {
        tokio::select! {
            changed = inputs.changed() => if changed.is_none() { return },
            () = publish.closed() => return,
        }
        let heard = Instant::now();
        let current = Arc::clone(&publish.borrow());
        let Some(mut next) = successor(&current, inputs.read()) else { continue };
        if !next.news.is_empty() {
            let now = Instant::now();
            let due = debounce.due(now);
            if due > now {
                sleep_until(due).await;
                // What came meanwhile goes along; what was undone meanwhile does not.
                let Some(later) = successor(&current, inputs.read()) else { continue };
                next = later;
            }
            debounce.published(Instant::now());
        }
        let world = next.finish(&current, heard);
        tracing::debug!(revision = world.revision, sequence = world.sequence, "the world has changed");
        publish.send_replace(Arc::new(world));
    }
}

/// The next world, but for its place in the line.
struct Next {
    revision: u64,
    objects: u64,
    policies: Policies,
    registry: Snapshot,
    bundle: Arc<TrustBundle>,
    news: BTreeSet<ResourceName>,
}

/// What follows `world`; `None` when nothing does.
fn successor(world: &World, moment: Moment) -> Option<Next> {
    let revision = moment.complete().unwrap_or(world.revision).max(world.revision);
    let mut news = BTreeSet::new();
    let policies = policies(world, &moment.objects, &mut news);
    if moment.trust.bundle != world.bundle {
        news.insert(ResourceName::trust_bundle(world.bundle_name()));
    }
    for member in members_that_differ(&world.registry, &moment.registry) {
        let (namespace, account) = &member.registration.claim.account;
        for service in policies.granting(namespace, account) {
            let ports = policies.service(service).into_iter().flat_map(|(_, spec)| &spec.ports);
            news.extend(ports.map(|port| ResourceName::endpoint_set(service, port.port)));
        }
    }
    // A registry that differs in nothing that anybody backs is still what statuses are read from.
    let same = news.is_empty()
        && revision == world.revision
        && moment.objects.revision() == world.objects
        && moment.registry.same(&world.registry);
    (!same).then(|| Next {
        revision,
        objects: moment.objects.revision(),
        policies,
        registry: moment.registry,
        bundle: moment.trust.bundle,
        news,
    })
}

fn policies(world: &World, objects: &Objects, news: &mut BTreeSet<ResourceName>) -> Policies {
    if objects.revision() == world.objects {
        return world.policies.clone();
    }
    let policies = Policies::new(objects.iter());
    let change = world.policies.diff(&policies);
    news.extend(change.services.iter().map(ResourceName::service));
    let sets = change.endpoint_sets.iter();
    news.extend(sets.map(|(service, port)| ResourceName::endpoint_set(service, *port)));
    if change.mesh_config {
        news.insert(ResourceName::proxy_config());
    }
    policies
}

impl Next {
    fn finish(self, before: &World, heard: Instant) -> World {
        let sequence = before.sequence + 1;
        before.cache.advance(sequence, &self.news);
        let mut changes = before.changes.clone();
        changes.push_back(Arc::new(Change { sequence, names: self.news.into_iter().collect() }));
        if changes.len() > REMEMBERED {
            changes.pop_front();
        }
        let mut committed = before.committed.clone();
        if self.revision > before.revision {
            committed.push_back((self.revision, heard));
            if committed.len() > REMEMBERED {
                committed.pop_front();
            }
        }
        World {
            sequence,
            revision: self.revision,
            objects: self.objects,
            policies: self.policies,
            registry: self.registry,
            bundle: self.bundle,
            changes,
            committed,
            cache: Arc::clone(&before.cache),
        }
    }
}

/// The members that are new, gone or changed; a changed one as it was and as it is.
fn members_that_differ<'a>(before: &'a Snapshot, after: &'a Snapshot) -> Vec<&'a Member> {
    if Arc::ptr_eq(&before.members, &after.members) {
        return Vec::new();
    }
    let mut differ = Vec::new();
    for (one, other) in [(before, after), (after, before)] {
        differ.extend(one.members.iter().filter_map(|(name, member)| match other.members.get(name) {
            Some(same) if Arc::ptr_eq(member, same) || member == same => None,
            _ => Some(&**member),
        }));
    }
    differ
}
