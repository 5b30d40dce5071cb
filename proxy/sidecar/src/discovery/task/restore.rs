//! Both ways of the last known good: taking it up at the start, and handing out what is to be kept.

use std::sync::Arc;

use outrigger_proto::type_url;
use tokio::time::Instant;

use super::Task;
use crate::discovery::{
    catalog::Held,
    last_known_good::{Item, LastKnownGood},
    validate::Resource,
};

impl Task {
    /// Puts in force what an earlier start kept. The first stream claims its versions: what is the same is not sent
    /// again, what differs is replaced, what is gone is removed, each in the control plane's order, as after a reconnect.
    pub(super) fn restore(&mut self, kept: LastKnownGood) {
        let LastKnownGood { origin, items, absent } = kept;
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
        // What the services name is wanted; without a stream nothing is sent.
        let (wanted, _) = self.catalog.reconcile_sets();
        self.client.change(type_url::ENDPOINT_SET, wanted.iter().map(|name| &**name), []);
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
