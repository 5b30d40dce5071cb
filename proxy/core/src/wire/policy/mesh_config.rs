//! The mesh's knobs.

use std::time::Duration;

use outrigger_proto::policy::v1alpha1 as proto;

use crate::{
    model::{ExternalTraffic, MeshConfigSpec},
    wire::{Findings, limits, time::encode_duration},
};

pub(super) fn decode(findings: &mut Findings, wire: &proto::MeshConfigSpec) -> Option<MeshConfigSpec> {
    use proto::mesh_config_spec::ExternalTraffic as Wire;
    let defaults = MeshConfigSpec::default();
    let external_traffic = match Wire::try_from(wire.external_traffic) {
        Ok(Wire::Unspecified) => defaults.external_traffic,
        Ok(Wire::Deny) => ExternalTraffic::Deny,
        Ok(Wire::Connect443) => ExternalTraffic::Connect443,
        Err(_) => {
            let message = format!("{} is not known to this version", wire.external_traffic);
            findings.error("externalTraffic", "unsupported", message, "write Deny or Connect443");
            return None;
        }
    };
    let cluster_domain = if wire.cluster_domain.is_empty() {
        defaults.cluster_domain
    } else {
        limits::domain(findings, "clusterDomain", &wire.cluster_domain)?
    };
    let request_timeout = wire.request_timeout.as_ref();
    let request_timeout = limits::timeout(findings, "timeouts.request", request_timeout);
    limits::whole_milliseconds(findings, "timeouts.request", request_timeout);
    let mut setup = |field, value: Option<&prost_types::Duration>, min, default: Duration| {
        let timeout = findings.duration(field, value, min, limits::MAX_SETUP_TIMEOUT);
        limits::whole_milliseconds(findings, field, timeout);
        timeout.unwrap_or(default)
    };
    let connect_timeout = setup(
        "timeouts.connect",
        wire.connect_timeout.as_ref(),
        limits::MIN_CONNECT_TIMEOUT,
        defaults.connect_timeout,
    );
    let discovery_timeout = setup(
        "timeouts.discovery",
        wire.discovery_timeout.as_ref(),
        limits::MIN_DISCOVERY_TIMEOUT,
        defaults.discovery_timeout,
    );
    Some(MeshConfigSpec {
        external_traffic,
        cluster_domain,
        // Zero is how an operator writes "none"; the mesh has nothing above it that it could override.
        request_timeout: request_timeout.filter(|timeout| !timeout.is_zero()),
        connect_timeout,
        discovery_timeout,
    })
}

impl From<&MeshConfigSpec> for proto::MeshConfigSpec {
    fn from(spec: &MeshConfigSpec) -> Self {
        let external_traffic = match spec.external_traffic {
            ExternalTraffic::Deny => proto::mesh_config_spec::ExternalTraffic::Deny,
            ExternalTraffic::Connect443 => proto::mesh_config_spec::ExternalTraffic::Connect443,
        };
        Self {
            external_traffic: external_traffic.into(),
            cluster_domain: spec.cluster_domain.clone(),
            request_timeout: spec.request_timeout.map(encode_duration),
            connect_timeout: Some(encode_duration(spec.connect_timeout)),
            discovery_timeout: Some(encode_duration(spec.discovery_timeout)),
        }
    }
}
