//! `hops`: where the latency of each hop goes, over all requests and over the slowest ones.

use std::time::Duration;

use outrigger_proto::status::v1alpha1::HopsRequest;

use crate::{
    args::{Global, HopsArgs},
    connect::ControlPlane,
    duration,
    failure::Failure,
    output::{Colour, Output},
    view::{Hop, Hops, Makeup},
};

/// Shows the hops to one service, or all.
pub(crate) async fn run(global: &Global, output: &Output, args: HopsArgs) -> Result<(), Failure> {
    let service = match args.service {
        Some(service) if !service.contains('/') => format!("default/{service}"),
        other => other.unwrap_or_default(),
    };
    let response = ControlPlane::new(global)?
        .hops(HopsRequest { service, slowest_ppm: args.slowest, since: Vec::new() })
        .await?;
    let hops = Hops::new(&response);
    output.result(&hops, || people(output, &hops.hops, args.slowest))
}

/// Two tables: how each hop does, and where its time goes.
pub(crate) fn people(output: &Output, hops: &[Hop], slowest_ppm: u32) -> String {
    if hops.is_empty() {
        return output.paint(Colour::Dim, "no request has crossed a hop yet");
    }
    let names: Vec<String> = hops.iter().map(|hop| name(hop, hops)).collect();
    let summary = hops
        .iter()
        .zip(&names)
        .map(|(hop, name)| {
            vec![
                name.clone(),
                hop.requests.to_string(),
                success(hop),
                milliseconds(hop.p50),
                milliseconds(hop.p99),
            ]
        })
        .collect();
    let header = ["HOP", "REQUESTS", "SUCCESS", "P50", "P99"];
    let summary = output.table(&header, summary, &[1, 2, 3, 4]);
    let split = split(output, hops, &names, slowest_ppm);
    let split = if output.fits(&split) { split } else { narrow(output, hops, &names, slowest_ppm) };
    format!("{summary}\n\n{split}")
}

/// The split as a table: a column for each phase.
fn split(output: &Output, hops: &[Hop], names: &[String], slowest_ppm: u32) -> String {
    let phases = phases(hops);
    let mut header = vec!["WHERE THE TIME WENT".to_owned(), "TOTAL".to_owned()];
    header.extend(phases.iter().map(|phase| phase.replace('_', " ").to_uppercase()));
    let unexplained = hops.iter().any(|hop| is_unexplained(&hop.mean) || is_unexplained(&hop.slowest));
    if unexplained {
        header.push("UNEXPLAINED".to_owned());
    }
    let mut rows = Vec::new();
    for (hop, name) in hops.iter().zip(names) {
        for (share, makeup) in makeups(hop, slowest_ppm) {
            let mut row = vec![format!("{name} {share}"), milliseconds(makeup.total)];
            row.extend(phases.iter().map(|phase| milliseconds(makeup.phase(phase))));
            if unexplained {
                row.push(milliseconds(makeup.unexplained));
            }
            rows.push(row);
        }
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let right: Vec<usize> = (1..header.len()).collect();
    output.wide_table(&header, rows, &right)
}

/// The split for a terminal that the table does not fit: each mean with its phases, the largest first.
fn narrow(output: &Output, hops: &[Hop], names: &[String], slowest_ppm: u32) -> String {
    let mut lines = vec![output.paint(Colour::Bold, "WHERE THE TIME WENT")];
    for (hop, name) in hops.iter().zip(names) {
        lines.push(name.clone());
        for (share, makeup) in makeups(hop, slowest_ppm) {
            let mut phases: Vec<(&str, f64)> =
                makeup.phases.iter().map(|(phase, time)| (phase.as_str(), *time)).collect();
            phases.push(("unexplained", makeup.unexplained));
            // Less than half a percent is noise beside the rest.
            phases.retain(|(_, time)| *time > makeup.total / 200.0);
            phases.sort_by(|(_, left), (_, right)| right.total_cmp(left));
            let parts: Vec<String> = phases
                .iter()
                .map(|(phase, time)| format!("{} {}", phase.replace('_', " "), milliseconds(*time)))
                .collect();
            lines.push(output.list(&format!("  {share} {}:", milliseconds(makeup.total)), &parts));
        }
    }
    lines.join("\n")
}

/// The two means of a hop, with their names.
fn makeups(hop: &Hop, slowest_ppm: u32) -> [(String, &Makeup); 2] {
    [("mean".to_owned(), &hop.mean), (format!("slowest {}", percent(slowest_ppm)), &hop.slowest)]
}

/// `demo/front -> demo/price-v1`; the port only where it tells two hops apart, the rule likewise.
fn name(hop: &Hop, hops: &[Hop]) -> String {
    let same = |other: &&Hop| other.source == hop.source && other.destination == hop.destination;
    let mut name = format!("{} -> {}", hop.caller(), hop.destination);
    if hops.iter().filter(same).any(|other| other.port != hop.port) {
        name.push_str(&format!(":{}", hop.port));
    }
    if hops.iter().filter(same).any(|other| other.rule != hop.rule) && !hop.rule.is_empty() {
        name.push_str(&format!(" ({})", hop.rule));
    }
    name
}

/// Phases that took any time on any hop, in the order in which a request meets them.
fn phases(hops: &[Hop]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let makeups = hops.iter().flat_map(|hop| [&hop.mean, &hop.slowest]);
    for (phase, _) in makeups.flat_map(|makeup| &makeup.phases) {
        if !names.contains(phase) {
            names.push(phase.clone());
        }
    }
    // Below half a microsecond in every mean there is nothing to see.
    names.retain(|phase| {
        hops.iter().any(|hop| hop.mean.phase(phase) >= 0.0005 || hop.slowest.phase(phase) >= 0.0005)
    });
    names
}

/// More than one part in a hundred is worth a column.
fn is_unexplained(makeup: &Makeup) -> bool {
    makeup.unexplained > makeup.total / 100.0 && makeup.unexplained > 0.005
}

/// Never rounded up to 100 %.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn success(hop: &Hop) -> String {
    if hop.failures == 0 {
        return "100 %".to_owned();
    }
    let share = 1.0 - hop.failures as f64 / hop.requests.max(1) as f64;
    format!("{:.2} %", (share * 10_000.0).floor() / 100.0)
}

