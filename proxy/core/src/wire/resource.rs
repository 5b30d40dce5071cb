//! The resources of the discovery stream. Lists whose order means nothing are sorted when they are decoded, so that
//! equal resources are equal values; when they are encoded, equal values are equal bytes.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use outrigger_proto::mesh::v1alpha1 as proto;

use super::{
    FEATURES, Findings, RESILIENCE, REVOKED_AUTHORITIES, filters, first,
    limits::{self, MAX_BACKENDS, MAX_PORTS, MAX_WEIGHT},
    matches::{self, WIRE, cut},
    resilience,
    time::encode_duration,
};
use crate::model::{
    Endpoint, EndpointSet, ExternalTraffic, Health, Outgoing, ProxyConfig, RouteRule, Service, ServiceName,
    ServicePort, SpiffeId, TrustBundle, Violation, WeightedBackend,
};

const MAX_RULES: usize = 4096;
const MAX_ENDPOINTS: usize = 65_536;
const MAX_AUTHORITIES: usize = 64;
/// Of each list of those on their way out.
const MAX_OUTGOING: usize = 64;
const MAX_CERTIFICATE: usize = 65_536;
const MAX_REQUIRES: usize = 64;
const MAX_TEXT: usize = 512;

impl TryFrom<proto::ProxyConfig> for ProxyConfig {
    type Error = Violation;

    fn try_from(wire: proto::ProxyConfig) -> Result<Self, Violation> {
        let mut findings = Findings::default();
        let decoded = proxy_config(&mut findings, &wire);
        first(decoded, findings)
    }
}

impl TryFrom<proto::Service> for Service {
    type Error = Violation;

    fn try_from(wire: proto::Service) -> Result<Self, Violation> {
        let mut findings = Findings::default();
        let decoded = service(&mut findings, &wire);
        first(decoded, findings)
    }
}

impl TryFrom<proto::EndpointSet> for EndpointSet {
    type Error = Violation;

    fn try_from(wire: proto::EndpointSet) -> Result<Self, Violation> {
        let mut findings = Findings::default();
        let decoded = endpoint_set(&mut findings, &wire);
        first(decoded, findings)
    }
}

impl TryFrom<proto::TrustBundle> for TrustBundle {
    type Error = Violation;

    fn try_from(wire: proto::TrustBundle) -> Result<Self, Violation> {
        let mut findings = Findings::default();
        let decoded = trust_bundle(&mut findings, wire);
        first(decoded, findings)
    }
}

/// Refuses a resource that needs what this version lacks: it must never run a part of it.
fn requires(findings: &mut Findings, wire: &[String]) {
    findings.each("requires", wire, MAX_REQUIRES, |findings, feature| {
        if !FEATURES.contains(&feature.as_str()) {
            let message = format!("the feature '{}' is not known to this version", cut(feature));
            findings.error("", "unsupported", message, "upgrade the proxy");
        }
        Some(())
    });
}

fn proxy_config(findings: &mut Findings, wire: &proto::ProxyConfig) -> Option<ProxyConfig> {
    requires(findings, &wire.requires);
    let workload_id = workload_id(findings, "workload_id", &wire.workload_id);
    let cluster_domain = limits::domain(findings, "cluster_domain", &wire.cluster_domain);
    let mut duration = |field, value: &Option<prost_types::Duration>, min, max| {
        let value = findings.required(field, value.as_ref());
        findings.duration(field, value, min, max)
    };
    let on_demand_timeout = duration(
        "on_demand_timeout",
        &wire.on_demand_timeout,
        limits::MIN_DISCOVERY_TIMEOUT,
        limits::MAX_SETUP_TIMEOUT,
    );
    let on_demand_idle =
        duration("on_demand_idle", &wire.on_demand_idle, Duration::from_secs(1), Duration::from_secs(86_400));
    let connect_timeout = duration(
        "connect_timeout",
        &wire.connect_timeout,
        limits::MIN_CONNECT_TIMEOUT,
        limits::MAX_SETUP_TIMEOUT,
    );
    let external_traffic = match proto::proxy_config::ExternalTraffic::try_from(wire.external_traffic) {
        Ok(proto::proxy_config::ExternalTraffic::Deny) => Some(ExternalTraffic::Deny),
        Ok(proto::proxy_config::ExternalTraffic::Connect443) => Some(ExternalTraffic::Connect443),
        Ok(proto::proxy_config::ExternalTraffic::Unspecified) => findings.required("external_traffic", None),
        Err(_) => {
            let message = format!("{} is not known to this version", wire.external_traffic);
            findings.error("external_traffic", "unsupported", message, "");
            None
        }
    };
    let request_timeout = limits::timeout(findings, "request_timeout", wire.request_timeout.as_ref());
    Some(ProxyConfig {
        workload_id: workload_id?,
        cluster_domain: cluster_domain?,
        on_demand_timeout: on_demand_timeout?,
        on_demand_idle: on_demand_idle?,
        external_traffic: external_traffic?,
        request_timeout: request_timeout.filter(|timeout| !timeout.is_zero()),
        connect_timeout: connect_timeout?,
    })
}

