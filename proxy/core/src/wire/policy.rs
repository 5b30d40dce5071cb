//! Operators' objects. All that is wrong with one is reported at once, and each field is called what it is called in a
//! document, whether the object came as one or not.

use std::collections::BTreeMap;

use outrigger_proto::policy::v1alpha1 as proto;

use super::{
    Findings, cut,
    time::{decode_timestamp, encode_timestamp},
};
use crate::model::{Condition, Kind, Metadata, Name, Object, ObjectRef, Severity, Spec, Violation};

mod mesh_config;
mod route;
mod service;
mod traffic_policy;

const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 253;
const MAX_LABEL_VALUE: usize = 63;
const MAX_ANNOTATIONS_BYTES: usize = 65_536;
const MAX_CONDITIONS: usize = 16;

/// Decodes and validates an object.
///
/// # Errors
/// Everything that is wrong with it, at least one and at most 100, in the order of its fields.
pub fn object(wire: &proto::Object) -> Result<Object, Vec<Violation>> {
    let mut findings = Findings::default();
    let decoded = decode(&mut findings, wire);
    let violations = findings.into_violations();
    match decoded {
        Some(object) if violations.is_empty() => Ok(object),
        _ if violations.is_empty() => {
            Err(vec![Violation::error("", "invalid", "the object could not be decoded")])
        }
        _ => Err(violations),
    }
}

/// Decodes a reference; a kind that this version does not run is `unsupported`.
///
/// # Errors
/// What is wrong with it: an unknown kind, a missing or malformed name.
pub fn object_ref(wire: &proto::ObjectRef) -> Result<ObjectRef, Violation> {
    let kind = kind(wire.kind).map_err(|violation| violation.under("kind"))?;
    let mut findings = Findings::default();
    let (namespace, name) = full_name(&mut findings, kind, &wire.namespace, &wire.name);
    match (findings.into_violations().into_iter().next(), name) {
        (None, Some(name)) => Ok(ObjectRef { kind, namespace, name }),
        (Some(violation), _) => Err(violation),
        (None, None) => Err(Violation::error("name", "required", "it is missing")),
    }
}

/// Decodes a kind.
///
/// # Errors
/// `unsupported` for one that this version does not run, `required` for none. The field is empty: the caller knows it.
pub fn kind(value: i32) -> Result<Kind, Violation> {
    use proto::Kind as Wire;
    let unsupported = match Wire::try_from(value) {
        Ok(Wire::Service) => return Ok(Kind::Service),
        Ok(Wire::Route) => return Ok(Kind::Route),
        Ok(Wire::TrafficPolicy) => return Ok(Kind::TrafficPolicy),
        Ok(Wire::MeshConfig) => return Ok(Kind::MeshConfig),
        Ok(Wire::Unspecified) => return Err(Violation::error("", "required", "the kind is missing")),
        Ok(Wire::AuthorizationPolicy) => "kind AuthorizationPolicy",
        Ok(Wire::MtlsPolicy) => "kind MtlsPolicy",
        Ok(Wire::Fault) => "kind Fault",
        Ok(Wire::ExternalService) => "kind ExternalService",
        Err(_) => "this kind",
    };
    let message = format!("{unsupported} is not supported by this version");
    Err(Violation::error("", "unsupported", message))
}

