//! Where a request goes: authority -> service and port -> rule -> backend -> endpoint. Everything that decides is in
//! `core`; here it is given the snapshot and randomness.

use std::sync::Arc;

use ::http::Request;
use outrigger_core::{
    model::{AppProtocol, Endpoint, ExternalTraffic, ProxyConfig, RouteRule, ServiceName, ServicePort},
    names,
    reason::Reason,
    route::{self, RequestHead},
    telemetry::EdgeKey,
};

use super::DiscoverError;
use crate::{
    data_path::Shared,
    endpoint::EndpointState,
    http,
    snapshot::{ServiceEntry, Snapshot, Target},
    telemetry::{EdgeCounters, Edges},
};

/// Where a request wants to go.
#[derive(Debug)]
pub(super) enum Destination {
    /// Into the mesh.
    Mesh(MeshPort),
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
                Err(DiscoverError::Timeout | DiscoverError::Disconnected) => {
                    return Err(Reason::DiscoveryTimeout);
                }
            }
        }
        let entry = Arc::clone(snapshot.services.get(&service).ok_or(Reason::UnknownService)?);
        let number = entry.port(port).ok_or(Reason::UnknownService)?.port;
        Ok(Self::Mesh(MeshPort { snapshot, config, entry, number }))
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
    pub(super) fn renewed(&self, shared: &Shared) -> Self {
        let snapshot = shared.snapshot.load();
        shared.discover.touch(&self.entry.service.name);
        let entry = snapshot.services.get(&self.entry.service.name);
        let entry =
            Arc::clone(entry.filter(|entry| entry.port(Some(self.number)).is_some()).unwrap_or(&self.entry));
        let config = Arc::clone(snapshot.config.as_ref().unwrap_or(&self.config));
        Self { snapshot, config, entry, number: self.number }
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
        match port.protocol {
            AppProtocol::Http1 | AppProtocol::Detect => {}
            AppProtocol::Tcp | AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tls => {
                return Err(Reason::UnsupportedProtocol);
            }
        }
        let own = || (self.entry.service.name.clone(), port.port);
        if port.rules.is_empty() {
            return Ok(Choice { rule: None, destination: own(), target: self.entry.own_target(port) });
        }
        let head = RequestHead {
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query(),
            headers: request.headers(),
        };
        let rule = route::select(&port.rules, &head).ok_or(Reason::NoRoute)?;
        let backend = route::weighted(&rule.backends, rand::random()).ok_or(Reason::NoEndpoint)?;
        Ok(Choice {
            rule: Some(rule),
            destination: (backend.service.clone(), backend.port),
            target: self.entry.target(port, rule, backend),
        })
    }
}

/// Which rule, and which backend.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    pub(super) rule: Option<&'a RouteRule>,
    /// The backend and its port.
    pub(super) destination: (ServiceName, u16),
    target: Option<&'a Target>,
}

impl Choice<'_> {
    pub(super) fn rule_name(&self) -> Option<Arc<str>> {
        self.rule.map(|rule| Arc::clone(&rule.name))
    }

    /// The figures of the edge `key`, which is this choice's.
    pub(super) fn edge(&self, key: &EdgeKey, edges: &Edges) -> Arc<EdgeCounters> {
        self.target.map_or_else(|| edges.of(key.clone()), |target| target.edge(key, edges))
    }

    /// The better of two endpoints by requests in flight.
    pub(super) fn pick(&self) -> Result<(&Endpoint, &Arc<EndpointState>), Reason> {
        self.target.and_then(Target::set).and_then(|set| set.pick(rand::random())).ok_or(Reason::NoEndpoint)
    }
}
