//! What a write would make proxies take: compiled as they would get it, and judged by the code that they run. Each
//! object may be fine by itself, and all of them together too much for one resource. Pure.

use std::collections::BTreeSet;

use outrigger_core::{
    delta::server::MAX_RESPONSE_BYTES,
    model::{ObjectRef, Service, ServiceName, Violation},
};
use outrigger_proto::mesh::v1alpha1 as mesh;
use prost::Message;

use crate::{
    compile::{self, Policies, View},
    store::objects::Objects,
};

/// A service that proxies would refuse, told as a defect of an object behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unacceptable {
    /// Whose: one that changed, if any of those behind it did.
    pub(super) object: ObjectRef,
    /// What is wrong.
    pub(super) violation: Violation,
}

/// The services that `after` makes of what differs from `before`, as far as a proxy would refuse them.
pub(super) fn check(before: &Objects, after: &Objects) -> Vec<Unacceptable> {
    let (old, new) = (Policies::new(before.iter()), Policies::new(after.iter()));
    let mut found = Vec::new();
    for service in &old.diff(&new).services {
        for view in views(&new, service) {
            let Some(compiled) = compile::service(&new, service, &view) else { continue };
            let Some(violation) = refused(service, &view, mesh::Service::from(&compiled.resource)) else {
                continue;
            };
            let changed = compiled.causes.iter().find(|cause| before.get(cause) != after.get(cause));
            if let Some(object) = changed.or(compiled.causes.first()) {
                found.push(Unacceptable { object: object.clone(), violation });
            }
        }
    }
    found
}

/// The views that can differ: that of the service's own namespace, which all others share that have no routes to it.
fn views(policies: &Policies, service: &ServiceName) -> BTreeSet<View> {
    let own = View { namespace: service.namespace.clone() };
    let routes = policies.routes_of(service).filter_map(|(reference, ..)| reference.namespace.clone());
    routes.map(|namespace| View { namespace }).chain([own]).collect()
}

fn refused(service: &ServiceName, view: &View, resource: mesh::Service) -> Option<Violation> {
    let remedy = format!("write fewer or smaller rules in the Routes of Service {service}");
    let bytes = resource.encoded_len();
    if bytes > MAX_RESPONSE_BYTES {
        let message = format!(
            "with it, clients in namespace {} would have to take {bytes} bytes for Service {service}; a proxy takes \
             {MAX_RESPONSE_BYTES}",
            view.namespace
        );
        return Some(Violation::error("spec", "too_large", message).remedy(remedy));
    }
    let refused = Service::try_from(resource).err()?;
    let message = format!("a proxy would refuse Service {service} with it: {refused}");
    Some(Violation::error("spec", refused.code, message).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use outrigger_core::{model::Kind, policy};

    use super::*;

    const PRICE: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec: {ports: [{port: 80}]}
";

    /// A route in `namespace` with `rules` rules of eight matches, each with a header of `bytes` bytes.
    fn route(namespace: &str, name: &str, rules: usize, bytes: usize) -> String {
        let header = format!("headers: [{{name: x, value: {}}}]", "v".repeat(bytes));
        let matches = format!("{{{header}}}, ").repeat(8);
        let rules = format!("  - matches: [{matches}]\n").repeat(rules);
        format!(
            "---\napiVersion: outrigger.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}, namespace: \
             {namespace}}}\nspec:\n  parentRefs: [{{name: price, namespace: demo}}]\n  rules:\n{rules}"
        )
    }

    fn objects(texts: &[String]) -> Objects {
        let documents = texts.iter().flat_map(|text| policy::parse(text).unwrap());
        let by_ref: BTreeMap<_, _> =
            documents.map(|document| (document.object.reference(), Arc::new(document.object))).collect();
        Objects::new(1, by_ref)
    }

    #[test]
    fn what_proxies_can_take_is_fine() {
        let after = objects(&[PRICE.to_owned(), route("demo", "a", 16, 1000), route("shop", "b", 16, 1000)]);
        assert_eq!(check(&Objects::default(), &after), []);
    }

    #[test]
    fn routes_that_are_too_much_together_are_told_to_the_one_that_changed() {
        let mut texts = vec![PRICE.to_owned()];
        texts.extend((0..3).map(|number| route("demo", &format!("old-{number}"), 16, 2000)));
        let before = objects(&texts);
        assert_eq!(check(&Objects::default(), &before), []);
        texts.push(route("demo", "zz-new", 16, 3000));
        let after = objects(&texts);
        let found = check(&before, &after);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].object.kind, found[0].object.name.as_str()), (Kind::Route, "zz-new"));
        assert_eq!(found[0].violation.code, "too_large");
        assert_eq!(check(&after, &after), [], "what is there already is not judged again");
    }

    #[test]
    fn the_view_of_every_namespace_with_routes_counts() {
        let texts: Vec<_> = (0..6).map(|number| route("shop", &format!("r-{number}"), 16, 2000)).collect();
        let found = check(&Objects::default(), &objects(&[vec![PRICE.to_owned()], texts].concat()));
        assert_eq!(found.len(), 1);
        assert!(found[0].violation.message.contains("namespace shop"), "{}", found[0].violation.message);
    }

    #[test]
    fn more_rules_than_a_proxy_takes_are_refused_as_it_would() {
        let texts: Vec<_> = (0..33).map(|number| route("demo", &format!("r-{number:02}"), 16, 1)).collect();
        let found = check(&Objects::default(), &objects(&[vec![PRICE.to_owned()], texts].concat()));
        assert_eq!(found[0].violation.code, "too_many");
    }
}
