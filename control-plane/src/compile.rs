//! Policies and registry in, resources out: pure and deterministic.
//!
//! **Membership** is granted by the destination: a workload backs a service when the service grants its service
//! account, its labels (from its join token) satisfy the selector, and it has a pair for the port.
//!
//! **Routes** of the service's own namespace apply to everybody; a route of another namespace applies only to clients
//! of *its* namespace, and for those it stands in place of the service's own routes (GAMMA, GEP-1426).
//!
//! **A traffic policy** travels with the endpoint sets of its targets: it holds for every request that ends up there,
//! whichever route brought it.

mod members;
mod policies;
mod routes;

pub use members::{Miss, endpoint_set, granted, missed};
pub use policies::{Change, Policies, set_name};

use std::{sync::Arc, time::Duration};

use outrigger_core::model::{Name, ObjectRef, ProxyConfig, Service, ServiceName, ServicePort, SpiffeId};

/// How long a service may stay invisible on a proxy while its endpoint sets are on the way.
const WARM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a proxy keeps what no request asks for.
const ON_DEMAND_IDLE: Duration = Duration::from_secs(600);

/// A resource, and the policies that it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled<T> {
    /// The resource.
    pub resource: T,
    /// In order, each once.
    pub causes: Vec<ObjectRef>,
}

/// The part of a client that makes a difference: two clients with equal views get equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// The client's namespace.
    pub namespace: Name,
}

/// The service `name` as clients of `view` see it; `None` when there is none.
pub fn service(policies: &Policies, name: &ServiceName, view: &View) -> Option<Compiled<Service>> {
    let (reference, spec) = policies.service(name)?;
    let mut causes = vec![reference.clone()];
    let mut ports: Vec<ServicePort> = spec
        .ports
        .iter()
        .map(|port| {
            let (rules, used) = routes::rules(policies, name, port, view);
            causes.extend(used);
            ServicePort {
                port: port.port,
                protocol: port.protocol,
                name: port.name.clone(),
                endpoint_set: Arc::from(set_name(name, port.port)),
                rules,
            }
        })
        .collect();
    ports.sort_by_key(|port| port.port);
    causes.sort();
    causes.dedup();
    Some(Compiled { resource: Service { name: name.clone(), ports, warm_timeout: WARM_TIMEOUT }, causes })
}

/// What the proxy of `workload_id` runs by.
pub fn proxy_config(policies: &Policies, workload_id: &SpiffeId) -> Compiled<ProxyConfig> {
    let (reference, mesh) = policies.mesh_config();
    Compiled {
        resource: ProxyConfig {
            workload_id: workload_id.clone(),
            cluster_domain: mesh.cluster_domain.clone(),
            on_demand_timeout: mesh.discovery_timeout,
            on_demand_idle: ON_DEMAND_IDLE,
            external_traffic: mesh.external_traffic,
            request_timeout: mesh.request_timeout,
            connect_timeout: mesh.connect_timeout,
        },
        causes: reference.into_iter().cloned().collect(),
    }
}
