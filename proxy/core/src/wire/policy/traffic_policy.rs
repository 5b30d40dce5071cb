//! Traffic policies: how requests to their targets are retried, timed and limited.

use std::collections::BTreeSet;

use outrigger_proto::policy::v1alpha1 as proto;

use crate::{
    model::{TargetRef, TrafficPolicySpec},
    wire::{
        Findings,
        resilience::{self, DOCUMENT},
    },
};

const MAX_TARGETS: usize = 32;

pub(super) fn decode(findings: &mut Findings, wire: &proto::TrafficPolicySpec) -> TrafficPolicySpec {
    if wire.targets.is_empty() {
        let remedy = "write targetRefs: [{name: <service>}]";
        findings.error("targetRefs", "required", "a policy is for at least one service", remedy);
    }
    let mut seen = BTreeSet::new();
    let targets = findings.each("targetRefs", &wire.targets, MAX_TARGETS, |findings, wire| {
        let target = decode_target(findings, wire)?;
        if !seen.insert(target.clone()) {
            let message = format!("service {target} is given twice");
            findings.error("", "duplicate", message, "write it once");
        }
        Some(target)
    });
    let overrides = wire.resilience.as_ref().map(|wire| resilience::decode(findings, &DOCUMENT, wire));
    TrafficPolicySpec { targets, overrides: overrides.unwrap_or_default() }
}

fn decode_target(findings: &mut Findings, wire: &proto::TargetRef) -> Option<TargetRef> {
    let before = findings.count();
    let name = findings.name("name", &wire.name);
    let port = if wire.port == 0 { None } else { findings.port("port", wire.port) };
    let sound = findings.count() == before;
    Some(TargetRef { name: name?, port }).filter(|_| sound)
}

impl From<&TrafficPolicySpec> for proto::TrafficPolicySpec {
    fn from(spec: &TrafficPolicySpec) -> Self {
        let target = |target: &TargetRef| proto::TargetRef {
            name: target.name.to_string(),
            port: target.port.map_or(0, u32::from),
        };
        Self {
            targets: spec.targets.iter().map(target).collect(),
            resilience: Some((&spec.overrides).into()),
        }
    }
}
