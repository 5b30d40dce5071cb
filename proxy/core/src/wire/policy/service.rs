//! Named destinations, and who may back them.

use std::collections::BTreeSet;

use outrigger_proto::{mesh::v1alpha1 as mesh, policy::v1alpha1 as proto};

use super::labels;
use crate::{
    model::{Metadata, Name, PortSpec, ServiceSpec, TargetPort},
    wire::{Findings, limits::MAX_PORTS, matches},
};

const MAX_ACCOUNTS: usize = 64;

pub(super) fn decode(
    findings: &mut Findings,
    metadata: Option<&Metadata>,
    wire: &proto::ServiceSpec,
) -> ServiceSpec {
    if wire.ports.is_empty() {
        findings.error("ports", "required", "a service has at least one port", "write ports: [{port: 80}]");
    }
    let several = wire.ports.len() > 1;
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    let ports = findings.each("ports", &wire.ports, MAX_PORTS, |findings, wire| {
        let port = decode_port(findings, several, wire);
        if wire.port != 0 && !numbers.insert(wire.port) {
            findings.error(
                "port",
                "duplicate",
                format!("port {} is given twice", wire.port),
                "write it once",
            );
        }
        if !wire.name.is_empty() && !names.insert(&wire.name) {
            let message = format!("'{}' names two ports", matches::cut(&wire.name));
            findings.error("name", "duplicate", message, "give each port a name of its own");
        }
        port
    });
    let mut service_accounts = BTreeSet::new();
    findings.each("serviceAccounts", &wire.service_accounts, MAX_ACCOUNTS, |findings, account| {
        let account = decode_account(findings, metadata, account)?;
        if !service_accounts.insert(account.clone()) {
            let message = format!("{}/{} is given twice", account.0, account.1);
            findings.error("", "duplicate", message, "write it once");
        }
        Some(())
    });
    // The one named like the service is granted anyway: written or not, it is the same service.
    service_accounts.retain(|(namespace, name)| {
        metadata.is_none_or(|own| own.namespace.as_ref() != Some(namespace) || own.name != *name)
    });
    ServiceSpec { ports, service_accounts, selector: labels(findings, "selector", &wire.selector) }
}

fn decode_port(findings: &mut Findings, several: bool, wire: &proto::ServicePort) -> Option<PortSpec> {
    let port = findings.port("port", wire.port);
    let name = findings.optional_name("name", &wire.name);
    if several && wire.name.is_empty() {
        let message = "a service with several ports names each of them";
        findings.error("name", "required", message, "write a name, such as http");
    }
    let protocol = matches::protocol(findings, "protocol", wire.protocol);
    let before = findings.count();
    let target_port = match &wire.target_port {
        None => None,
        Some(proto::service_port::TargetPort::TargetNumber(number)) => {
            findings.port("targetPort", *number).map(TargetPort::Number)
        }
        Some(proto::service_port::TargetPort::TargetName(name)) => {
            findings.name("targetPort", name).map(TargetPort::Name)
        }
    };
    let sound = findings.count() == before;
    Some(PortSpec { port: port?, name, protocol: protocol?, target_port }).filter(|_| sound)
}

/// `name`, of the service's own namespace, or `namespace/name`.
fn decode_account(findings: &mut Findings, metadata: Option<&Metadata>, wire: &str) -> Option<(Name, Name)> {
    match wire.split_once('/') {
        Some((namespace, name)) => {
            let namespace = findings.name("", namespace);
            Some((namespace?, findings.name("", name)?))
        }
        None => {
            let name = findings.name("", wire)?;
            Some((metadata?.namespace.clone()?, name))
        }
    }
}

pub(super) fn encode(metadata: &Metadata, spec: &ServiceSpec) -> proto::ServiceSpec {
    proto::ServiceSpec {
        ports: spec.ports.iter().map(Into::into).collect(),
        service_accounts: spec
            .service_accounts
            .iter()
            .map(|(namespace, name)| {
                if metadata.namespace.as_ref() == Some(namespace) {
                    name.to_string()
                } else {
                    format!("{namespace}/{name}")
                }
            })
            .collect(),
        selector: spec.selector.clone(),
    }
}

impl From<&PortSpec> for proto::ServicePort {
    fn from(port: &PortSpec) -> Self {
        use proto::service_port::TargetPort as Wire;
        Self {
            port: port.port.into(),
            name: port.name.as_ref().map_or_else(String::new, ToString::to_string),
            protocol: mesh::AppProtocol::from(port.protocol).into(),
            target_port: port.target_port.as_ref().map(|target| match target {
                TargetPort::Number(number) => Wire::TargetNumber((*number).into()),
                TargetPort::Name(name) => Wire::TargetName(name.to_string()),
            }),
        }
    }
}
