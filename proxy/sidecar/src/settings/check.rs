//! What the types of the settings cannot say: ranges, and what goes with what.

use std::{collections::BTreeSet, fmt::Display, net::SocketAddr, ops::RangeInclusive, time::Duration};

use outrigger_core::model::Name;
use outrigger_process::{logging, settings::Defect};

use super::{Inbound, Settings};

/// Each is a socket and a task of its own.
const MAX_SERVICES: usize = 256;

/// Everything that is wrong with `settings`, each with its remedy.
pub fn check(settings: &Settings) -> Vec<Defect> {
    let mut defects = Vec::new();
    control_plane(&settings.control_plane.address, &mut defects);
    if !settings.outbound.listen.ip().is_loopback() {
        defects.push(Defect::new(
            "outbound.listen",
            format!(
                "{} is not a loopback address: whoever reaches it would speak as this workload",
                settings.outbound.listen
            ),
            "write 127.0.0.1 or [::1]",
        ));
    }
    inbound(&settings.inbound, &mut defects);
    services(settings, &mut defects);
    if let Some(instance) = &settings.instance
        && let Err(error) = instance.parse::<Name>()
    {
        defects.push(Defect::new("instance", error.to_string(), ""));
    }
    let limits = &settings.limits;
    range("workers", settings.workers.get(), 1..=64, &mut defects);
    range("limits.max_head_bytes", limits.max_head_bytes, 8 * 1024..=1024 * 1024, &mut defects);
    range("limits.max_headers", limits.max_headers, 1..=1000, &mut defects);
    range("limits.max_connections", limits.max_connections, 1..=1_000_000, &mut defects);
    times("limits.head_timeout", limits.head_timeout, (100, 600_000), &mut defects);
    times("limits.idle_timeout", limits.idle_timeout, (100, 86_400_000), &mut defects);
    times("limits.detect_timeout", limits.detect_timeout, (100, 1000), &mut defects);
    times("limits.peer_timeout", limits.peer_timeout, (1000, 600_000), &mut defects);
    times("limits.inbound_idle_timeout", limits.inbound_idle_timeout, (100, 86_400_000), &mut defects);
    if !settings.overload.max_delay.is_zero() {
        times("overload.max_delay", settings.overload.max_delay, (10, 10_000), &mut defects);
    }
    times("drain.withdrawal", settings.drain.withdrawal, (0, 600_000), &mut defects);
    times("drain.timeout", settings.drain.timeout, (0, 3_600_000), &mut defects);
    defects.extend(logging::check_level(&settings.log.level));
    defects
}

fn control_plane(address: &str, defects: &mut Vec<Defect>) {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse());
    if !matches!(port, Some(Ok(1_u16..))) || address.contains(['/', '@', ' ']) {
        defects.push(Defect::new(
            "control_plane.address",
            format!("'{address}' is not host:port"),
            "write it like 127.0.0.1:17110",
        ));
    }
}

fn inbound(pairs: &[Inbound], defects: &mut Vec<Defect>) {
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let mut defect = |problem: String, remedy: &str| defects.push(Defect::new("inbound", problem, remedy));
    if pairs.len() > 32 {
        defect(format!("{} pairs are more than the 32 that a workload may register", pairs.len()), "");
    }
    for pair in pairs {
        if pair.name.as_ref().is_some_and(|name| !names.insert(name)) {
            defect(format!("two pairs have the name of '{pair}'"), "give each its own");
        }
        if pair.listen.port() != 0 && !addresses.insert(pair.listen) {
            defect(format!("two pairs listen on {}", pair.listen), "give each its own port");
        }
        if pair.listen == pair.app {
            defect(
                format!("'{pair}' listens where its application does"),
                "give the sidecar a port of its own",
            );
        }
        if pair.app.port() == 0 {
            defect(format!("'{pair}' names no port of the application"), "");
        }
        match pair.advertise {
            None if pair.listen.ip().is_unspecified() => defect(
                format!("'{pair}' listens on every address, and peers need one to dial"),
                "listen on the address itself, or add ,advertise=IP:PORT",
            ),
            Some(address) if address.ip().is_unspecified() || address.port() == 0 => {
                defect(
                    format!("'{pair}' advertises {address}, which nobody can dial"),
                    "write an address and a port",
                );
            }
            _ => {}
        }
    }
}

fn services(settings: &Settings, defects: &mut Vec<Defect>) {
    let pairs = &settings.outbound.services;
    let mut defect =
        |problem: String, remedy: &str| defects.push(Defect::new("outbound.services", problem, remedy));
    if pairs.len() > MAX_SERVICES {
        let remedy = "let the others go through the forward proxy at outbound.listen";
        defect(format!("{} pairs are more than the {MAX_SERVICES} that are allowed", pairs.len()), remedy);
    }
    let mut taken =
        vec![("outbound.listen", settings.outbound.listen), ("health.listen", settings.health.listen)];
    taken.extend(settings.inbound.iter().map(|pair| ("inbound", pair.listen)));
    for pair in pairs {
        if !pair.listen.ip().is_loopback() {
            defect(
                format!(
                    "'{pair}' does not listen on loopback: whoever reaches it would speak as this workload"
                ),
                "write 127.0.0.1 or [::1]",
            );
        }
        if let Some((other, _)) = taken.iter().find(|(_, address)| clash(*address, pair.listen)) {
            defect(format!("'{pair}' listens where {other} does"), "give each its own port");
        }
        taken.push(("another pair", pair.listen));
    }
    for pair in &settings.inbound {
        if let Some(service) = pairs.iter().find(|service| clash(service.listen, pair.app)) {
            defect(
                format!(
                    "the inbound pair '{pair}' leads to the listener of '{service}', and so back into the mesh"
                ),
                "name the application's own address",
            );
        }
    }
}

