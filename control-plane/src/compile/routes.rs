//! The rules of one service port in match order.

use std::{sync::Arc, time::SystemTime};

use outrigger_core::{
    model::{
        AppProtocol, HttpMatch, Name, Object, ObjectRef, PolicyRule, PortSpec, RouteRule, RouteSpec,
        ServiceName, WeightedBackend,
    },
    route,
};

use super::{Policies, View, set_name};

struct Route<'a> {
    reference: &'a ObjectRef,
    namespace: &'a Name,
    created: Option<SystemTime>,
    spec: &'a RouteSpec,
}

/// The rules of `port` of `service` for clients of `view`, and the routes that they come from.
pub(super) fn rules(
    policies: &Policies,
    service: &ServiceName,
    port: &PortSpec,
    view: &View,
) -> (Vec<RouteRule>, Vec<ObjectRef>) {
    // What is not HTTP has no requests to match.
    if matches!(port.protocol, AppProtocol::Tcp | AppProtocol::Tls) {
        return (Vec::new(), Vec::new());
    }
    let routes: Vec<Route<'_>> = policies
        .routes_of(service)
        .filter_map(|(reference, object, spec)| applicable(service, port, reference, object, spec))
        .collect();
    let (producers, others): (Vec<_>, Vec<_>) =
        routes.into_iter().partition(|route| *route.namespace == service.namespace);
    let consumers: Vec<_> = others.into_iter().filter(|route| *route.namespace == view.namespace).collect();
    let routes = if consumers.is_empty() { producers } else { consumers };
    let causes = routes.iter().map(|route| route.reference.clone()).collect();
    (ordered(service, port, routes), causes)
}

fn applicable<'a>(
    service: &ServiceName,
    port: &PortSpec,
    reference: &'a ObjectRef,
    object: &Object,
    spec: &'a RouteSpec,
) -> Option<Route<'a>> {
    let namespace = reference.namespace.as_ref()?;
    let here = spec.parents.iter().any(|parent| {
        parent.name == service.name
            && *parent.namespace.as_ref().unwrap_or(namespace) == service.namespace
            && parent.port.is_none_or(|wanted| wanted == port.port)
    });
    here.then_some(Route { reference, namespace, created: object.metadata.created, spec })
}

/// One rule for each match, by the precedence of the Gateway API: the more specific match first; of equal ones that of
/// the older route, then of the route first by name, then the rule written first.
fn ordered(service: &ServiceName, port: &PortSpec, mut routes: Vec<Route<'_>>) -> Vec<RouteRule> {
    // A route without a time (never in the store) counts as the youngest.
    routes.sort_by_key(|route| (route.created.is_none(), route.created, route.reference.clone()));
    let mut rules: Vec<RouteRule> = Vec::new();
    for route in &routes {
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let whole = [HttpMatch::default()];
            let matches = if rule.matches.is_empty() { &whole[..] } else { &rule.matches[..] };
            rules.extend(
                matches.iter().map(|condition| compiled(service, port, route, (index, rule), condition)),
            );
        }
    }
    // Stable: what is equally specific stays in the order above.
    rules.sort_by_cached_key(|rule| route::precedence(&rule.condition));
    rules
}

fn compiled(
    service: &ServiceName,
    port: &PortSpec,
    route: &Route<'_>,
    (index, rule): (usize, &PolicyRule),
    condition: &HttpMatch,
) -> RouteRule {
    let rule_name = rule.name.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
    let own = || WeightedBackend {
        service: service.clone(),
        port: port.port,
        weight: 1,
        endpoint_set: Arc::from(set_name(service, port.port)),
    };
    let backends = if rule.backends.is_empty() {
        vec![own()]
    } else {
        rule.backends
            .iter()
            .map(|backend| {
                let namespace = backend.namespace.as_ref().unwrap_or(route.namespace).clone();
                let service = ServiceName { namespace, name: backend.name.clone() };
                let endpoint_set = Arc::from(set_name(&service, backend.port));
                WeightedBackend { service, port: backend.port, weight: backend.weight, endpoint_set }
            })
            .collect()
    };
    RouteRule {
        name: Arc::from(format!("{}/{}#{rule_name}", route.namespace, route.reference.name)),
        condition: condition.clone(),
        filters: rule.filters.clone(),
        backends,
        request_timeout: rule.request_timeout,
    }
}
