//! What objects say of each other: a route's parents and backends must be there. Pure.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_core::model::{
    BackendRef, Kind, Name, ObjectRef, ParentRef, RouteSpec, ServiceSpec, Spec, Violation,
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
    for (reference, object) in objects.of_kind(Kind::Route) {
        if let (Spec::Route(spec), Some(namespace)) = (&object.spec, &reference.namespace) {
            Checker { services: &services, route: reference, namespace, found: &mut found }.route(spec);
        }
    }
    found
}

struct Checker<'a> {
    services: &'a BTreeMap<(&'a Name, &'a Name), &'a ServiceSpec>,
    route: &'a ObjectRef,
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

    fn parent(&mut self, field: &str, parent: &ParentRef) {
        let namespace = parent.namespace.as_ref().unwrap_or(self.namespace);
        let Some(service) = self.service(field, namespace, &parent.name) else { return };
        if let Some(port) = parent.port
            && !service.ports.iter().any(|known| known.port == port)
        {
            self.no_port(field, namespace, &parent.name, port);
        }
    }

    fn backend(&mut self, field: &str, backend: &BackendRef) {
        let namespace = backend.namespace.as_ref().unwrap_or(self.namespace);
        let Some(service) = self.service(field, namespace, &backend.name) else { return };
        if !service.ports.iter().any(|port| port.port == backend.port) {
            self.no_port(field, namespace, &backend.name, backend.port);
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
            let remedy = match elsewhere.first() {
                Some(other) => format!("apply it together with the route, or write namespace: {other}"),
                None => "apply it before the route, or together with it".to_owned(),
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
        self.found.push(Dangling { object: self.route.clone(), target, violation });
    }
}
