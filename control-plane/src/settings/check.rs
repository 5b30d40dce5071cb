//! What types cannot say about the settings.

use std::time::Duration;

use outrigger_core::model::TrustDomain;
use outrigger_process::{logging, settings::Defect};

use super::Settings;
use crate::authority::{MAX_LEAF_LIFE, MAX_PORT_NAMES, MIN_LEAF_LIFE, PortName};

const MAX_REVISIONS: u64 = 1_000_000;
const MAX_DRAIN: Duration = Duration::from_mins(10);

/// Everything that is wrong.
pub(super) fn check(settings: &Settings) -> Vec<Defect> {
    let mut defects = Vec::new();
    if let Err(error) = settings.trust_domain.parse::<TrustDomain>() {
        defects.push(Defect::new("trust_domain", error.to_string(), "write a name such as mesh.example.com"));
    }
    if settings.drain.timeout > MAX_DRAIN {
        defects.push(Defect::new("drain.timeout", "it is longer than 10m", "write a duration of up to 10m"));
    }
    if !(MIN_LEAF_LIFE..=MAX_LEAF_LIFE).contains(&settings.authority.leaf_ttl) {
        let problem = "it is out of range";
        defects.push(Defect::new("authority.leaf_ttl", problem, "write a duration from 10s to 168h"));
    }
    if !(1..=MAX_REVISIONS).contains(&settings.history.revisions) {
        let problem = format!("it is {}", settings.history.revisions);
        defects.push(Defect::new("history.revisions", problem, format!("write 1 to {MAX_REVISIONS}")));
    }
    if settings.state_dir.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        defects.push(Defect::new("state_dir", "it is empty", "write a path, or leave it out"));
    }
    names(settings.policy.names.as_deref(), &mut defects);
    defects.extend(logging::check_level(&settings.log.level));
    let ports = [
        ("policy.listen", settings.policy.listen),
        ("discovery.listen", settings.discovery.listen),
        ("health.listen", settings.health.listen),
    ];
    for (index, (key, address)) in ports.iter().enumerate() {
        let earlier = ports.iter().take(index).find(|(_, other)| other == address && address.port() != 0);
        if let Some((other, _)) = earlier {
            let problem = format!("{address} is the address of {other} too");
            defects.push(Defect::new(*key, problem, "give each port an address of its own"));
        }
    }
    defects
}

fn names(names: Option<&[String]>, defects: &mut Vec<Defect>) {
    let mut defect =
        |problem: String, remedy: &str| defects.push(Defect::new("policy.names", problem, remedy));
    match names {
        Some([]) => defect("the list is empty".to_owned(), "write a name, or leave the setting out"),
        Some(names) if names.len() > MAX_PORT_NAMES => {
            defect(format!("{} names are too many", names.len()), "write 1 to 64");
        }
        _ => {}
    }
    for name in names.into_iter().flatten().take(MAX_PORT_NAMES) {
        if let Err(error) = name.parse::<PortName>() {
            let remedy =
                "write what clients dial, such as mesh.example.com or 192.0.2.7: no port, no wildcard";
            defect(error.to_string(), remedy);
        }
    }
}
