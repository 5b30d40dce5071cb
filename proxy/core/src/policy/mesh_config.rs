//! The spec of a MeshConfig.

use outrigger_proto::policy::v1alpha1::{
    MeshConfigSpec as Message, mesh_config_spec::ExternalTraffic as Traffic,
};
use serde_json::{Value, json};

use super::{
    choice, duration,
    fields::{Fields, Shape, Spoken},
};
use crate::{
    model::{ExternalTraffic, MeshConfigSpec},
    wire::Findings,
};

pub(super) const SPEC: Shape =
    Shape { known: &["externalTraffic", "clusterDomain", "timeouts"], elsewhere: &[] };
const TIMEOUTS: Shape = Shape { known: &["request", "connect", "discovery"], elsewhere: &[] };
const DENY: &str = "Deny";
const CONNECT_443: &str = "Connect443";

pub(super) fn read(findings: &mut Findings, spoken: &Spoken, fields: Fields<'_>) -> Message {
    let external_traffic = match fields.text(findings, "externalTraffic").as_str() {
        "" => Traffic::Unspecified,
        word => {
            let known = [(DENY, Traffic::Deny), (CONNECT_443, Traffic::Connect443)];
            choice::choose(findings, "externalTraffic", word, &known, &[]).unwrap_or(Traffic::Unspecified)
        }
    };
    let mut message = Message {
        external_traffic: external_traffic.into(),
        cluster_domain: fields.text(findings, "clusterDomain"),
        ..Message::default()
    };
    fields.map(findings, spoken, ("timeouts", &TIMEOUTS), |findings, timeouts| {
        message.request_timeout = timeouts.duration(findings, "request");
        message.connect_timeout = timeouts.duration(findings, "connect");
        message.discovery_timeout = timeouts.duration(findings, "discovery");
    });
    message
}

pub(super) fn render(spec: &MeshConfigSpec) -> Value {
    let external_traffic = match spec.external_traffic {
        ExternalTraffic::Deny => DENY,
        ExternalTraffic::Connect443 => CONNECT_443,
    };
    let mut timeouts = json!({
        "connect": duration::format(spec.connect_timeout),
        "discovery": duration::format(spec.discovery_timeout),
    });
    if let (Some(timeout), Some(timeouts)) = (spec.request_timeout, timeouts.as_object_mut()) {
        timeouts.insert("request".to_owned(), duration::format(timeout).into());
    }
    json!({
        "clusterDomain": spec.cluster_domain,
        "externalTraffic": external_traffic,
        "timeouts": timeouts,
    })
}