fn workload_id(findings: &mut Findings, field: &str, value: &str) -> Option<SpiffeId> {
    let id: SpiffeId = findings.name(field, value)?;
    if id.as_workload().is_some() {
        return Some(id);
    }
    findings.error(field, "invalid_name", format!("'{id}' is reserved and no workload's"), "");
    None
}

fn service(findings: &mut Findings, wire: &proto::Service) -> Option<Service> {
    requires(findings, &wire.requires);
    let namespace = findings.name("namespace", &wire.namespace);
    let name = findings.name("name", &wire.name);
    if wire.ports.is_empty() {
        findings.error("ports", "required", "a service has at least one port", "");
    }
    let mut numbers = BTreeSet::new();
    let mut ports = findings.each("ports", &wire.ports, MAX_PORTS, |findings, port| {
        let port = service_port(findings, port)?;
        if !numbers.insert(port.port) {
            findings.error("port", "duplicate", format!("port {} is given twice", port.port), "");
        }
        Some(port)
    });
    ports.sort_by_key(|port| port.port);
    let warm_timeout = findings.required("warm_timeout", wire.warm_timeout.as_ref());
    let warm_timeout =
        findings.duration("warm_timeout", warm_timeout, Duration::ZERO, limits::MAX_SETUP_TIMEOUT);
    Some(Service {
        name: ServiceName { namespace: namespace?, name: name? },
        ports,
        warm_timeout: warm_timeout?,
    })
}

fn service_port(findings: &mut Findings, wire: &proto::ServicePort) -> Option<ServicePort> {
    let port = findings.port("port", wire.port);
    let protocol = matches::protocol(findings, "protocol", wire.protocol);
    let name = findings.optional_name("name", &wire.name);
    let endpoint_set = text(findings, "endpoint_set", &wire.endpoint_set);
    let rules = findings.each("rules", &wire.rules, MAX_RULES, route_rule);
    Some(ServicePort { port: port?, protocol: protocol?, name, endpoint_set: endpoint_set?, rules })
}

