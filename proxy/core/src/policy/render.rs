//! Objects as documents, with what the server keeps about them: reading one back gives the object that was written.

use std::time::SystemTime;

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{API_VERSION, mesh_config, route, service, traffic_policy};
use crate::model::{Condition, Metadata, Object, Spec};

/// The object as JSON.
pub fn to_json(object: &Object) -> Value {
    let spec = match &object.spec {
        Spec::Service(spec) => service::render(&object.metadata, spec),
        Spec::Route(spec) => route::render(spec),
        Spec::TrafficPolicy(spec) => traffic_policy::render(spec),
        Spec::MeshConfig(spec) => mesh_config::render(spec),
    };
    let mut document = Map::new();
    document.insert("apiVersion".to_owned(), API_VERSION.into());
    document.insert("kind".to_owned(), object.spec.kind().as_str().into());
    document.insert("metadata".to_owned(), metadata(&object.metadata));
    document.insert("spec".to_owned(), spec);
    if !object.conditions.is_empty() {
        let conditions: Value = object.conditions.iter().map(condition).collect();
        document.insert("status".to_owned(), json!({"conditions": conditions}));
    }
    Value::Object(document)
}

/// The object as a YAML document, without `---`.
pub fn to_yaml(object: &Object) -> String {
    let value = to_json(object);
    // Long texts stay on one line, quoted where they must be: folded ones are hard to read back for people and tools.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    // Texts, numbers, lists and maps can always be written; JSON is YAML all the same.
    serde_saphyr::to_string_with_options(&value, options).unwrap_or_else(|_| value.to_string())
}

fn metadata(metadata: &Metadata) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    if !metadata.annotations.is_empty() {
        put("annotations", json!(metadata.annotations));
    }
    if let Some(created) = metadata.created {
        put("created", timestamp(created));
    }
    if metadata.generation > 0 {
        put("generation", metadata.generation.into());
    }
    if !metadata.labels.is_empty() {
        put("labels", json!(metadata.labels));
    }
    put("name", metadata.name.as_str().into());
    if let Some(namespace) = &metadata.namespace {
        put("namespace", namespace.as_str().into());
    }
    if metadata.revision > 0 {
        put("revision", metadata.revision.into());
    }
    if !metadata.uid.is_empty() {
        put("uid", metadata.uid.as_str().into());
    }
    if let Some(updated) = metadata.updated {
        put("updated", timestamp(updated));
    }
    if !metadata.updated_by.is_empty() {
        put("updatedBy", metadata.updated_by.as_str().into());
    }
    Value::Object(fields)
}

fn condition(condition: &Condition) -> Value {
    let mut fields = Map::new();
    fields.insert("message".to_owned(), condition.message.as_str().into());
    fields.insert("observedGeneration".to_owned(), condition.observed_generation.into());
    fields.insert("reason".to_owned(), condition.reason.as_str().into());
    if let Some(since) = condition.since {
        fields.insert("since".to_owned(), timestamp(since));
    }
    // A word, not a truth value: Kubernetes' conditions also know `Unknown`.
    let status = if condition.status { "True" } else { "False" };
    fields.insert("status".to_owned(), status.into());
    fields.insert("type".to_owned(), condition.kind.as_str().into());
    Value::Object(fields)
}

/// RFC 3339, to the second; `null` for a time that has no such form.
fn timestamp(time: SystemTime) -> Value {
    // By way of the wire, which bounds it: the conversion itself panics on times far away.
    let seconds = crate::wire::time::encode_timestamp(time).seconds;
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .map_or(Value::Null, Value::String)
}
