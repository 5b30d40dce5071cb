//! `hops`: where the latency of each hop goes, over all requests and over the slowest ones; of a service, along the
//! whole chain behind it.

mod watch;

use std::time::Duration;

use outrigger_core::telemetry::Class;
use outrigger_proto::status::v1alpha1::HopsRequest;

use crate::{
    args::{Global, HopsArgs},
    connect::ControlPlane,
    duration,
    failure::Failure,
    interrupts::Interrupts,
    output::{Colour, Output},
    view::{Hop, Hops, Makeup},
};

/// Deeper hops of a chain are indented no further.
const MAX_INDENT: usize = 16;

/// Shows the chain of one service, or all hops; once, or until it is interrupted.
pub(crate) async fn run(global: &Global, output: &Output, args: HopsArgs) -> Result<(), Failure> {
    let control = ControlPlane::new(global)?;
    let service = args.service.unwrap_or_default();
    let request = HopsRequest { service, slowest_ppm: args.slowest, since: Vec::new() };
    if args.watch {
        let mut interrupts = Interrupts::new()?;
        return tokio::select! {
            outcome = watch::run(&control, output, request) => outcome,
            // That is how it ends.
            () = interrupts.next() => Ok(()),
        };
    }
    let hops = Hops::new(&control.hops(request).await?);
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
    header.extend(phases.iter().map(|phase| title(phase, &phases).to_uppercase()));
    let unexplained = hops.iter().any(|hop| is_unexplained(&hop.mean) || is_unexplained(&hop.slowest));
    if unexplained {
        header.push("UNEXPLAINED".to_owned());
    }
    let mut rows = Vec::new();
    for (hop, name) in hops.iter().zip(names) {
        for (share, makeup) in makeups(hop, slowest_ppm) {
            let mut row = vec![format!("{name} {share}"), milliseconds(makeup.total)];
            let parts = makeup.parts();
            row.extend(phases.iter().map(|phase| milliseconds(time(&parts, phase))));
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
            let mut phases = makeup.parts();
            phases.push(("unexplained", makeup.unexplained));
            // Less than half a percent is noise beside the rest.
            phases.retain(|(_, time)| *time > makeup.total / 200.0);
            phases.sort_by(|(_, left), (_, right)| right.total_cmp(left));
            let names: Vec<&str> = phases.iter().map(|(phase, _)| *phase).collect();
            let parts: Vec<String> = phases
                .iter()
                .map(|(phase, time)| format!("{} {}", title(phase, &names), milliseconds(*time)))
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

/// A part's name for people. Beside what could be taken apart, `app` is the rest.
fn title(part: &str, parts: &[&str]) -> String {
    match part {
        "app" if parts.contains(&"app_self") => "app not split".to_owned(),
        part => part.replace('_', " "),
    }
}

fn time(parts: &[(&str, f64)], name: &str) -> f64 {
    parts.iter().find(|(part, _)| *part == name).map_or(0.0, |(_, time)| *time)
}

/// `demo/front -> demo/price-v1`, indented as deep as it is in a chain; the port only where it tells two hops apart, the
/// rule likewise; what it counts if not requests.
fn name(hop: &Hop, hops: &[Hop]) -> String {
    let same = |other: &&Hop| other.source == hop.source && other.destination == hop.destination;
    let indent = "  ".repeat(usize::try_from(hop.depth).unwrap_or_default().min(MAX_INDENT));
    let mut name = format!("{indent}{} -> {}", hop.caller(), hop.destination);
    if hops.iter().filter(same).any(|other| other.port != hop.port) {
        name.push_str(&format!(":{}", hop.port));
    }
    if hops.iter().filter(same).any(|other| other.rule != hop.rule) && !hop.rule.is_empty() {
        name.push_str(&format!(" ({})", hop.rule));
    }
    if hop.class != Class::Request.as_str() {
        name.push_str(&format!(" [{}]", hop.class));
    }
    name
}

/// Parts that took any time on any hop, in the order in which a request meets them.
fn phases(hops: &[Hop]) -> Vec<&str> {
    let parts = hops.iter().flat_map(|hop| [hop.mean.parts(), hop.slowest.parts()]);
    let mut names: Vec<(&str, f64)> = Vec::new();
    for (part, time) in parts.flatten() {
        match names.iter_mut().find(|(name, _)| *name == part) {
            Some((_, most)) => *most = most.max(time),
            None => names.push((part, time)),
        }
    }
    // Below half a microsecond in every mean there is nothing to see.
    names.into_iter().filter(|(_, most)| *most >= 0.0005).map(|(name, _)| name).collect()
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
    use super::{Class, Hop, Makeup, Output, name, narrow, percent, phases, split, success};
    use crate::view::hops::App;

    fn hop(destination: &str, port: u32, rule: &str) -> Hop {
        let makeup = |app: f64| Makeup {
            requests: 10,
            total: app + 0.1,
            phases: vec![
                ("client_proxy".to_owned(), 0.1),
                ("connect".to_owned(), 0.0),
                ("app".to_owned(), app),
            ],
            app: App::default(),
            unexplained: 0.0,
        };
        Hop {
            source: "spiffe://outrigger.local/ns/demo/sa/front".to_owned(),
            destination: destination.to_owned(),
            port,
            rule: rule.to_owned(),
            class: Class::Request.as_str(),
            depth: 0,
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
    fn a_hop_of_a_chain_is_indented_and_says_what_it_counts() {
        let mut deep = hop("demo/stock", 80, "");
        (deep.depth, deep.class) = (2, Class::Stream.as_str());
        assert_eq!(name(&deep, std::slice::from_ref(&deep)), "    demo/front -> demo/stock [stream]");
        let table = split(&Output::plain(), &[deep], &["    demo/front".to_owned()], 10_000);
        assert!(table.contains("\n    demo/front mean"), "{table}");
    }

    #[test]
    fn the_applications_time_is_split_where_that_is_known() {
        let mut known = hop("demo/price", 80, "");
        known.mean.app = App { requests: 10, own: 0.25, waiting: 0.75 };
        assert_eq!(known.mean.parts()[2..], [("app_self", 0.25), ("downstream_calls", 0.75), ("app", 0.0)]);
        known.mean.app.requests = 9;
        known.mean.app.waiting = 0.5;
        assert_eq!(known.mean.parts()[2..], [("app_self", 0.25), ("downstream_calls", 0.5), ("app", 0.25)]);
        let hops = [known];
        assert_eq!(phases(&hops), ["client_proxy", "app_self", "downstream_calls", "app"]);
        let table = split(&Output::plain(), &hops, &["front".to_owned()], 10_000);
        assert!(table.contains("APP SELF  DOWNSTREAM CALLS  APP NOT SPLIT"), "{table}");
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
