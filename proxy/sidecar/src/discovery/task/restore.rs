//! Both ways of the last known good: taking it up at the start, and handing out what is to be kept.

use std::sync::Arc;

use outrigger_core::model::{ServiceName, Violation};
use outrigger_proto::type_url;
use prost_types::Any;
use tokio::time::Instant;

use super::Task;
use crate::discovery::{
    catalog::Held,
    last_known_good::{Item, LastKnownGood},
    validate::{self, Resource},
};

impl Task {
    /// Puts in force what an earlier start kept. The first stream claims its versions: what is the same is not sent
    /// again, what differs is replaced, what is gone is removed, each in the control plane's order, as after a reconnect.
    pub(super) fn restore(&mut self, kept: LastKnownGood) {
        let LastKnownGood { origin, items, retired, absent } = kept;
        let mut sets = Vec::new();
        for (item, resource) in items {
            let Item { type_url, name, raw } = item;
            match resource {
                Resource::Config(config) => {
                    self.next_sweep = self.next_sweep.min(Instant::now() + config.on_demand_idle / 4);
                    self.client.restore(type_url, &name, &raw.version);
                    self.catalog.put_config(Held::new(config, raw));
                }
                Resource::Bundle(bundle) => {
                    // The credential's own copy is never older, since it is written first: another one is not claimed,
                    // so that the control plane sends the one that counts.
                    let ours = self.link.identity.bundle();
                    if ours.is_none_or(|ours| ours.authorities() == bundle.authorities()) {
                        self.client.restore(type_url, &name, &raw.version);
                        self.link.identity.set_bundle(bundle);
                        self.catalog.put_bundle(name.to_string(), raw);
                    }
                    self.has_bundle = true;
                }
                Resource::Service(service) => {
                    self.client.restore(type_url, &name, &raw.version);
                    self.catalog.restore_service(Held::new(service, raw));
                }
                Resource::EndpointSet(set) => sets.push((name, raw, set)),
            }
        }
        for name in absent {
            // No version to claim: it is asked for anew.
            self.client.subscribe(type_url::SERVICE, &name.to_string());
            self.catalog.restore_absent(name);
        }
        for (name, items) in by_service(retired) {
            self.catalog.retire(name, items);
        }
        // What the services name is wanted; without a stream nothing is sent.
        self.want_sets();
        for (name, raw, set) in sets {
            let version = Arc::clone(&raw.version);
            if self.catalog.restore_endpoint_set(&name, Held::new(set, raw)) {
                self.client.restore(type_url::ENDPOINT_SET, &name, &version);
            }
        }
        self.catalog.restored(origin.revision);
        self.usage.assume(self.catalog.names(), Instant::now());
        self.origin = Some(origin);
        self.publish();
    }

    /// Without a stream: puts the last answer for a name in force that nobody had used for a while; returns whether there
    /// is one. It is subscribed to already, and no version is claimed: the next stream brings it afresh.
    pub(super) fn recall(&mut self, name: &ServiceName) -> bool {
        let Some(items) = self.catalog.take_retired(name) else { return false };
        let own = self.link.identity.id();
        let valid = items.into_iter().map(|item| {
            let any = Any { type_url: item.type_url.to_owned(), value: item.raw.content.to_vec() };
            Ok((validate::resource(own.as_ref(), item.type_url, &item.name, &any)?, item))
        });
        let Ok(valid) = valid.collect::<Result<Vec<_>, Violation>>() else {
            // It was valid when it was put there.
            tracing::error!(service = %name, "the last answer for it cannot be used any more");
            return false;
        };
        let mut sets = Vec::new();
        for (resource, Item { name, raw, .. }) in valid {
            match resource {
                Resource::Service(service) => self.catalog.restore_service(Held::new(service, raw)),
                Resource::EndpointSet(set) => sets.push((name, Held::new(set, raw))),
                // No part of an answer.
                Resource::Config(_) | Resource::Bundle(_) => {}
            }
        }
        self.want_sets();
        for (name, set) in sets {
            self.catalog.restore_endpoint_set(&name, set);
        }
        tracing::info!(service = %name, "without a control plane its last answer is used");
        self.publish();
        true
    }

    /// Subscribes to the endpoint sets that services name.
    pub(super) fn want_sets(&mut self) {
        let (wanted, dropped) = self.catalog.reconcile_sets();
        let (wanted, dropped) = (wanted.iter().map(|name| &**name), dropped.iter().map(|name| &**name));
        self.outbox.extend(self.client.change(type_url::ENDPOINT_SET, wanted, dropped));
    }

    /// Hands out what is to be kept, if that is something else and the control plane stands for it.
    pub(super) fn keep(&mut self) {
        if !self.connected {
            return;
        }
        if self.origin.is_some() && self.catalog.is_confirmed() {
            self.origin = None;
            tracing::info!("the control plane has confirmed or replaced the last known good");
        }
        if self.origin.is_none()
            && self.catalog.take_unkept()
            && let Some(contents) = self.catalog.contents(&self.usage.by_recency())
        {
            self.contents.send_replace(Some(Arc::new(contents)));
        }
    }
}

/// The answers of which `retired` consists, the oldest first.
fn by_service(retired: Vec<(Item, Resource)>) -> Vec<(ServiceName, Vec<Item>)> {
    let mut answers: Vec<(ServiceName, Vec<Item>)> = Vec::new();
    for (item, resource) in retired {
        match (resource, answers.last_mut()) {
            (Resource::Service(service), _) => answers.push((service.name, vec![item])),
            (_, Some((_, items))) => items.push(item),
            (_, None) => {}
        }
    }
    answers.reverse();
    answers
}