/// Whether two listeners cannot be at these addresses at once.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let (here, there) = (one.ip().to_canonical(), other.ip().to_canonical());
    let same = here == there || here.is_unspecified() || there.is_unspecified();
    same && one.port() == other.port() && one.port() != 0
}

fn range<N: PartialOrd + Display + Copy>(
    key: &str,
    value: N,
    allowed: RangeInclusive<N>,
    defects: &mut Vec<Defect>,
) {
    if !allowed.contains(&value) {
        let remedy = format!("write {} to {}", allowed.start(), allowed.end());
        defects.push(Defect::new(key, format!("{value} is out of range"), remedy));
    }
}

fn times(key: &str, value: Duration, (least, most): (u64, u64), defects: &mut Vec<Defect>) {
    use outrigger_process::settings::duration::format;
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    if !(least..=most).contains(&value) {
        let remedy = format!("write {} to {}", format(least), format(most));
        defects.push(Defect::new(key, format!("{} is out of range", format(value)), remedy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut settings = Settings::default();
        change(&mut settings);
        check(&settings).into_iter().map(|defect| defect.key).collect()
    }

    #[test]
    fn the_defaults_are_right() {
        assert!(keys(|_| {}).is_empty());
    }

    #[test]
    fn each_wrong_setting_is_named() {
        assert_eq!(
            keys(|settings| settings.control_plane.address = "here".to_owned()),
            ["control_plane.address"]
        );
        assert_eq!(
            keys(|settings| settings.control_plane.address = "here:0".to_owned()),
            ["control_plane.address"]
        );
        assert_eq!(
            keys(|settings| settings.outbound.listen = "0.0.0.0:1".parse().unwrap()),
            ["outbound.listen"]
        );
        assert_eq!(keys(|settings| settings.instance = Some("Price".to_owned())), ["instance"]);
        assert_eq!(keys(|settings| settings.limits.max_headers = 0), ["limits.max_headers"]);
        assert_eq!(keys(|settings| settings.limits.max_head_bytes = 1), ["limits.max_head_bytes"]);
        let detect =
            |timeout| keys(|settings| settings.limits.detect_timeout = Duration::from_millis(timeout));
        assert_eq!(detect(99), ["limits.detect_timeout"]);
        assert_eq!(detect(1001), ["limits.detect_timeout"]);
        assert!(detect(100).is_empty());
        let delay = |millis| keys(|settings| settings.overload.max_delay = Duration::from_millis(millis));
        assert_eq!(delay(9), ["overload.max_delay"]);
        assert!(delay(0).is_empty() && delay(10).is_empty());
        assert_eq!(keys(|settings| settings.drain.timeout = Duration::from_secs(7200)), ["drain.timeout"]);
        assert_eq!(keys(|settings| settings.log.level = "loud".to_owned()), ["log.level"]);
    }

    #[test]
    fn all_defects_are_found_at_once() {
        let keys = keys(|settings| {
            settings.instance = Some(String::new());
            settings.limits.max_connections = 0;
            settings.limits.head_timeout = Duration::ZERO;
        });
        assert_eq!(keys, ["instance", "limits.max_connections", "limits.head_timeout"]);
    }

    #[test]
    fn pairs_that_cannot_work_are_refused() {
        for pairs in [
            &["0.0.0.0:1=127.0.0.1:2"][..],
            &["127.0.0.1:1=127.0.0.1:1"],
            &["127.0.0.1:1=127.0.0.1:0"],
            &["127.0.0.1:1=127.0.0.1:2", "127.0.0.1:1=127.0.0.1:3"],
            &["127.0.0.1:1=127.0.0.1:2,name=a", "127.0.0.1:3=127.0.0.1:4,name=a"],
            &["127.0.0.1:1=127.0.0.1:2,advertise=0.0.0.0:1"],
        ] {
            let found = keys(|settings| {
                settings.inbound = pairs.iter().map(|pair| pair.parse().unwrap()).collect();
            });
            assert_eq!(found, ["inbound"], "{pairs:?}");
        }
    }

    #[test]
    fn service_listeners_that_cannot_work_are_refused() {
        for (services, found) in [
            (
                &[
                    "127.0.0.1:1=price",
                    "127.0.0.1:2=price",
                    "[::1]:1=price",
                    "127.0.0.1:0=a",
                    "127.0.0.1:0=b",
                ][..],
                0,
            ),
            (&["0.0.0.0:1=price"], 1),
            (&["192.0.2.1:1=price"], 1),
            (&["127.0.0.1:1=price", "127.0.0.1:1=db"], 1),
            (&["127.0.0.1:1=price", "[::ffff:127.0.0.1]:1=db"], 2),
            (&["127.0.0.1:17001=price"], 1),
            (&["127.0.0.1:17020=price"], 1),
            (&["127.0.0.1:17006=price"], 1),
            (&["127.0.0.1:8080=price"], 1),
        ] {
            let found_keys = keys(|settings| {
                settings.inbound = vec!["127.0.0.1:17006=127.0.0.1:8080".parse().unwrap()];
                settings.outbound.services = services.iter().map(|pair| pair.parse().unwrap()).collect();
            });
            assert_eq!(found_keys, vec!["outbound.services"; found], "{services:?}");
        }
        let many = keys(|settings| {
            let pair = || "127.0.0.1:0=price".parse().unwrap();
            settings.outbound.services = (0..257).map(|_| pair()).collect();
        });
        assert_eq!(many, ["outbound.services"]);
    }
}