fn route_rule(findings: &mut Findings, wire: &proto::RouteRule) -> Option<RouteRule> {
    let name = text(findings, "name", &wire.name);
    let condition = findings.required("match", wire.r#match.as_ref());
    let condition = condition
        .and_then(|wire| findings.within("match", |findings| matches::http_match(findings, &WIRE, wire)));
    let filters = filters::filters(findings, &WIRE, &wire.filters);
    let backends = findings.each("backends", &wire.backends, MAX_BACKENDS, |findings, backend| {
        let service = findings.name("service", &backend.service);
        let port = findings.port("port", backend.port);
        let weight = findings.number("weight", backend.weight, 0, MAX_WEIGHT);
        let endpoint_set = text(findings, "endpoint_set", &backend.endpoint_set);
        Some(WeightedBackend { service: service?, port: port?, weight: weight?, endpoint_set: endpoint_set? })
    });
    if wire.backends.iter().all(|backend| backend.weight == 0) {
        let message = "no backend has a weight above 0, so that no request could be answered";
        findings.error("backends", "all_weights_zero", message, "");
    }
    let request_timeout = limits::timeout(findings, "request_timeout", wire.request_timeout.as_ref());
    Some(RouteRule { name: name?, condition: condition?, filters, backends, request_timeout })
}

fn endpoint_set(findings: &mut Findings, wire: &proto::EndpointSet) -> Option<EndpointSet> {
    requires(findings, &wire.requires);
    let service = findings.name("service", &wire.service);
    let port = findings.port("port", wire.port);
    // Not `each`: a bad identity must keep its place in the dictionary.
    let identities: Vec<Option<SpiffeId>> = wire
        .identities
        .iter()
        .enumerate()
        .take(MAX_ENDPOINTS)
        .map(|(index, identity)| workload_id(findings, &format!("identities[{index}]"), identity))
        .collect();
    let mut addresses = BTreeSet::new();
    let mut endpoints = findings.each("endpoints", &wire.endpoints, MAX_ENDPOINTS, |findings, wire| {
        let endpoint = endpoint(findings, &identities, wire)?;
        if !addresses.insert(endpoint.address) {
            findings.error("address", "duplicate", format!("{} is given twice", endpoint.address), "");
        }
        Some(endpoint)
    });
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let resilience = wire.resilience.as_ref().map(|wire| {
        findings.within("resilience", |findings| resilience::decode(findings, &resilience::WIRE, wire))
    });
    Some(EndpointSet {
        service: service?,
        port: port?,
        endpoints,
        panic: wire.panic,
        resilience: resilience.unwrap_or_default().into(),
    })
}

fn endpoint(
    findings: &mut Findings,
    identities: &[Option<SpiffeId>],
    wire: &proto::Endpoint,
) -> Option<Endpoint> {
    let ip = address(findings, &wire.address);
    let port = findings.port("port", wire.port);
    let identity = usize::try_from(wire.identity).ok().and_then(|index| identities.get(index));
    if identity.is_none() {
        let message = format!("{} is no index of identities", wire.identity);
        findings.error("identity", "out_of_range", message, "");
    }
    let weight = findings.number("weight", wire.weight, 0, 1_000).map(|weight| weight.max(1));
    let health = match proto::Health::try_from(wire.health) {
        Ok(proto::Health::Healthy) => Some(Health::Healthy),
        Ok(proto::Health::Draining) => Some(Health::Draining),
        Ok(proto::Health::Unhealthy) => Some(Health::Unhealthy),
        Ok(proto::Health::Unspecified) => findings.required("health", None),
        Err(_) => {
            let message = format!("health {} is not known to this version", wire.health);
            findings.error("health", "unsupported", message, "");
            None
        }
    };
    let workload = text(findings, "workload", &wire.workload);
    Some(Endpoint {
        address: SocketAddr::new(ip?, port?),
        identity: identity?.clone()?,
        weight: weight?,
        health: health?,
        workload: workload?,
    })
}

/// An address that can be dialled. One that is written as IPv6 but means IPv4 would be a second name for the same
/// endpoint, and so is refused.
fn address(findings: &mut Findings, bytes: &[u8]) -> Option<IpAddr> {
    let address = if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        IpAddr::V4(Ipv4Addr::from(octets))
    } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        let message = format!("an address has 4 or 16 bytes, not {}", bytes.len());
        findings.error("address", "invalid", message, "");
        return None;
    };
    if address.is_unspecified() || address.is_multicast() || address.to_canonical() != address {
        findings.error("address", "invalid", format!("{address} is not the address of one endpoint"), "");
        return None;
    }
    Some(address)
}

fn trust_bundle(findings: &mut Findings, wire: proto::TrustBundle) -> Option<TrustBundle> {
    requires(findings, &wire.requires);
    let trust_domain = findings.name("trust_domain", &wire.trust_domain);
    if wire.x509_authorities.is_empty() {
        findings.error("x509_authorities", "required", "a bundle has at least one authority", "");
    }
    findings.each("x509_authorities", &wire.x509_authorities, MAX_AUTHORITIES, |findings, der| {
        if der.is_empty() || der.len() > MAX_CERTIFICATE {
            let message = format!("a certificate has 1 to {MAX_CERTIFICATE} bytes, not {}", der.len());
            findings.error("", "out_of_range", message, "");
        }
        Some(())
    });
    let outgoing = Outgoing {
        retiring: key_hashes(findings, "retiring", &wire.retiring),
        tainted: key_hashes(findings, "tainted", &wire.tainted),
        revoked: key_hashes(findings, "revoked", &wire.revoked),
        at_once: wire.at_once,
    };
    Some(TrustBundle {
        trust_domain: trust_domain?,
        x509_authorities: wire.x509_authorities,
        sequence: wire.sequence,
        outgoing,
    })
}

fn key_hashes(findings: &mut Findings, field: &str, wire: &[Vec<u8>]) -> Vec<[u8; 32]> {
    findings.each(field, wire, MAX_OUTGOING, |findings, hash| {
        let exact = <[u8; 32]>::try_from(hash.as_slice());
        if exact.is_err() {
            findings.error("", "out_of_range", format!("a SHA-256 has 32 bytes, not {}", hash.len()), "");
        }
        exact.ok()
    })
}

/// A name that only its maker reads: 1 to 512 visible ASCII characters.
fn text(findings: &mut Findings, field: &str, value: &str) -> Option<Arc<str>> {
    if value.is_empty() {
        return findings.required(field, None);
    }
    if value.len() <= MAX_TEXT && value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(Arc::from(value));
    }
    let message = format!("'{}' is not a name of 1 to {MAX_TEXT} visible ASCII characters", cut(value));
    findings.error(field, "invalid_name", message, "");
    None
}

