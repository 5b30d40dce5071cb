//! The hops to a service and everything behind it, as a tree: which hop comes after which is told by who may back the
//! destination, since a proxy reports its hops under its own identity.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_core::model::{Name, ServiceName};

use super::Key;
use crate::compile::Policies;

/// Namespace and service account.
type Account = (Name, Name);

/// The hops to `service`, as a backend or as the parent of the route whose rule chose the backend; after the hops that
/// lead to an account, those which that account makes itself, one level deeper, and so on. Each hop is there once.
pub fn chain<'a>(
    all: impl Iterator<Item = &'a Key>,
    service: &ServiceName,
    policies: &Policies,
) -> Vec<(u32, &'a Key)> {
    let routes: BTreeSet<String> = policies
        .routes_of(service)
        .filter_map(|(route, _, _)| Some(format!("{}/{}", route.namespace.as_ref()?, route.name)))
        .collect();
    let mut by_source: BTreeMap<Account, Vec<&Key>> = BTreeMap::new();
    let mut first = Vec::new();
    for key in all {
        if let Some((namespace, account)) = key.source.as_workload() {
            by_source.entry((namespace.clone(), account.clone())).or_default().push(key);
        }
        let backend = key.edge.destination.as_ref().is_some_and(|(backend, _)| backend == service);
        let route = key.edge.rule.as_deref().and_then(|rule| rule.split_once('#'));
        if backend || route.is_some_and(|(route, _)| routes.contains(route)) {
            first.push(key);
        }
    }
    let mut placed: BTreeSet<&Key> = first.iter().copied().collect();
    let mut tree = Vec::new();
    let mut open = level(first, 0, policies);
    while let Some(Step { depth, hop, accounts }) = open.pop() {
        tree.push((depth, hop));
        let next = accounts.iter().filter_map(|account| by_source.get(account)).flatten();
        let next = next.filter(|hop| placed.insert(hop)).copied().collect();
        open.extend(level(next, depth.saturating_add(1), policies));
    }
    tree
}

/// A hop, and the accounts whose own hops come after it.
struct Step<'a> {
    depth: u32,
    hop: &'a Key,
    accounts: Vec<Account>,
}

/// Hops side by side, the last one first. An account's own hops come after the last one that leads to it.
fn level<'a>(mut hops: Vec<&'a Key>, depth: u32, policies: &Policies) -> Vec<Step<'a>> {
    hops.sort_by(|one, other| (&one.edge, &one.source).cmp(&(&other.edge, &other.source)));
    let mut known = BTreeSet::new();
    let steps = hops.into_iter().rev().map(|hop| {
        let destination = hop.edge.destination.as_ref();
        let accounts = destination.map(|(service, _)| policies.accounts(service)).unwrap_or_default();
        let accounts = accounts.into_iter().filter(|account| known.insert(account.clone())).collect();
        Step { depth, hop, accounts }
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_core::{
        model::{Object, ObjectRef},
        policy,
        telemetry::EdgeKey,
    };

    use super::*;

    fn policies(documents: &str) -> Policies {
        let objects: Vec<(ObjectRef, Arc<Object>)> = policy::parse(documents)
            .unwrap()
            .into_iter()
            .map(|document| (document.object.reference(), Arc::new(document.object)))
            .collect();
        Policies::new(objects.iter().map(|(reference, object)| (reference, object)))
    }

    fn key(source: &str, destination: &str, rule: Option<&str>) -> Key {
        let (namespace, account) = source.split_once('/').unwrap();
        Key {
            source: format!("spiffe://outrigger.local/ns/{namespace}/sa/{account}").parse().unwrap(),
            edge: EdgeKey {
                destination: Some((destination.parse().unwrap(), 80)),
                rule: rule.map(Into::into),
                ..EdgeKey::OTHER
            },
        }
    }

    fn drawn(keys: &[Key], service: &str, policies: &Policies) -> Vec<String> {
        let tree = chain(keys.iter(), &service.parse().unwrap(), policies);
        let line = |(depth, key): (u32, &Key)| {
            let (namespace, account) = key.source.as_workload().unwrap();
            let to = key.edge.destination.as_ref().map_or("other".to_owned(), |(to, _)| to.to_string());
            format!("{}{namespace}/{account} -> {to}", "  ".repeat(depth as usize))
        };
        tree.into_iter().map(line).collect()
    }

    #[test]
    fn the_chain_goes_from_the_callers_to_the_last_service() {
        let keys = [
            key("demo/price", "demo/stock", None),
            key("demo/front", "demo/cart", None),
            key("demo/till", "demo/price", None),
            key("demo/stock", "demo/store", None),
            key("demo/front", "demo/price", None),
            key("demo/other", "demo/stock", None),
        ];
        assert_eq!(
            drawn(&keys, "demo/price", &Policies::default()),
            [
                "demo/front -> demo/price",
                "demo/till -> demo/price",
                "  demo/price -> demo/stock",
                "    demo/stock -> demo/store"
            ]
        );
        assert!(drawn(&keys, "demo/nothing", &Policies::default()).is_empty());
    }

    #[test]
    fn a_parent_stands_for_the_backends_of_its_routes_and_a_backend_for_itself() {
        let policies = policies(
            "
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price-v1, namespace: demo}
spec: {ports: [{port: 80, name: http}], serviceAccounts: [price]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price-v2, namespace: demo}
spec: {ports: [{port: 80, name: http}], serviceAccounts: [price]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {name: canary, namespace: demo}
spec:
  parentRefs: [{name: price}]
  rules: [{backendRefs: [{name: price-v1, port: 80}, {name: price-v2, port: 80}]}]
",
        );
        let keys = [
            key("demo/front", "demo/price-v1", Some("demo/canary#0")),
            key("demo/front", "demo/price-v2", Some("demo/canary#0")),
            key("demo/front", "demo/price-v2", Some("demo/another#0")),
            key("demo/price", "demo/stock", None),
        ];
        // Both versions run under one account: what it calls comes after the last of them.
        assert_eq!(
            drawn(&keys, "demo/price", &policies),
            ["demo/front -> demo/price-v1", "demo/front -> demo/price-v2", "  demo/price -> demo/stock"]
        );
        assert_eq!(
            drawn(&keys, "demo/price-v1", &policies),
            ["demo/front -> demo/price-v1", "  demo/price -> demo/stock"]
        );
    }

    #[test]
    fn a_circle_is_walked_once() {
        let keys = [
            key("demo/price", "demo/front", None),
            key("demo/front", "demo/price", None),
            key("demo/front", "demo/cart", None),
            key("demo/price", "demo/price", None),
        ];
        assert_eq!(
            drawn(&keys, "demo/price", &Policies::default()),
            [
                "demo/front -> demo/price",
                "demo/price -> demo/price",
                "  demo/price -> demo/front",
                "    demo/front -> demo/cart"
            ]
        );
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let name = |number: usize| format!("demo/n-{number}");
        let keys: Vec<_> = (0..20_000).map(|number| key(&name(number), &name(number + 1), None)).collect();
        let service = "demo/n-1".parse().unwrap();
        let policies = Policies::default();
        assert_eq!(chain(keys.iter(), &service, &policies).len(), keys.len());
    }
}
