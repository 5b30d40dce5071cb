//! The spec of a Route, in the shape of the Gateway API's HTTPRoute. What an HTTPRoute has and this version does not
//! run is refused by name.

mod render;

use outrigger_proto::{
    mesh::v1alpha1::{
        Header, HeaderMatch, HeaderMutation, HttpFilter, HttpMatch, PathMatch, QueryMatch, ValueMatch,
        http_filter, path_match, value_match,
    },
    policy::v1alpha1::{BackendRef, ParentRef, RouteRule, RouteSpec as Message},
};

pub(super) use self::render::render;
use super::{
    choice,
    fields::{self, Fields, Shape, Spoken},
    tree::Node,
};
use crate::wire::Findings;

pub(super) const SPEC: Shape =
    Shape { known: &["parentRefs", "rules"], elsewhere: &["hostnames", "useDefaultGateways"] };
const PARENT: Shape =
    Shape { known: &["name", "namespace", "port", "kind"], elsewhere: &["group", "sectionName"] };
const RULE: Shape = Shape {
    known: &["name", "matches", "filters", "backendRefs", "timeouts"],
    elsewhere: &["retry", "sessionPersistence"],
};
const MATCH: Shape = Shape { known: &["path", "method", "headers", "queryParams"], elsewhere: &[] };
const PATH: Shape = Shape { known: &["type", "value"], elsewhere: &[] };
const NAMED_VALUE: Shape = Shape { known: &["type", "name", "value"], elsewhere: &[] };
const FILTER: Shape = Shape {
    known: &["type", "requestHeaderModifier", "responseHeaderModifier"],
    elsewhere: &["requestRedirect", "urlRewrite", "requestMirror", "cors", "extensionRef", "externalAuth"],
};
const LATER_FILTERS: [&str; 6] =
    ["RequestRedirect", "URLRewrite", "RequestMirror", "CORS", "ExtensionRef", "ExternalAuth"];
const MODIFIER: Shape = Shape { known: &["set", "add", "remove"], elsewhere: &[] };
const HEADER: Shape = Shape { known: &["name", "value"], elsewhere: &[] };
const BACKEND: Shape =
    Shape { known: &["name", "namespace", "port", "weight", "kind"], elsewhere: &["group", "filters"] };
const TIMEOUTS: Shape = Shape { known: &["request"], elsewhere: &["backendRequest"] };

pub(super) fn read(findings: &mut Findings, spoken: &Spoken, fields: Fields<'_>) -> Message {
    Message {
        parents: fields.list(findings, "parentRefs", |findings, node| parent(findings, spoken, node)),
        rules: fields.list(findings, "rules", |findings, node| rule(findings, spoken, node)),
    }
}

fn parent(findings: &mut Findings, spoken: &Spoken, node: &Node) -> ParentRef {
    let Some(fields) = Fields::open(findings, spoken, node, &PARENT) else {
        return ParentRef::default();
    };
    only_services(findings, fields);
    ParentRef {
        namespace: fields.text(findings, "namespace"),
        name: fields.text(findings, "name"),
        port: fields.port(findings, "port"),
    }
}

/// Parents, backends and targets are Services; saying so is allowed.
pub(super) fn only_services(findings: &mut Findings, fields: Fields<'_>) {
    let kind = fields.text(findings, "kind");
    if !kind.is_empty() {
        choice::choose(findings, "kind", &kind, &[("Service", ())], &["Gateway", "ServiceImport"]);
    }
}

fn rule(findings: &mut Findings, spoken: &Spoken, node: &Node) -> RouteRule {
    let Some(fields) = Fields::open(findings, spoken, node, &RULE) else {
        return RouteRule::default();
    };
    let timeout = fields.map(findings, spoken, ("timeouts", &TIMEOUTS), |findings, timeouts| {
        timeouts.duration(findings, "request")
    });
    RouteRule {
        name: fields.text(findings, "name"),
        matches: fields.list(findings, "matches", |findings, node| http_match(findings, spoken, node)),
        filters: fields.list(findings, "filters", |findings, node| filter(findings, spoken, node)),
        backends: fields.list(findings, "backendRefs", |findings, node| backend(findings, spoken, node)),
        request_timeout: timeout.flatten(),
    }
}

fn backend(findings: &mut Findings, spoken: &Spoken, node: &Node) -> BackendRef {
    let Some(fields) = Fields::open(findings, spoken, node, &BACKEND) else {
        return BackendRef::default();
    };
    only_services(findings, fields);
    BackendRef {
        namespace: fields.text(findings, "namespace"),
        name: fields.text(findings, "name"),
        port: fields.port(findings, "port"),
        weight: fields.number(findings, "weight"),
    }
}