/// Checks labels that come without an object around them: those of a join token.
///
/// # Errors
/// Everything that is wrong with them, each at `field`.
pub fn check_labels(field: &str, wire: &BTreeMap<String, String>) -> Result<(), Vec<Violation>> {
    let mut findings = Findings::default();
    labels(&mut findings, field, wire);
    let violations = findings.into_violations();
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

/// A violation as the API reports it.
pub fn diagnostic(violation: &Violation, object: Option<&ObjectRef>) -> proto::Diagnostic {
    let severity = match violation.severity {
        Severity::Warning => proto::diagnostic::Severity::Warning,
        Severity::Error => proto::diagnostic::Severity::Error,
    };
    proto::Diagnostic {
        severity: severity.into(),
        r#ref: object.map(Into::into),
        field: violation.field.clone(),
        code: violation.code.to_owned(),
        message: violation.message.clone(),
        remedy: violation.remedy.clone(),
    }
}

fn decode(findings: &mut Findings, wire: &proto::Object) -> Option<Object> {
    let Some(spec) = &wire.spec else {
        let remedy = "write the spec of a Service, a Route, a TrafficPolicy or a MeshConfig";
        findings.error(
            "spec",
            "required",
            "it is missing, or of a kind that this version does not know",
            remedy,
        );
        return None;
    };
    let kind = match spec {
        proto::object::Spec::Service(_) => Kind::Service,
        proto::object::Spec::Route(_) => Kind::Route,
        proto::object::Spec::TrafficPolicy(_) => Kind::TrafficPolicy,
        proto::object::Spec::MeshConfig(_) => Kind::MeshConfig,
    };
    let metadata = findings.required("metadata", wire.metadata.as_ref());
    let metadata = metadata
        .and_then(|wire| findings.within("metadata", |findings| decode_metadata(findings, kind, wire)));
    // The spec is inspected even when the metadata is wrong: its author wants to know everything at once.
    let spec = findings.within("spec", |findings| match spec {
        proto::object::Spec::Service(spec) => {
            Some(Spec::Service(service::decode(findings, metadata.as_ref(), spec)))
        }
        proto::object::Spec::Route(spec) => {
            Some(Spec::Route(route::decode(findings, metadata.as_ref(), spec)))
        }
        proto::object::Spec::TrafficPolicy(spec) => {
            Some(Spec::TrafficPolicy(traffic_policy::decode(findings, spec)))
        }
        proto::object::Spec::MeshConfig(spec) => mesh_config::decode(findings, spec).map(Spec::MeshConfig),
    });
    let conditions = wire.status.as_ref().map_or_else(Vec::new, |status| {
        findings.within("status", |findings| {
            findings.each("conditions", &status.conditions, MAX_CONDITIONS, decode_condition)
        })
    });
    Some(Object { metadata: metadata?, spec: spec?, conditions })
}

fn decode_metadata(findings: &mut Findings, kind: Kind, wire: &proto::Metadata) -> Option<Metadata> {
    let (namespace, name) = full_name(findings, kind, &wire.namespace, &wire.name);
    let labels = labels(findings, "labels", &wire.labels);
    let annotations = annotations(findings, &wire.annotations);
    let created = timestamp(findings, "created", wire.created.as_ref());
    let updated = timestamp(findings, "updated", wire.updated.as_ref());
    Some(Metadata {
        labels,
        annotations,
        revision: wire.revision,
        generation: wire.generation,
        created,
        updated,
        updated_by: wire.updated_by.clone(),
        uid: wire.uid.clone(),
        ..Metadata::new(namespace, name?)
    })
}

/// Namespace and name by the rules of `kind`; the name is `None` when either is wrong.
fn full_name(
    findings: &mut Findings,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> (Option<Name>, Option<Name>) {
    match kind {
        Kind::Service | Kind::Route | Kind::TrafficPolicy => {
            let namespace = findings.name("namespace", namespace);
            let name = findings.name("name", name).filter(|_| namespace.is_some());
            (namespace, name)
        }
        Kind::MeshConfig => {
            let before = findings.count();
            if !namespace.is_empty() {
                let message = "a MeshConfig belongs to the mesh, not to a namespace";
                findings.error("namespace", "invalid", message, "leave it out");
            }
            if name != Kind::MESH_CONFIG_NAME {
                let message = "the mesh has one MeshConfig, named 'mesh'";
                findings.error("name", "invalid", message, "write mesh");
            }
            let sound = findings.count() == before;
            (None, if sound { findings.name("name", name) } else { None })
        }
    }
}

/// Labels: keys and values that selectors and metrics can carry, in the grammar of Kubernetes.
fn labels(findings: &mut Findings, field: &str, wire: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    if wire.len() > MAX_LABELS {
        let message = format!("{} labels are given, at most {MAX_LABELS} are allowed", wire.len());
        findings.error(field, "too_many", message, "");
    }
    for (key, value) in wire.iter().take(MAX_LABELS) {
        check_key(findings, field, key);
        if !value.is_empty() && !is_label(value, MAX_LABEL_VALUE) {
            let message = format!("'{}' is not the value of a label", cut(value));
            let remedy = "write at most 63 letters, digits, '-', '_' and '.', starting and ending with a \
                          letter or digit";
            findings.error(&entry(field, key), "invalid", message, remedy);
        }
    }
    wire.clone()
}

/// Annotations, as many as an author may write. The server's own is beside them: an object that was taken must not be too
/// large once it is in a set.
fn annotations(findings: &mut Findings, wire: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = |key: &str, value: &str| key == Metadata::APPLIED_SET && value.parse::<Name>().is_ok();
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for (key, value) in wire.iter().filter(|(key, value)| !ours(key, value)) {
        count = count.saturating_add(1);
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
    }
    if count > MAX_LABELS || bytes > MAX_ANNOTATIONS_BYTES {
        let message =
            format!("at most {MAX_LABELS} annotations of {MAX_ANNOTATIONS_BYTES} bytes are allowed");
        findings.error("annotations", "too_many", message, "");
    }
    for key in wire.keys().take(MAX_LABELS.saturating_add(1)) {
        check_key(findings, "annotations", key);
    }
    wire.clone()
}

fn check_key(findings: &mut Findings, field: &str, key: &str) {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let sound =
        is_label(name, MAX_LABEL_VALUE) && prefix.is_none_or(|prefix| is_label(prefix, MAX_LABEL_KEY));
    if !sound {
        let message = format!("'{}' is not a key", cut(key));
        let remedy = "write [prefix/]name, of letters, digits, '-', '_' and '.'";
        findings.error(field, "invalid_name", message, remedy);
    }
}

fn is_label(value: &str, max: usize) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    value.len() <= max
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && edge(value.bytes().next())
        && edge(value.bytes().next_back())
}

/// The path of one entry of a map: `labels.app`, `labels["example.com/app"]`.
pub(crate) fn entry(field: &str, key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !key.is_empty() && key.bytes().all(plain) {
        if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") }
    } else {
        format!("{field}[\"{}\"]", cut(key))
    }
}

fn timestamp(
    findings: &mut Findings,
    field: &str,
    wire: Option<&prost_types::Timestamp>,
) -> Option<std::time::SystemTime> {
    let time = decode_timestamp(wire?);
    if time.is_none() {
        findings.error(field, "out_of_range", "it is not a point in time", "");
    }
    time
}

fn decode_condition(findings: &mut Findings, wire: &proto::Condition) -> Option<Condition> {
    Some(Condition {
        kind: wire.r#type.clone(),
        status: wire.status,
        reason: wire.reason.clone(),
        message: wire.message.clone(),
        observed_generation: wire.observed_generation,
        since: timestamp(findings, "since", wire.since.as_ref()),
    })
}

impl TryFrom<proto::ObjectRef> for ObjectRef {
    type Error = Violation;

    fn try_from(wire: proto::ObjectRef) -> Result<Self, Violation> {
        object_ref(&wire)
    }
}

impl From<Kind> for proto::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Service => Self::Service,
            Kind::Route => Self::Route,
            Kind::TrafficPolicy => Self::TrafficPolicy,
            Kind::MeshConfig => Self::MeshConfig,
        }
    }
}

