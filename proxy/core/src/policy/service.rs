//! The spec of a Service.

use outrigger_proto::{
    mesh::v1alpha1::AppProtocol as Wire,
    policy::v1alpha1::{ServicePort, ServiceSpec as Message, service_port},
};
use serde_json::{Map, Value, json};

use super::{
    choice,
    fields::{self, Fields, Shape, Spoken},
    tree::{self, Node},
};
use crate::{
    model::{AppProtocol, Metadata, PortSpec, ServiceSpec, TargetPort},
    wire::Findings,
};

pub(super) const SPEC: Shape = Shape { known: &["ports", "serviceAccounts", "selector"], elsewhere: &[] };
const PORT: Shape =
    Shape { known: &["port", "name", "protocol", "appProtocol", "targetPort"], elsewhere: &["nodePort"] };

/// As `protocol` says it. HTTP is HTTP/1.0 and 1.1, as everywhere.
const PROTOCOLS: [(&str, Wire); 6] = [
    ("HTTP", Wire::Http1),
    ("HTTP1", Wire::Http1),
    ("HTTP2", Wire::Http2),
    ("GRPC", Wire::Grpc),
    ("TCP", Wire::Tcp),
    ("TLS", Wire::Tls),
];

/// As Kubernetes' `appProtocol` says it. A WebSocket begins as HTTP/1; the TLS of `https` and `wss` is the application's
/// own, and travels as it is.
const APP_PROTOCOLS: [(&str, Wire); 10] = [
    ("http", Wire::Http1),
    ("http1", Wire::Http1),
    ("http2", Wire::Http2),
    ("grpc", Wire::Grpc),
    ("tcp", Wire::Tcp),
    ("tls", Wire::Tls),
    ("https", Wire::Tls),
    ("kubernetes.io/h2c", Wire::Http2),
    ("kubernetes.io/ws", Wire::Http1),
    ("kubernetes.io/wss", Wire::Tls),
];

pub(super) fn read(findings: &mut Findings, spoken: &Spoken, fields: Fields<'_>) -> Message {
    Message {
        ports: fields.list(findings, "ports", |findings, node| port(findings, spoken, node)),
        service_accounts: fields
            .list(findings, "serviceAccounts", |findings, node| fields::text(findings, "", node)),
        selector: fields.texts(findings, "selector"),
    }
}

fn port(findings: &mut Findings, spoken: &Spoken, node: &Node) -> ServicePort {
    let Some(fields) = Fields::open(findings, spoken, node, &PORT) else {
        return ServicePort::default();
    };
    ServicePort {
        port: fields.port(findings, "port"),
        name: fields.text(findings, "name"),
        protocol: protocol(findings, fields).into(),
        target_port: target_port(findings, fields),
    }
}

/// `appProtocol` says what is spoken; beside it, `protocol` is Kubernetes' transport, which is TCP. Without it `protocol`
/// says what is spoken, and TCP means bytes that nobody looks into.
fn protocol(findings: &mut Findings, fields: Fields<'_>) -> Wire {
    let protocol = fields.text(findings, "protocol");
    let app_protocol = fields.text(findings, "appProtocol");
    let chosen = match (protocol.as_str(), app_protocol.as_str()) {
        ("", "") => None,
        ("" | "TCP", word) if !word.is_empty() => {
            choice::choose(findings, "appProtocol", word, &APP_PROTOCOLS, &[])
        }
        (word, "") => choice::choose(findings, "protocol", word, &PROTOCOLS, &["UDP", "SCTP"]),
        (_, _) => {
            let message = "protocol and appProtocol say the same, and here they differ";
            findings.error("appProtocol", "conflict", message, "write only protocol");
            None
        }
    };
    chosen.unwrap_or(Wire::Unspecified)
}

fn target_port(findings: &mut Findings, fields: Fields<'_>) -> Option<service_port::TargetPort> {
    match &fields.get("targetPort")?.value {
        tree::Value::Text(name) => Some(service_port::TargetPort::TargetName(name.clone())),
        _ => Some(service_port::TargetPort::TargetNumber(fields.port(findings, "targetPort"))),
    }
}

pub(super) fn render(metadata: &Metadata, spec: &ServiceSpec) -> Value {
    let mut fields = Map::new();
    fields.insert("ports".to_owned(), spec.ports.iter().map(render_port).collect());
    if !spec.selector.is_empty() {
        fields.insert("selector".to_owned(), json!(spec.selector));
    }
    if !spec.service_accounts.is_empty() {
        let accounts = spec.service_accounts.iter().map(|(namespace, name)| {
            if metadata.namespace.as_ref() == Some(namespace) {
                name.to_string()
            } else {
                format!("{namespace}/{name}")
            }
        });
        fields.insert("serviceAccounts".to_owned(), accounts.collect());
    }
    Value::Object(fields)
}

fn render_port(port: &PortSpec) -> Value {
    let mut fields = Map::new();
    if let Some(name) = &port.name {
        fields.insert("name".to_owned(), name.as_str().into());
    }
    fields.insert("port".to_owned(), port.port.into());
    let protocol = match port.protocol {
        AppProtocol::Detect => None,
        AppProtocol::Tcp => Some("TCP"),
        AppProtocol::Http1 => Some("HTTP1"),
        AppProtocol::Http2 => Some("HTTP2"),
        AppProtocol::Grpc => Some("GRPC"),
        AppProtocol::Tls => Some("TLS"),
    };
    if let Some(protocol) = protocol {
        fields.insert("protocol".to_owned(), protocol.into());
    }
    match &port.target_port {
        None => {}
        Some(TargetPort::Number(number)) => {
            fields.insert("targetPort".to_owned(), (*number).into());
        }
        Some(TargetPort::Name(name)) => {
            fields.insert("targetPort".to_owned(), name.as_str().into());
        }
    }
    Value::Object(fields)
}