impl From<&ProxyConfig> for proto::ProxyConfig {
    fn from(config: &ProxyConfig) -> Self {
        let external_traffic = match config.external_traffic {
            ExternalTraffic::Deny => proto::proxy_config::ExternalTraffic::Deny,
            ExternalTraffic::Connect443 => proto::proxy_config::ExternalTraffic::Connect443,
        };
        Self {
            workload_id: config.workload_id.to_string(),
            cluster_domain: config.cluster_domain.clone(),
            on_demand_timeout: Some(encode_duration(config.on_demand_timeout)),
            on_demand_idle: Some(encode_duration(config.on_demand_idle)),
            external_traffic: external_traffic.into(),
            request_timeout: config.request_timeout.map(encode_duration),
            connect_timeout: Some(encode_duration(config.connect_timeout)),
            requires: Vec::new(),
        }
    }
}

impl From<&Service> for proto::Service {
    fn from(service: &Service) -> Self {
        Self {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            ports: service.ports.iter().map(Into::into).collect(),
            warm_timeout: Some(encode_duration(service.warm_timeout)),
            requires: Vec::new(),
        }
    }
}

impl From<&ServicePort> for proto::ServicePort {
    fn from(port: &ServicePort) -> Self {
        Self {
            port: port.port.into(),
            protocol: proto::AppProtocol::from(port.protocol).into(),
            name: port.name.as_ref().map_or_else(String::new, ToString::to_string),
            endpoint_set: port.endpoint_set.to_string(),
            rules: port.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&RouteRule> for proto::RouteRule {
    fn from(rule: &RouteRule) -> Self {
        Self {
            name: rule.name.to_string(),
            r#match: Some((&rule.condition).into()),
            filters: rule.filters.iter().map(Into::into).collect(),
            backends: rule
                .backends
                .iter()
                .map(|backend| proto::WeightedBackend {
                    service: backend.service.to_string(),
                    port: backend.port.into(),
                    weight: backend.weight,
                    endpoint_set: backend.endpoint_set.to_string(),
                })
                .collect(),
            request_timeout: rule.request_timeout.map(encode_duration),
        }
    }
}

impl From<&EndpointSet> for proto::EndpointSet {
    fn from(set: &EndpointSet) -> Self {
        // Sorted: the dictionary depends on the identities alone, not on who has which address.
        let dictionary: Vec<&SpiffeId> = set
            .endpoints
            .iter()
            .map(|endpoint| &endpoint.identity)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let index = |identity: &SpiffeId| {
            dictionary.binary_search(&identity).ok().and_then(|index| u32::try_from(index).ok())
        };
        let resilience = resilience::encode(&set.resilience);
        Self {
            service: set.service.to_string(),
            port: set.port.into(),
            identities: dictionary.iter().map(ToString::to_string).collect(),
            endpoints: set
                .endpoints
                .iter()
                .map(|endpoint| proto::Endpoint {
                    address: match endpoint.address.ip() {
                        IpAddr::V4(address) => address.octets().to_vec(),
                        IpAddr::V6(address) => address.octets().to_vec(),
                    },
                    port: endpoint.address.port().into(),
                    // Every identity is in the dictionary; were it not, no index is better than a wrong one.
                    identity: index(&endpoint.identity).unwrap_or(u32::MAX),
                    weight: endpoint.weight,
                    health: match endpoint.health {
                        Health::Healthy => proto::Health::Healthy,
                        Health::Draining => proto::Health::Draining,
                        Health::Unhealthy => proto::Health::Unhealthy,
                    }
                    .into(),
                    workload: endpoint.workload.to_string(),
                })
                .collect(),
            panic: set.panic,
            // A proxy that cannot hold to it must say so, not run without.
            requires: resilience.iter().map(|_| RESILIENCE.to_owned()).collect(),
            resilience,
        }
    }
}

impl From<&TrustBundle> for proto::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        let hashes = |hashes: &[[u8; 32]]| hashes.iter().map(|hash| hash.to_vec()).collect();
        Self {
            trust_domain: bundle.trust_domain.to_string(),
            x509_authorities: bundle.x509_authorities.clone(),
            sequence: bundle.sequence,
            retiring: hashes(&bundle.outgoing.retiring),
            tainted: hashes(&bundle.outgoing.tainted),
            revoked: hashes(&bundle.outgoing.revoked),
            at_once: bundle.outgoing.at_once,
            // A proxy that would accept what is revoked must say so.
            requires: bundle
                .outgoing
                .revoked
                .first()
                .map(|_| REVOKED_AUTHORITIES.to_owned())
                .into_iter()
                .collect(),
        }
    }
}
