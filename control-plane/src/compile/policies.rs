//! The operators' objects, indexed the way compile asks for them, and what a change of them touches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outrigger_core::model::{
    Kind, MeshConfigSpec, Name, Object, ObjectRef, RouteSpec, ServiceName, ServiceSpec, Spec,
    TrafficPolicySpec,
};

/// The name of the endpoint set of one port of a service.
pub fn set_name(service: &ServiceName, port: u16) -> String {
    format!("{service}:{port}")
}

/// The operators' objects by what they are looked up by. Cheap to clone: objects are shared.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    routes_by_parent: BTreeMap<ServiceName, BTreeSet<ObjectRef>>,
    /// Without a port: of every port that no other policy names. The store holds at most one for each target.
    traffic_by_target: BTreeMap<(ServiceName, Option<u16>), BTreeSet<ObjectRef>>,
    services_by_account: BTreeMap<(Name, Name), BTreeSet<ServiceName>>,
    mesh: Option<(ObjectRef, MeshConfigSpec)>,
    mesh_default: MeshConfigSpec,
}

/// What a change of the objects touches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Services whose resource or endpoint sets may differ, gone ones included.
    pub services: BTreeSet<ServiceName>,
    /// Endpoint sets that are gone, or new, or may differ.
    pub endpoint_sets: BTreeSet<(ServiceName, u16)>,
    /// Whether every proxy's own configuration may differ.
    pub mesh_config: bool,
}

impl Policies {
    /// The index of `objects`.
    pub fn new<'a>(objects: impl IntoIterator<Item = (&'a ObjectRef, &'a Arc<Object>)>) -> Self {
        let mut policies = Self::default();
        for (reference, object) in objects {
            match &object.spec {
                Spec::Service(spec) => {
                    let Some(name) = service_name(reference) else { continue };
                    for account in accounts(&name, spec) {
                        policies.services_by_account.entry(account).or_default().insert(name.clone());
                    }
                }
                Spec::Route(spec) => {
                    for parent in parents(reference, spec) {
                        policies.routes_by_parent.entry(parent).or_default().insert(reference.clone());
                    }
                }
                Spec::TrafficPolicy(spec) => {
                    for target in targets(reference, spec) {
                        policies.traffic_by_target.entry(target).or_default().insert(reference.clone());
                    }
                }
                Spec::MeshConfig(spec) => policies.mesh = Some((reference.clone(), spec.clone())),
            }
            policies.objects.insert(reference.clone(), Arc::clone(object));
        }
        policies
    }

    /// The service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<(&ObjectRef, &ServiceSpec)> {
        let wanted = service_ref(name);
        let (reference, object) = self.objects.get_key_value(&wanted)?;
        match &object.spec {
            Spec::Service(spec) => Some((reference, spec)),
            Spec::Route(_) | Spec::TrafficPolicy(_) | Spec::MeshConfig(_) => None,
        }
    }

    /// The routes whose parents name `service`, by namespace and name.
    pub fn routes_of(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (&ObjectRef, &Object, &RouteSpec)> {
        self.routes_by_parent.get(service).into_iter().flatten().filter_map(|reference| {
            let object = self.objects.get(reference)?;
            match &object.spec {
                Spec::Route(spec) => Some((reference, &**object, spec)),
                Spec::Service(_) | Spec::TrafficPolicy(_) | Spec::MeshConfig(_) => None,
            }
        })
    }

    /// The policy for requests that end up at `port` of `service`: the one that names the port goes in place of the one
    /// for every port.
    pub fn traffic_policy(
        &self,
        service: &ServiceName,
        port: u16,
    ) -> Option<(&ObjectRef, &TrafficPolicySpec)> {
        let of = |port| self.traffic_by_target.get(&(service.clone(), port))?.first();
        let reference = of(Some(port)).or_else(|| of(None))?;
        match &self.objects.get(reference)?.spec {
            Spec::TrafficPolicy(spec) => Some((reference, spec)),
            Spec::Service(_) | Spec::Route(_) | Spec::MeshConfig(_) => None,
        }
    }

    /// The services that grant this service account, by name.
    pub fn granting(&self, namespace: &Name, account: &Name) -> impl Iterator<Item = &ServiceName> {
        self.services_by_account.get(&(namespace.clone(), account.clone())).into_iter().flatten()
    }

    /// The service accounts that may back `service`; the one named like it when there is no such service.
    pub fn accounts(&self, service: &ServiceName) -> BTreeSet<(Name, Name)> {
        match self.service(service) {
            Some((_, spec)) => accounts(service, spec),
            None => BTreeSet::from([(service.namespace.clone(), service.name.clone())]),
        }
    }

    /// The mesh's knobs, and where they are written, if they are.
    pub fn mesh_config(&self) -> (Option<&ObjectRef>, &MeshConfigSpec) {
        match &self.mesh {
            Some((reference, spec)) => (Some(reference), spec),
            None => (None, &self.mesh_default),
        }
    }

    /// What differs between `self` and `next`. Conservative: what it names need not differ in content.
    pub fn diff(&self, next: &Self) -> Change {
        let mut change = Change::default();
        for (one, other) in [(self, next), (next, self)] {
            for (reference, object) in &one.objects {
                match other.objects.get(reference) {
                    Some(same) if Arc::ptr_eq(object, same) || object == same => {}
                    _ => change.add(one, reference, object),
                }
            }
        }
        change
    }

    /// The ports of `service`.
    fn ports(&self, service: &ServiceName) -> impl Iterator<Item = u16> {
        self.service(service).into_iter().flat_map(|(_, spec)| spec.ports.iter().map(|port| port.port))
    }
}