fn http_match(findings: &mut Findings, spoken: &Spoken, node: &Node) -> HttpMatch {
    let Some(fields) = Fields::open(findings, spoken, node, &MATCH) else {
        return HttpMatch::default();
    };
    let path = fields.map(findings, spoken, ("path", &PATH), path);
    HttpMatch {
        path: path.flatten(),
        method: fields.text(findings, "method"),
        headers: fields.list(findings, "headers", |findings, node| {
            let (name, value) = named_value(findings, spoken, node);
            HeaderMatch { name, value }
        }),
        query_params: fields.list(findings, "queryParams", |findings, node| {
            let (name, value) = named_value(findings, spoken, node);
            QueryMatch { name, value }
        }),
    }
}

/// By default a prefix, and of everything: as in the Gateway API.
fn path(findings: &mut Findings, fields: Fields<'_>) -> Option<PathMatch> {
    type Make = fn(String) -> path_match::Kind;
    let known: [(&str, Make); 3] = [
        ("Exact", path_match::Kind::Exact),
        ("PathPrefix", path_match::Kind::Prefix),
        ("RegularExpression", path_match::Kind::Regex),
    ];
    let make: Make = match fields.text(findings, "type").as_str() {
        "" => path_match::Kind::Prefix,
        word => choice::choose(findings, "type", word, &known, &[])?,
    };
    let value = match fields.get("value") {
        None => "/".to_owned(),
        Some(_) => fields.text(findings, "value"),
    };
    Some(PathMatch { kind: Some(make(value)) })
}

fn named_value(findings: &mut Findings, spoken: &Spoken, node: &Node) -> (String, Option<ValueMatch>) {
    type Make = fn(String) -> value_match::Kind;
    let known: [(&str, Make); 2] =
        [("Exact", value_match::Kind::Exact), ("RegularExpression", value_match::Kind::Regex)];
    let Some(fields) = Fields::open(findings, spoken, node, &NAMED_VALUE) else {
        return (String::new(), None);
    };
    let name = fields.text(findings, "name");
    let make: Make = match fields.text(findings, "type").as_str() {
        "" => value_match::Kind::Exact,
        // A finding already; its value is judged as the default.
        word => choice::choose(findings, "type", word, &known, &[]).unwrap_or(value_match::Kind::Exact),
    };
    let value = fields.text(findings, "value");
    (name, Some(ValueMatch { kind: Some(make(value)) }))
}

fn filter(findings: &mut Findings, spoken: &Spoken, node: &Node) -> HttpFilter {
    type Make = fn(HeaderMutation) -> http_filter::Kind;
    let known: [(&str, (&str, &str, Make)); 2] = [
        (
            "RequestHeaderModifier",
            ("requestHeaderModifier", "responseHeaderModifier", http_filter::Kind::RequestHeaders),
        ),
        (
            "ResponseHeaderModifier",
            ("responseHeaderModifier", "requestHeaderModifier", http_filter::Kind::ResponseHeaders),
        ),
    ];
    let Some(fields) = Fields::open(findings, spoken, node, &FILTER) else {
        return HttpFilter::default();
    };
    let word = fields.text(findings, "type");
    if word.is_empty() {
        let remedy = "write type: RequestHeaderModifier or ResponseHeaderModifier";
        findings.error("type", "required", "it is missing", remedy);
        return HttpFilter::default();
    }
    let Some((own, other, make)) = choice::choose(findings, "type", &word, &known, &LATER_FILTERS) else {
        return HttpFilter::default();
    };
    if fields.get(other).is_some() {
        let message = format!("a filter of type {word} has no {other}");
        findings.error(other, "conflict", message, "write a filter of its own for it");
    }
    let edits = fields.map(findings, spoken, (own, &MODIFIER), |findings, fields| HeaderMutation {
        set: fields.list(findings, "set", |findings, node| header(findings, spoken, node)),
        add: fields.list(findings, "add", |findings, node| header(findings, spoken, node)),
        remove: fields.list(findings, "remove", |findings, node| fields::text(findings, "", node)),
    });
    HttpFilter { kind: Some(make(edits.unwrap_or_default())) }
}

fn header(findings: &mut Findings, spoken: &Spoken, node: &Node) -> Header {
    let Some(fields) = Fields::open(findings, spoken, node, &HEADER) else {
        return Header::default();
    };
    Header { name: fields.text(findings, "name"), value: fields.text(findings, "value") }
}
