//! Who backs a service port: granted by the destination, registered by the workload; and how requests to it are treated.

use std::sync::Arc;

use outrigger_core::model::{
    Endpoint, EndpointSet, Health, PortSpec, Resilience, ServiceName, ServiceSpec, TargetPort,
};
use tokio::time::Instant;

use super::{Compiled, Policies, policies};
use crate::registry::{Member, Pair, Registration, Snapshot, Standing};

/// The addresses of `port` of `service`; `None` when there is no such port.
///
/// A workload whose lease ran out is left out. When none is left, and at least two ran out within one lease before
/// the last, they are all listed for one lease more, as unhealthy: more likely the control plane lost touch with them
/// than that they all died at once.
pub fn endpoint_set(
    policies: &Policies,
    registry: &Snapshot,
    service: &ServiceName,
    port: u16,
) -> Option<Compiled<EndpointSet>> {
    let (reference, spec) = policies.service(service)?;
    let wanted = spec.ports.iter().find(|candidate| candidate.port == port)?;
    let backing: Vec<(&Member, &Pair)> = policies::accounts(service, spec)
        .iter()
        .flat_map(|(namespace, account)| registry.of_account(namespace, account))
        .filter(|member| selected(spec, &member.registration))
        .filter_map(|member| Some((&**member, pair(wanted, &member.registration)?)))
        .collect();
    let live: Vec<_> = backing.iter().filter(|(member, _)| member.standing == Standing::Live).collect();
    let (chosen, panic) =
        if live.is_empty() { (lapsed_together(registry, &backing), true) } else { (live, false) };
    let mut endpoints: Vec<Endpoint> =
        chosen.iter().map(|(member, pair)| endpoint(member, pair, panic)).collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let panic = panic && !endpoints.is_empty();
    let mut causes = vec![reference.clone()];
    let resilience = match policies.traffic_policy(service, port) {
        Some((reference, spec)) => {
            causes.push(reference.clone());
            spec.overrides.clone().into()
        }
        None => Resilience::default(),
    };
    Some(Compiled {
        resource: EndpointSet { service: service.clone(), port, endpoints, panic, resilience },
        causes,
    })
}

/// The services that `registration` backs now: it is granted, selected, and has a pair for at least one port.
pub fn granted(policies: &Policies, registration: &Registration) -> Vec<ServiceName> {
    let (namespace, account) = &registration.claim.account;
    let backs = |name: &&ServiceName| {
        policies.service(name).is_some_and(|(_, spec)| {
            selected(spec, registration) && spec.ports.iter().any(|port| pair(port, registration).is_some())
        })
    };
    policies.granting(namespace, account).filter(backs).cloned().collect()
}

/// Why a workload does not back a service that names its service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// The selector wants other labels.
    Labels,
    /// No port of the service is that of one of the workload's pairs.
    Ports,
}

/// The services that name the service account of `registration`, and that it does not back all the same.
pub fn missed<'a>(
    policies: &'a Policies,
    registration: &'a Registration,
) -> impl Iterator<Item = (&'a ServiceName, Miss)> {
    let (namespace, account) = &registration.claim.account;
    policies.granting(namespace, account).filter_map(|name| {
        let (_, spec) = policies.service(name)?;
        if !selected(spec, registration) {
            return Some((name, Miss::Labels));
        }
        let none = spec.ports.iter().all(|port| pair(port, registration).is_none());
        none.then_some((name, Miss::Ports))
    })
}

fn selected(spec: &ServiceSpec, registration: &Registration) -> bool {
    spec.selector.iter().all(|(key, value)| registration.labels.get(key) == Some(value))
}

/// The pair that serves `port`: its target; without one, the pair whose application port is the same, else the pair
/// of the same name.
fn pair<'a>(port: &PortSpec, registration: &'a Registration) -> Option<&'a Pair> {
    let pairs = &registration.claim.pairs;
    let numbered = |number: u16| pairs.iter().find(|pair| pair.application_port == number);
    match &port.target_port {
        Some(TargetPort::Number(number)) => numbered(*number),
        Some(TargetPort::Name(name)) => pairs.iter().find(|pair| pair.name.as_ref() == Some(name)),
        None => numbered(port.port)
            .or_else(|| pairs.iter().find(|pair| pair.name.is_some() && pair.name == port.name)),
    }
}

fn lapsed_together<'a, 'b>(
    registry: &Snapshot,
    backing: &'b [(&'a Member, &'a Pair)],
) -> Vec<&'b (&'a Member, &'a Pair)> {
    let since = |member: &Member| -> Option<Instant> {
        match member.standing {
            Standing::Live => None,
            Standing::Lapsed(since) | Standing::Overdue(since) => Some(since),
        }
    };
    // Past its grace, the last one takes the others with it.
    let last = backing
        .iter()
        .filter(|(member, _)| matches!(member.standing, Standing::Lapsed(_)))
        .filter_map(|(member, _)| since(member))
        .max();
    let Some(last) = last else { return Vec::new() };
    let together: Vec<_> = backing
        .iter()
        .filter(|(member, _)| {
            since(member).is_some_and(|since| last.saturating_duration_since(since) <= registry.lease)
        })
        .collect();
    if together.len() > 1 { together } else { Vec::new() }
}

fn endpoint(member: &Member, pair: &Pair, panic: bool) -> Endpoint {
    let claim = &member.registration.claim;
    Endpoint {
        address: pair.address,
        identity: claim.identity.clone(),
        weight: claim.weight,
        health: if panic { Health::Unhealthy } else { member.health },
        workload: Arc::from(claim.name.to_string()),
    }
}
