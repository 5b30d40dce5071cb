//! Everything that proxies can be told, at one moment.

use std::{collections::VecDeque, fmt, sync::Arc};

use aws_lc_rs::digest;
use outrigger_core::model::{ObjectRef, ServiceName, SpiffeId, TrustBundle};
use outrigger_proto::{mesh::v1alpha1 as mesh, type_url};
use prost::Message;
use tokio::time::Instant;

use super::cache::Cache;
use crate::{
    compile::{self, Compiled, Policies, View, set_name},
    registry::Snapshot,
};

/// The types of resources, in the order in which a proxy applies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// Named by trust domain.
    TrustBundle,
    /// Named by service and port.
    EndpointSet,
    /// Named by service.
    Service,
    /// Named `self`.
    ProxyConfig,
}

impl Type {
    /// All of them, in that order.
    pub const ALL: [Self; 4] = [Self::TrustBundle, Self::EndpointSet, Self::Service, Self::ProxyConfig];

    /// The name of the type on the wire.
    pub fn url(self) -> &'static str {
        match self {
            Self::TrustBundle => type_url::TRUST_BUNDLE,
            Self::EndpointSet => type_url::ENDPOINT_SET,
            Self::Service => type_url::SERVICE,
            Self::ProxyConfig => type_url::PROXY_CONFIG,
        }
    }

    /// The type of that name.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// Names one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    /// Its type.
    pub kind: Type,
    /// Its name among those.
    pub name: Arc<str>,
}

impl ResourceName {
    /// The service's own resource.
    pub fn service(name: &ServiceName) -> Self {
        Self { kind: Type::Service, name: Arc::from(name.to_string()) }
    }

    /// The addresses of one of its ports.
    pub fn endpoint_set(name: &ServiceName, port: u16) -> Self {
        Self { kind: Type::EndpointSet, name: Arc::from(set_name(name, port)) }
    }

    /// Whom `trust_domain` trusts.
    pub fn trust_bundle(trust_domain: &str) -> Self {
        Self { kind: Type::TrustBundle, name: Arc::from(trust_domain) }
    }

    /// The proxy's own configuration.
    pub fn proxy_config() -> Self {
        Self { kind: Type::ProxyConfig, name: Arc::from(SELF) }
    }
}

/// The one name of a `ProxyConfig`.
const SELF: &str = "self";

/// One resource, encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Hash of the content: the same after a restart and on every replica.
    pub version: String,
    /// The encoded message.
    pub body: Vec<u8>,
    /// The policies that it was made from.
    pub causes: Vec<ObjectRef>,
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// It exists.
    Found(Arc<Resource>),
    /// It does not, now.
    NotFound,
    /// It cannot exist, or is not the client's to ask for.
    Denied(&'static str),
}

/// What one world changed against the one before.
#[derive(Debug)]
pub(super) struct Change {
    /// The world that brought it.
    pub(super) sequence: u64,
    /// What may differ.
    pub(super) names: Vec<ResourceName>,
}

