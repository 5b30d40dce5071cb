//! What objects say of each other: a route's parents and backends and a policy's targets must be there, and no target has
//! two policies. Pure.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_core::model::{
    BackendRef, Kind, Name, ObjectRef, ParentRef, RouteSpec, ServiceSpec, Spec, TargetRef, TrafficPolicySpec,
    Violation,
};

use crate::store::objects::Objects;

/// A defect, the object that has it, and the service that it speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dangling {
    /// Whose.
    pub(super) object: ObjectRef,
    /// Of whom it speaks.
    pub(super) target: ObjectRef,
    /// What is wrong.
    pub(super) violation: Violation,
}

/// All defects among `objects`. Those of a picture without any come from the changes made to it.
pub(super) fn check(objects: &Objects) -> Vec<Dangling> {
    let services: BTreeMap<(&Name, &Name), &ServiceSpec> = objects
        .of_kind(Kind::Service)
        .filter_map(|(reference, object)| match &object.spec {
            Spec::Service(spec) => Some(((reference.namespace.as_ref()?, &reference.name), spec)),
            Spec::Route(_) | Spec::TrafficPolicy(_) | Spec::MeshConfig(_) => None,
        })
        .collect();
    let mut found = Vec::new();
    for (reference, object) in objects.iter() {
        let Some(namespace) = &reference.namespace else { continue };
        let mut checker = Checker { services: &services, object: reference, namespace, found: &mut found };
        match &object.spec {
            Spec::Route(spec) => checker.route(spec),
            Spec::TrafficPolicy(spec) => checker.traffic_policy(spec),
            Spec::Service(_) | Spec::MeshConfig(_) => {}
        }
    }
    found
}

/// A target that two policies have, told as a defect of one that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clash {
    /// Whose.
    pub(super) object: ObjectRef,
    /// What is wrong.
    pub(super) violation: Violation,
}

/// The targets that a change of `before` to `after` gives a second policy.
pub(super) fn clashes(before: &Objects, after: &Objects) -> Vec<Clash> {
    let mut holders: BTreeMap<(&Name, &TargetRef), Vec<(&ObjectRef, usize)>> = BTreeMap::new();
    for (reference, object) in after.of_kind(Kind::TrafficPolicy) {
        if let (Spec::TrafficPolicy(spec), Some(namespace)) = (&object.spec, &reference.namespace) {
            for (index, target) in spec.targets.iter().enumerate() {
                holders.entry((namespace, target)).or_default().push((reference, index));
            }
        }
    }
    let changed = |object: &ObjectRef| before.get(object) != after.get(object);
    let mut found = Vec::new();
    for ((namespace, target), mut holders) in holders {
        // What was there holds its target; of those that are new, the first by name.
        holders.sort_by_key(|(object, _)| (changed(object), *object));
        let mut holders = holders.into_iter();
        let Some((holder, _)) = holders.next() else { continue };
        found.extend(holders.map(|(object, index)| {
            let message = format!("{holder} is already for Service {namespace}/{target}");
            let remedy = "change that one, or take the target out of one of them";
            let field = format!("spec.targetRefs[{index}]");
            let violation = Violation::error(field, "conflict", message).remedy(remedy);
            Clash { object: object.clone(), violation }
        }));
    }
    found
}

struct Checker<'a> {
    services: &'a BTreeMap<(&'a Name, &'a Name), &'a ServiceSpec>,
    object: &'a ObjectRef,
    namespace: &'a Name,
    found: &'a mut Vec<Dangling>,
}

impl Checker<'_> {
    fn route(&mut self, spec: &RouteSpec) {
        for (index, parent) in spec.parents.iter().enumerate() {
            self.parent(&format!("spec.parentRefs[{index}]"), parent);
        }
        for (rule_index, rule) in spec.rules.iter().enumerate() {
            for (index, backend) in rule.backends.iter().enumerate() {
                self.backend(&format!("spec.rules[{rule_index}].backendRefs[{index}]"), backend);
            }
        }
    }

    fn traffic_policy(&mut self, spec: &TrafficPolicySpec) {
        for (index, target) in spec.targets.iter().enumerate() {
            let field = format!("spec.targetRefs[{index}]");
            self.service_port(&field, self.namespace, &target.name, target.port);
        }
    }

    fn parent(&mut self, field: &str, parent: &ParentRef) {
        let namespace = parent.namespace.as_ref().unwrap_or(self.namespace);
        self.service_port(field, namespace, &parent.name, parent.port);
    }

    fn backend(&mut self, field: &str, backend: &BackendRef) {
        let namespace = backend.namespace.as_ref().unwrap_or(self.namespace);
        self.service_port(field, namespace, &backend.name, Some(backend.port));
    }

    fn service_port(&mut self, field: &str, namespace: &Name, name: &Name, port: Option<u16>) {
        let Some(service) = self.service(field, namespace, name) else { return };
        if let Some(port) = port
            && !service.ports.iter().any(|known| known.port == port)
        {
            self.no_port(field, namespace, name, port);
        }
    }

    fn service(&mut self, field: &str, namespace: &Name, name: &Name) -> Option<&ServiceSpec> {
        let services = self.services;
        let service = services.get(&(namespace, name)).copied();
        if service.is_none() {
            let message = format!("there is no Service {namespace}/{name}");
            let elsewhere: BTreeSet<&str> = services
                .keys()
                .filter(|(_, other)| *other == name)
                .map(|(other, _)| other.as_str())
                .collect();
            let word = if self.object.kind == Kind::Route { "route" } else { "policy" };
            let remedy = match elsewhere.first() {
                Some(other) if self.object.kind == Kind::Route => {
                    format!("apply it together with the route, or write namespace: {other}")
                }
                Some(other) => format!(
                    "apply it together with the policy, or write the policy in namespace {other}: it is for Services \
                     of its own"
                ),
                None => format!("apply it before the {word}, or together with it"),
            };
            let violation =
                Violation::error(format!("{field}.name"), "dangling_reference", message).remedy(remedy);
            self.push(namespace, name, violation);
        }
        service
    }

    fn no_port(&mut self, field: &str, namespace: &Name, name: &Name, port: u16) {
        let ports = self.services.get(&(namespace, name)).map_or_else(String::new, |service| {
            service.ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ")
        });
        let violation = Violation::error(
            format!("{field}.port"),
            "dangling_reference",
            format!("Service {namespace}/{name} has no port {port}"),
        )
        .remedy(format!("its ports are {ports}"));
        self.push(namespace, name, violation);
    }

    fn push(&mut self, namespace: &Name, name: &Name, violation: Violation) {
        let target =
            ObjectRef { kind: Kind::Service, namespace: Some(namespace.clone()), name: name.clone() };
        self.found.push(Dangling { object: self.object.clone(), target, violation });
    }
}
