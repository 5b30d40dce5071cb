//! Where a request goes: authority -> service and port -> rule -> backend -> endpoint. Everything that decides is in
//! `core`; here it is given the snapshot and randomness.

use std::sync::Arc;

use ::http::{Request, uri::Authority};
use outrigger_core::{
    model::{AppProtocol, ExternalTraffic, ProxyConfig, RouteRule, ServicePort},
    names,
    reason::Reason,
    route::{self, RequestHead},
};

use super::DiscoverError;
use crate::{
    data_path::Shared,
    http,
    snapshot::{EndpointSetEntry, ServiceEntry, Snapshot, Target},
    telemetry::EdgeHandles,
};
use parking_lot::Mutex;

/// Where a request wants to go.
#[derive(Debug)]
pub(super) enum Destination {
    /// Into the mesh.
    Mesh(Arc<MeshPort>),
    /// Somewhere else.
    External { host: String, port: Option<u16>, traffic: ExternalTraffic, generation: u64 },
}

impl Destination {
    /// Reads the snapshot, once; waits for discovery if it does not hold the name yet.
    pub(super) async fn find(shared: &Shared, target: &http::Target) -> Result<Self, Reason> {
        let mut snapshot = shared.snapshot.load();
        let config = Arc::clone(snapshot.config.as_ref().ok_or(Reason::NotReady)?);
        let (namespace, _) = config.workload_id.as_workload().ok_or(Reason::NotReady)?;
        let authority = target.authority.as_str();
        let found = names::resolve(authority, namespace, &config.cluster_domain);
        let found = found.map_err(|error| {
            tracing::debug!(%error, authority, "authority names nothing");
            Reason::BadRequest
        })?;
        let external = |host, port, generation| Self::External {
            host,
            port,
            traffic: config.external_traffic,
            generation,
        };
        let (service, port, certain) = match found {
            names::Destination::External { host, port } => {
                return Ok(external(host, port, snapshot.generation));
            }
            names::Destination::Mesh { service, port, certain } => (service, port, certain),
        };
        shared.discover.touch(&service);
        if !snapshot.services.contains_key(&service) {
            match shared.discover.resolve(&service, config.on_demand_timeout).await {
                Ok(newer) => snapshot = newer,
                // `svc.ns` may as well be a name of the internet.
                Err(DiscoverError::NotFound) if !certain => {
                    let host = target.authority.host().trim_end_matches('.').to_ascii_lowercase();
                    return Ok(external(host, port, snapshot.generation));
                }
                Err(DiscoverError::NotFound) => return Err(Reason::UnknownService),
                Err(DiscoverError::Timeout) => return Err(Reason::DiscoveryTimeout),
                Err(DiscoverError::Disconnected) => return Err(Reason::ControlPlaneAway),
            }
        }
        let entry = Arc::clone(snapshot.services.get(&service).ok_or(Reason::UnknownService)?);
        let number = entry.port(port).ok_or(Reason::UnknownService)?.port;
        Ok(Self::Mesh(Arc::new(MeshPort { snapshot, config, entry, number })))
    }

    pub(super) fn generation(&self) -> u64 {
        match self {
            Self::Mesh(port) => port.snapshot.generation,
            Self::External { generation, .. } => *generation,
        }
    }
}

/// A port of a service, in one snapshot.
#[derive(Debug)]
pub(super) struct MeshPort {
    snapshot: Arc<Snapshot>,
    config: Arc<ProxyConfig>,
    entry: Arc<ServiceEntry>,
    /// One of the entry's ports.
    number: u16,
}

impl MeshPort {
    /// The same port in the snapshot in force: a connection may outlive the one it was opened in. A service that is gone
    /// from it stays as it was for those that are connected.
    pub(super) fn renewed(self: &Arc<Self>, shared: &Shared) -> Arc<Self> {
        let snapshot = shared.snapshot.load();
        shared.discover.touch(&self.entry.service.name);
        if Arc::ptr_eq(&snapshot, &self.snapshot) {
            return Arc::clone(self);
        }
        let entry = snapshot.services.get(&self.entry.service.name);
        let entry =
            Arc::clone(entry.filter(|entry| entry.port(Some(self.number)).is_some()).unwrap_or(&self.entry));
        let config = Arc::clone(snapshot.config.as_ref().unwrap_or(&self.config));
        Arc::new(Self { snapshot, config, entry, number: self.number })
    }

    pub(super) fn generation(&self) -> u64 {
        self.snapshot.generation
    }

    pub(super) fn config(&self) -> &ProxyConfig {
        &self.config
    }

    pub(super) fn protocol(&self) -> AppProtocol {
        self.port().map_or_else(AppProtocol::default, |port| port.protocol)
    }

    fn port(&self) -> Option<&ServicePort> {
        self.entry.port(Some(self.number))
    }

    /// The rule that covers the request and, by weight, one of its backends.
    pub(super) fn choose<B>(&self, request: &Request<B>) -> Result<Choice<'_>, Reason> {
        let port = self.port().ok_or(Reason::UnknownService)?;
        if matches!(port.protocol, AppProtocol::Tcp | AppProtocol::Tls) {
            return Err(Reason::UnsupportedProtocol);
        }
        if port.rules.is_empty() {
            return self.whole();
        }
        let head = RequestHead {
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query(),
            headers: request.headers(),
        };
        let rule = route::select(&port.rules, &head).ok_or(Reason::NoRoute)?;
        let backend = route::weighted(&rule.backends, rand::random()).ok_or(Reason::NoEndpoint)?;
        let target = self.entry.target(port, rule, backend).ok_or(Reason::InternalError)?;
        Ok(Choice { rule: Some(rule), target })
    }

    /// The port itself, whatever its rules say: for what is not HTTP.
    pub(super) fn whole(&self) -> Result<Choice<'_>, Reason> {
        let port = self.port().ok_or(Reason::UnknownService)?;
        let target = self.entry.own_target(port).ok_or(Reason::InternalError)?;
        Ok(Choice { rule: None, target })
    }
}

/// Which rule, and which backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) rule: Option<&'a RouteRule>,
    target: &'a Target,
}

impl<'a> Choice<'a> {
    /// What requests there are counted by.
    pub(super) fn edges(&self) -> &'a Arc<EdgeHandles> {
        self.target.edges()
    }

    /// The endpoints, and how they are dealt with.
    pub(super) fn set(&self) -> Result<&'a EndpointSetEntry, Reason> {
        self.target.set().ok_or(Reason::NoEndpoint)
    }
}

/// Where the last request of a connection went: most connections have one destination, and its name need not be read again
/// while the snapshot is the same.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<Option<(Authority, Arc<MeshPort>)>>);

impl Last {
    /// Where `authority` led to, if that is what was asked for last and nothing has changed since.
    pub(super) fn recall(&self, authority: &Authority, shared: &Shared) -> Option<Arc<MeshPort>> {
        let last = self.0.lock();
        let (_, port) = last.as_ref().filter(|(known, _)| known.as_str() == authority.as_str())?;
        let current = shared.snapshot.is_in_force(&port.snapshot);
        current.then(|| {
            shared.discover.touch(&port.entry.service.name);
            Arc::clone(port)
        })
    }

    pub(super) fn remember(&self, authority: &Authority, port: &Arc<MeshPort>) {
        *self.0.lock() = Some((authority.clone(), Arc::clone(port)));
    }
}
