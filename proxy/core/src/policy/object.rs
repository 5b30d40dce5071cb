//! One document to one object.

use outrigger_proto::policy::v1alpha1 as proto;

use super::{
    API_VERSION, choice,
    fields::{Fields, Shape, Spoken},
    mesh_config, route, service, traffic_policy,
    tree::Node,
};
use crate::{
    model::{Kind, Object, Violation},
    wire::{Findings, cut},
};

/// Where an object lives whose author names no namespace.
const DEFAULT_NAMESPACE: &str = "default";

const DOCUMENT: Shape =
    Shape { known: &["apiVersion", "kind", "metadata", "spec", "status"], elsewhere: &[] };

/// The second half is the server's: accepted, so that what was read can be written back. `revision` says what the author
/// had read, and is held against what is stored by then; the rest is ignored.
const METADATA: Shape = Shape {
    known: &[
        "name",
        "namespace",
        "labels",
        "annotations",
        "revision",
        "generation",
        "created",
        "updated",
        "updatedBy",
        "uid",
    ],
    elsewhere: &[],
};

const LATER_KINDS: [&str; 5] = ["AuthorizationPolicy", "ExternalService", "Fault", "HTTPRoute", "MtlsPolicy"];

/// Reads and validates a document.
pub(super) fn read(root: &Node) -> Result<Object, Vec<Violation>> {
    let mut findings = Findings::default();
    let spoken = Spoken::default();
    let message = message(&mut findings, &spoken, root);
    let mut violations = findings.into_violations();
    let Some(message) = message else {
        return Err(violations);
    };
    match crate::wire::policy::object(&message) {
        Ok(object) if violations.is_empty() => Ok(object),
        Ok(_) => Err(violations),
        Err(decoded) => {
            let meant = spoken.into_paths();
            let echo = |violation: &Violation| {
                violations.iter().any(|known| is_echo(violation, &known.field))
                    || meant.contains(&violation.field)
            };
            let more: Vec<_> = decoded.into_iter().filter(|violation| !echo(violation)).collect();
            violations.extend(more);
            Err(violations)
        }
    }
}

/// Whether `violation` only repeats that the field at `known` could not be read.
fn is_echo(violation: &Violation, known: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    within(&violation.field, known)
        || (matches!(violation.code, "required" | "unsupported") && within(known, &violation.field))
}

fn message(findings: &mut Findings, spoken: &Spoken, root: &Node) -> Option<proto::Object> {
    let document = Fields::open(findings, spoken, root, &DOCUMENT)?;
    let kind = kind(findings, document);
    let metadata = document
        .map(findings, spoken, ("metadata", &METADATA), |findings, fields| metadata(findings, kind, fields));
    if document.get("metadata").is_none() {
        findings.error("metadata", "required", "it is missing", "write metadata: {name: <name>}");
    }
    // Of an unknown kind nothing more can be said.
    let kind = kind?;
    let shape = match kind {
        Kind::Service => &service::SPEC,
        Kind::Route => &route::SPEC,
        Kind::TrafficPolicy => &traffic_policy::SPEC,
        Kind::MeshConfig => &mesh_config::SPEC,
    };
    let spec = document.map(findings, spoken, ("spec", shape), |findings, fields| match kind {
        Kind::Service => proto::object::Spec::Service(service::read(findings, spoken, fields)),
        Kind::Route => proto::object::Spec::Route(route::read(findings, spoken, fields)),
        Kind::TrafficPolicy => {
            proto::object::Spec::TrafficPolicy(traffic_policy::read(findings, spoken, fields))
        }
        Kind::MeshConfig => proto::object::Spec::MeshConfig(mesh_config::read(findings, spoken, fields)),
    });
    if document.get("spec").is_none() {
        findings.error(
            "spec",
            "required",
            "it is missing",
            "write what is wanted; for a MeshConfig spec: {} will do",
        );
    }
    Some(proto::Object { metadata, spec, status: None })
}

fn kind(findings: &mut Findings, document: Fields<'_>) -> Option<Kind> {
    let before = findings.count();
    let version = document.text(findings, "apiVersion");
    let word = document.text(findings, "kind");
    if findings.count() > before {
        return None;
    }
    let remedy = format!("write apiVersion: {API_VERSION}");
    if version.is_empty() {
        findings.error("apiVersion", "required", "it is missing", &remedy);
    } else if version != API_VERSION {
        let message = format!("'{}' is not an API of the mesh", cut(&version));
        findings.error("apiVersion", "unsupported", message, &remedy);
    }
    let known = Kind::ALL.map(|kind| (kind.as_str(), kind));
    if word.is_empty() {
        let names = Kind::ALL.map(Kind::as_str);
        let remedy = format!("write kind: {}", choice::one_of(&names));
        findings.error("kind", "required", "it is missing", &remedy);
        return None;
    }
    // Of another API's object only the name is like ours: to judge its fields would mislead.
    choice::choose(findings, "kind", &word, &known, &LATER_KINDS)
        .filter(|_| version.is_empty() || version == API_VERSION)
}

fn metadata(findings: &mut Findings, kind: Option<Kind>, fields: Fields<'_>) -> proto::Metadata {
    let mut namespace = fields.text(findings, "namespace");
    if namespace.is_empty() && matches!(kind, Some(Kind::Service | Kind::Route | Kind::TrafficPolicy)) {
        DEFAULT_NAMESPACE.clone_into(&mut namespace);
    }
    proto::Metadata {
        namespace,
        name: fields.text(findings, "name"),
        labels: fields.texts(findings, "labels"),
        annotations: fields.texts(findings, "annotations"),
        revision: fields.revision(findings, "revision"),
        ..proto::Metadata::default()
    }
}