/// Everything that proxies can be told, at one moment. Immutable; published whole.
pub struct World {
    /// Counts the worlds of this process.
    pub(super) sequence: u64,
    /// Everything up to this revision of the store is in it.
    pub(super) revision: u64,
    /// The revision of the objects in it, which may be ahead.
    pub(super) objects: u64,
    pub(super) policies: Policies,
    pub(super) registry: Snapshot,
    pub(super) bundle: Arc<TrustBundle>,
    /// The last changes, oldest first; who is further behind looks at everything again.
    pub(super) changes: VecDeque<Arc<Change>>,
    /// When the last revisions were first heard of, oldest first.
    pub(super) committed: VecDeque<(u64, Instant)>,
    pub(super) cache: Arc<Cache>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("sequence", &self.sequence)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl World {
    /// Everything up to this revision of the store is in it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The operators' objects.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Who is registered.
    pub fn registry(&self) -> &Snapshot {
        &self.registry
    }

    /// When `revision` was committed, as far as this process heard and remembers.
    pub fn committed(&self, revision: u64) -> Option<Instant> {
        let first = self.committed.partition_point(|(known, _)| *known < revision);
        // The first of those remembered may be of any later revision.
        if first == 0 { None } else { self.committed.get(first).map(|(_, at)| *at) }
    }

    /// The name of the one `TrustBundle`.
    pub fn bundle_name(&self) -> &str {
        self.bundle.trust_domain.as_str()
    }

    /// What `name` of `kind` stands for to `client`.
    pub fn get(&self, kind: Type, name: &str, client: &SpiffeId) -> Lookup {
        match kind {
            Type::TrustBundle => self.trust_bundle(name),
            Type::EndpointSet => self.endpoint_set(name),
            Type::Service => self.service(name, client),
            Type::ProxyConfig if name == SELF => {
                let compiled = compile::proxy_config(&self.policies, client);
                let body = mesh::ProxyConfig::from(&compiled.resource);
                Lookup::Found(Arc::new(encode(&body, compiled.causes)))
            }
            Type::ProxyConfig => Lookup::Denied("the only ProxyConfig is 'self'"),
        }
    }

    /// The policies that a resource is made from.
    pub fn causes(&self, kind: Type, name: &str, client: &SpiffeId) -> Vec<ObjectRef> {
        match self.get(kind, name, client) {
            Lookup::Found(resource) => resource.causes.clone(),
            Lookup::NotFound | Lookup::Denied(_) => Vec::new(),
        }
    }

    /// What changed after world number `seen`; `None`: too long ago to tell.
    pub(super) fn changes_since(&self, seen: u64) -> Option<impl Iterator<Item = &ResourceName>> {
        let oldest = self.changes.front().map_or(self.sequence + 1, |change| change.sequence);
        (seen + 1 >= oldest).then(|| {
            self.changes.iter().filter(move |change| change.sequence > seen).flat_map(|change| &change.names)
        })
    }

    fn trust_bundle(&self, name: &str) -> Lookup {
        if name != self.bundle_name() {
            return Lookup::NotFound;
        }
        let body = mesh::TrustBundle::from(&*self.bundle);
        Lookup::Found(Arc::new(encode(&body, Vec::new())))
    }

    fn service(&self, name: &str, client: &SpiffeId) -> Lookup {
        let Ok(service) = name.parse::<ServiceName>() else {
            return Lookup::Denied("a Service is named <namespace>/<name>");
        };
        let Some((namespace, _)) = client.as_workload() else {
            return Lookup::Denied("a Service is shown to workloads only");
        };
        if self.policies.service(&service).is_none() {
            return Lookup::NotFound;
        }
        let view = View { namespace: namespace.clone() };
        self.cached(ResourceName::service(&service), Some(view.clone()), || {
            let Compiled { resource, causes } = compile::service(&self.policies, &service, &view)?;
            Some(encode(&mesh::Service::from(&resource), causes))
        })
    }

    fn endpoint_set(&self, name: &str) -> Lookup {
        let parsed = name.rsplit_once(':').and_then(|(service, port)| {
            let (service, port) = (service.parse::<ServiceName>().ok()?, port.parse::<u16>().ok()?);
            (set_name(&service, port) == name).then_some((service, port))
        });
        let Some((service, port)) = parsed else {
            return Lookup::Denied("an EndpointSet is named as its Service says");
        };
        let exists = self
            .policies
            .service(&service)
            .is_some_and(|(_, spec)| spec.ports.iter().any(|candidate| candidate.port == port));
        if !exists {
            return Lookup::NotFound;
        }
        self.cached(ResourceName::endpoint_set(&service, port), None, || {
            let compiled = compile::endpoint_set(&self.policies, &self.registry, &service, port)?;
            let body = mesh::EndpointSet::from(&compiled.resource);
            Some(encode(&body, compiled.causes))
        })
    }

    fn cached(
        &self,
        name: ResourceName,
        view: Option<View>,
        compile: impl FnOnce() -> Option<Resource>,
    ) -> Lookup {
        match self.cache.get_or_compile(self.sequence, name, view, compile) {
            Some(resource) => Lookup::Found(resource),
            None => Lookup::NotFound,
        }
    }
}

/// Bytes and their hash. Fields are encoded in the order of their numbers and maps by their keys, so that equal
/// resources have equal versions.
fn encode(message: &impl Message, causes: Vec<ObjectRef>) -> Resource {
    let body = message.encode_to_vec();
    let hash = digest::digest(&digest::SHA256, &body);
    let version = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Resource { version, body, causes }
}