impl From<&ObjectRef> for proto::ObjectRef {
    fn from(object: &ObjectRef) -> Self {
        Self {
            kind: proto::Kind::from(object.kind).into(),
            namespace: object.namespace.as_ref().map_or_else(String::new, ToString::to_string),
            name: object.name.to_string(),
        }
    }
}

impl From<&Object> for proto::Object {
    fn from(object: &Object) -> Self {
        let metadata = &object.metadata;
        Self {
            spec: Some(match &object.spec {
                Spec::Service(spec) => proto::object::Spec::Service(service::encode(metadata, spec)),
                Spec::Route(spec) => proto::object::Spec::Route(spec.into()),
                Spec::TrafficPolicy(spec) => proto::object::Spec::TrafficPolicy(spec.into()),
                Spec::MeshConfig(spec) => proto::object::Spec::MeshConfig(spec.into()),
            }),
            metadata: Some(metadata.into()),
            status: (!object.conditions.is_empty())
                .then(|| proto::Status { conditions: object.conditions.iter().map(Into::into).collect() }),
        }
    }
}

impl From<&Metadata> for proto::Metadata {
    fn from(metadata: &Metadata) -> Self {
        Self {
            namespace: metadata.namespace.as_ref().map_or_else(String::new, ToString::to_string),
            name: metadata.name.to_string(),
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            revision: metadata.revision,
            generation: metadata.generation,
            created: metadata.created.map(encode_timestamp),
            updated: metadata.updated.map(encode_timestamp),
            updated_by: metadata.updated_by.clone(),
            uid: metadata.uid.clone(),
        }
    }
}

impl From<&Condition> for proto::Condition {
    fn from(condition: &Condition) -> Self {
        Self {
            r#type: condition.kind.clone(),
            status: condition.status,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            observed_generation: condition.observed_generation,
            since: condition.since.map(encode_timestamp),
        }
    }
}