impl Change {
    /// Adds what `object`, one of `policies`, is part of.
    fn add(&mut self, policies: &Policies, reference: &ObjectRef, object: &Object) {
        match &object.spec {
            Spec::Service(_) => {
                let Some(name) = service_name(reference) else { return };
                self.endpoint_sets.extend(policies.ports(&name).map(|port| (name.clone(), port)));
                self.services.insert(name);
            }
            Spec::Route(spec) => self.services.extend(parents(reference, spec)),
            Spec::TrafficPolicy(spec) => {
                for (service, _) in targets(reference, spec) {
                    // A policy that names the port may stand in place of this one.
                    let governs = |port: &u16| {
                        policies.traffic_policy(&service, *port).is_some_and(|(found, _)| found == reference)
                    };
                    let ports = policies.ports(&service).filter(governs);
                    self.endpoint_sets.extend(ports.map(|port| (service.clone(), port)));
                }
            }
            Spec::MeshConfig(_) => self.mesh_config = true,
        }
    }
}

/// The object that defines `name`.
fn service_ref(name: &ServiceName) -> ObjectRef {
    ObjectRef { kind: Kind::Service, namespace: Some(name.namespace.clone()), name: name.name.clone() }
}

fn service_name(reference: &ObjectRef) -> Option<ServiceName> {
    Some(ServiceName { namespace: reference.namespace.clone()?, name: reference.name.clone() })
}

fn parents(route: &ObjectRef, spec: &RouteSpec) -> Vec<ServiceName> {
    let own = route.namespace.as_ref();
    let parents = spec.parents.iter().filter_map(|parent| {
        let namespace = parent.namespace.as_ref().or(own)?.clone();
        Some(ServiceName { namespace, name: parent.name.clone() })
    });
    parents.collect()
}

fn targets(policy: &ObjectRef, spec: &TrafficPolicySpec) -> impl Iterator<Item = (ServiceName, Option<u16>)> {
    policy.namespace.iter().flat_map(|namespace| {
        spec.targets.iter().map(|target| {
            let service = ServiceName { namespace: namespace.clone(), name: target.name.clone() };
            (service, target.port)
        })
    })
}

/// The service accounts that may back `name`: those listed, and the one named like it.
pub(super) fn accounts(name: &ServiceName, spec: &ServiceSpec) -> BTreeSet<(Name, Name)> {
    let mut accounts = spec.service_accounts.clone();
    accounts.insert((name.namespace.clone(), name.name.clone()));
    accounts
}