fn milliseconds(time: f64) -> String {
    duration::latency(Duration::try_from_secs_f64(time / 1e3).ok())
}

fn percent(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::{Hop, Makeup, Output, name, narrow, percent, phases, success};

    fn hop(destination: &str, port: u32, rule: &str) -> Hop {
        let makeup = |app: f64| Makeup {
            requests: 10,
            total: app + 0.1,
            phases: vec![
                ("client_proxy".to_owned(), 0.1),
                ("connect".to_owned(), 0.0),
                ("app".to_owned(), app),
            ],
            unexplained: 0.0,
        };
        Hop {
            source: "spiffe://outrigger.local/ns/demo/sa/front".to_owned(),
            destination: destination.to_owned(),
            port,
            rule: rule.to_owned(),
            requests: 20_000,
            failures: 0,
            p50: 1.0,
            p99: 2.0,
            mean: makeup(1.0),
            slowest: makeup(25.0),
        }
    }

    #[test]
    fn a_hop_shows_its_port_and_rule_only_where_they_tell_two_apart() {
        let plain = hop("demo/price-v1", 80, "demo/price#split");
        assert_eq!(name(&plain, std::slice::from_ref(&plain)), "demo/front -> demo/price-v1");
        let both = [plain, hop("demo/price-v1", 81, "demo/price#other")];
        assert_eq!(name(&both[1], &both), "demo/front -> demo/price-v1:81 (demo/price#other)");
    }

    #[test]
    fn phases_that_took_no_time_are_left_out() {
        assert_eq!(phases(&[hop("demo/price", 80, "")]), ["client_proxy", "app"]);
    }

    #[test]
    fn a_narrow_terminal_gets_a_list_of_phases_the_largest_first_and_no_noise() {
        let hops = [hop("demo/price", 80, "")];
        let text = narrow(&Output::plain(), &hops, &["front -> price".to_owned()], 10_000);
        assert_eq!(
            text,
            "WHERE THE TIME WENT\nfront -> price\n  mean 1.10ms: app 1.00ms, client proxy 100µs\n  slowest 1 % 25.1ms: app \
             25.0ms"
        );
    }

    #[test]
    fn success_is_never_rounded_up_to_all() {
        let mut hop = hop("demo/price", 80, "");
        assert_eq!(success(&hop), "100 %");
        hop.failures = 1;
        assert_eq!(success(&hop), "99.99 %");
    }

    #[test]
    fn a_share_reads_as_a_percentage() {
        assert_eq!(percent(10_000), "1 %");
        assert_eq!(percent(1_000), "0.1 %");
    }
}
