//! The spec of a Route as a document says it.

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::{
    model::{
        BackendRef, HeaderMutation, HttpFilter, HttpMatch, ParentRef, PathMatch, PolicyRule, RouteSpec,
        ValueMatch,
    },
    policy::duration,
};

pub(in crate::policy) fn render(spec: &RouteSpec) -> Value {
    json!({
        "parentRefs": spec.parents.iter().map(parent).collect::<Value>(),
        "rules": spec.rules.iter().map(rule).collect::<Value>(),
    })
}

fn parent(parent: &ParentRef) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), parent.name.as_str().into());
    if let Some(namespace) = &parent.namespace {
        fields.insert("namespace".to_owned(), namespace.as_str().into());
    }
    if let Some(port) = parent.port {
        fields.insert("port".to_owned(), port.into());
    }
    Value::Object(fields)
}

fn rule(rule: &PolicyRule) -> Value {
    let mut fields = Map::new();
    if !rule.backends.is_empty() {
        fields.insert("backendRefs".to_owned(), rule.backends.iter().map(backend).collect());
    }
    if !rule.filters.is_empty() {
        fields.insert("filters".to_owned(), rule.filters.iter().map(filter).collect());
    }
    if !rule.matches.is_empty() {
        fields.insert("matches".to_owned(), rule.matches.iter().map(condition).collect());
    }
    if let Some(name) = &rule.name {
        fields.insert("name".to_owned(), name.as_str().into());
    }
    if let Some(timeout) = rule.request_timeout {
        fields.insert("timeouts".to_owned(), json!({"request": duration::format(timeout)}));
    }
    Value::Object(fields)
}

fn backend(backend: &BackendRef) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), backend.name.as_str().into());
    if let Some(namespace) = &backend.namespace {
        fields.insert("namespace".to_owned(), namespace.as_str().into());
    }
    fields.insert("port".to_owned(), backend.port.into());
    fields.insert("weight".to_owned(), backend.weight.into());
    Value::Object(fields)
}

fn condition(condition: &HttpMatch) -> Value {
    let mut fields = Map::new();
    if !condition.headers.is_empty() {
        let headers = condition.headers.iter().map(|header| named(header.name.as_str(), &header.value));
        fields.insert("headers".to_owned(), headers.collect());
    }
    if let Some(method) = &condition.method {
        fields.insert("method".to_owned(), method.as_str().into());
    }
    if let Some(path) = &condition.path {
        let (kind, value) = match path {
            PathMatch::Exact(path) => ("Exact", path.as_str()),
            PathMatch::Prefix(path) => ("PathPrefix", path.as_str()),
            PathMatch::Regex(pattern) => ("RegularExpression", pattern.source()),
        };
        fields.insert("path".to_owned(), json!({"type": kind, "value": value}));
    }
    if !condition.query_params.is_empty() {
        let params = condition.query_params.iter().map(|param| named(&param.name, &param.value));
        fields.insert("queryParams".to_owned(), params.collect());
    }
    Value::Object(fields)
}

fn named(name: &str, value: &ValueMatch) -> Value {
    let (kind, value) = match value {
        ValueMatch::Exact(value) => ("Exact", value.as_str()),
        ValueMatch::Regex(pattern) => ("RegularExpression", pattern.source()),
    };
    json!({"name": name, "type": kind, "value": value})
}

fn filter(filter: &HttpFilter) -> Value {
    match filter {
        HttpFilter::RequestHeaders(edits) => {
            json!({"requestHeaderModifier": mutation(edits), "type": "RequestHeaderModifier"})
        }
        HttpFilter::ResponseHeaders(edits) => {
            json!({"responseHeaderModifier": mutation(edits), "type": "ResponseHeaderModifier"})
        }
    }
}

fn mutation(edits: &HeaderMutation) -> Value {
    let mut fields = Map::new();
    let headers = |headers: &[(HeaderName, HeaderValue)]| -> Value {
        headers
            .iter()
            .map(|(name, value)| json!({"name": name.as_str(), "value": String::from_utf8_lossy(value.as_bytes())}))
            .collect()
    };
    if !edits.add.is_empty() {
        fields.insert("add".to_owned(), headers(&edits.add));
    }
    if !edits.remove.is_empty() {
        fields.insert("remove".to_owned(), edits.remove.iter().map(HeaderName::as_str).collect());
    }
    if !edits.set.is_empty() {
        fields.insert("set".to_owned(), headers(&edits.set));
    }
    Value::Object(fields)
}
