//! Routes: how requests for their parents are matched and split.

use std::collections::BTreeSet;

use outrigger_proto::policy::v1alpha1 as proto;

use crate::{
    model::{BackendRef, Metadata, Name, ParentRef, PolicyRule, RouteSpec},
    wire::{
        Findings, filters,
        limits::{self, MAX_BACKENDS, MAX_WEIGHT},
        matches::{self, DOCUMENT},
        time::encode_duration,
    },
};

const MAX_PARENTS: usize = 32;
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
/// Of all rules together, as in the Gateway API.
const MAX_MATCHES_OF_ROUTE: usize = 128;
/// Of all rules together: each costs a proxy up to [`crate::model::Pattern::MAX_COMPILED`].
const MAX_PATTERNS_OF_ROUTE: usize = 64;

pub(super) fn decode(
    findings: &mut Findings,
    metadata: Option<&Metadata>,
    wire: &proto::RouteSpec,
) -> RouteSpec {
    let own = metadata.and_then(|metadata| metadata.namespace.as_ref());
    if wire.parents.is_empty() {
        let remedy = "write parentRefs: [{name: <service>}]";
        findings.error("parentRefs", "required", "a route is for at least one service", remedy);
    }
    let mut seen = BTreeSet::new();
    let parents = findings.each("parentRefs", &wire.parents, MAX_PARENTS, |findings, wire| {
        let parent = decode_parent(findings, wire)?;
        let namespace = parent.namespace.as_ref().or(own);
        if !seen.insert((namespace.cloned(), parent.name.clone(), parent.port)) {
            let message = format!("{} is given twice", describe(namespace, &parent.name, parent.port));
            findings.error("", "duplicate", message, "write it once");
        }
        Some(parent)
    });
    if wire.rules.is_empty() {
        findings.error(
            "rules",
            "required",
            "a route has at least one rule",
            "write rules: [{backendRefs: [...]}]",
        );
    }
    let matches: usize = wire.rules.iter().map(|rule| rule.matches.len()).sum();
    if matches > MAX_MATCHES_OF_ROUTE {
        let message =
            format!("{matches} matches are given, at most {MAX_MATCHES_OF_ROUTE} are allowed in a route");
        findings.error("rules", "too_many", message, "split the route");
        return RouteSpec { parents, rules: Vec::new() };
    }
    let patterns: usize = wire.rules.iter().flat_map(|rule| &rule.matches).map(matches::patterns).sum();
    if patterns > MAX_PATTERNS_OF_ROUTE {
        let message = format!(
            "{patterns} regular expressions are given, at most {MAX_PATTERNS_OF_ROUTE} are allowed in a route"
        );
        findings.error("rules", "too_many", message, "split the route");
        return RouteSpec { parents, rules: Vec::new() };
    }
    let mut names = BTreeSet::new();
    let rules = findings.each("rules", &wire.rules, MAX_RULES, |findings, wire| {
        if !wire.name.is_empty() && !names.insert(&wire.name) {
            let message = format!("'{}' names two rules", matches::cut(&wire.name));
            findings.error("name", "duplicate", message, "give each rule a name of its own");
        }
        decode_rule(findings, own, wire)
    });
    RouteSpec { parents, rules }
}

fn decode_parent(findings: &mut Findings, wire: &proto::ParentRef) -> Option<ParentRef> {
    let before = findings.count();
    let namespace = findings.optional_name("namespace", &wire.namespace);
    let name = findings.name("name", &wire.name);
    let port = if wire.port == 0 { None } else { findings.port("port", wire.port) };
    let sound = findings.count() == before;
    Some(ParentRef { namespace, name: name?, port }).filter(|_| sound)
}

fn decode_rule(findings: &mut Findings, own: Option<&Name>, wire: &proto::RouteRule) -> Option<PolicyRule> {
    let name = findings.optional_name("name", &wire.name);
    let matches = findings.each("matches", &wire.matches, MAX_MATCHES, |findings, wire| {
        matches::http_match(findings, &DOCUMENT, wire)
    });
    let filters = filters::filters(findings, &DOCUMENT, &wire.filters);
    let mut seen = BTreeSet::new();
    let backends = findings.each("backendRefs", &wire.backends, MAX_BACKENDS, |findings, wire| {
        let backend = decode_backend(findings, wire)?;
        let namespace = backend.namespace.as_ref().or(own);
        if !seen.insert((namespace.cloned(), backend.name.clone(), backend.port)) {
            let message =
                format!("{} is given twice", describe(namespace, &backend.name, Some(backend.port)));
            findings.error("", "duplicate", message, "write it once, with the sum of the weights");
        }
        Some(backend)
    });
    if !wire.backends.is_empty() && wire.backends.iter().all(|backend| backend.weight == Some(0)) {
        let message = "all weights are 0, so that no request could be answered";
        let remedy = "give at least one backend a weight above 0, or leave backendRefs out for the parent's own \
                      endpoints";
        findings.error("backendRefs", "all_weights_zero", message, remedy);
    }
    let request_timeout = wire.request_timeout.as_ref();
    let request_timeout = limits::timeout(findings, "timeouts.request", request_timeout);
    limits::whole_milliseconds(findings, "timeouts.request", request_timeout);
    Some(PolicyRule { name, matches, filters, backends, request_timeout })
}

fn decode_backend(findings: &mut Findings, wire: &proto::BackendRef) -> Option<BackendRef> {
    let before = findings.count();
    let namespace = findings.optional_name("namespace", &wire.namespace);
    let name = findings.name("name", &wire.name);
    let port = findings.port("port", wire.port);
    let weight = findings.number("weight", wire.weight.unwrap_or(1), 0, MAX_WEIGHT);
    let sound = findings.count() == before;
    Some(BackendRef { namespace, name: name?, port: port?, weight: weight? }).filter(|_| sound)
}

fn describe(namespace: Option<&Name>, name: &Name, port: Option<u16>) -> String {
    let namespace = namespace.map_or_else(String::new, |namespace| format!("{namespace}/"));
    let port = port.map_or_else(String::new, |port| format!(" port {port}"));
    format!("service {namespace}{name}{port}")
}

impl From<&RouteSpec> for proto::RouteSpec {
    fn from(spec: &RouteSpec) -> Self {
        Self {
            parents: spec
                .parents
                .iter()
                .map(|parent| proto::ParentRef {
                    namespace: parent.namespace.as_ref().map_or_else(String::new, ToString::to_string),
                    name: parent.name.to_string(),
                    port: parent.port.map_or(0, u32::from),
                })
                .collect(),
            rules: spec.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&PolicyRule> for proto::RouteRule {
    fn from(rule: &PolicyRule) -> Self {
        Self {
            name: rule.name.as_ref().map_or_else(String::new, ToString::to_string),
            matches: rule.matches.iter().map(Into::into).collect(),
            filters: rule.filters.iter().map(Into::into).collect(),
            backends: rule
                .backends
                .iter()
                .map(|backend| proto::BackendRef {
                    namespace: backend.namespace.as_ref().map_or_else(String::new, ToString::to_string),
                    name: backend.name.to_string(),
                    port: backend.port.into(),
                    weight: Some(backend.weight),
                })
                .collect(),
            request_timeout: rule.request_timeout.map(encode_duration),
        }
    }
}
