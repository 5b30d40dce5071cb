//! The reference of metrics, written from what is exposed, so that the two cannot drift apart: see
//! `docs/reference/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};

/// What an exposition says of one family.
#[derive(Debug, Default)]
struct Family<'a> {
    kind: &'a str,
    unit: &'a str,
    help: &'a str,
    labels: BTreeSet<&'a str>,
}

/// A table of the families in `exposition` (OpenMetrics text), by name. A family tells its labels by its samples: one
/// without a sample is not exposed, and not in the table.
pub fn reference(exposition: &str) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    let mut current = "";
    for line in exposition.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(text)) => {
                let family = families.entry(name).or_default();
                match what {
                    "HELP" => family.help = text,
                    "TYPE" => family.kind = text,
                    "UNIT" => family.unit = text,
                    _ => {}
                }
                current = name;
            }
            _ if line.starts_with(current) => {
                if let Some(family) = families.get_mut(current) {
                    family.labels.extend(labels(line));
                }
            }
            _ => {}
        }
    }
    let mut table = "| Metric | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|\n".to_owned();
    for (name, family) in families {
        let Family { kind, unit, help, labels } = family;
        let suffix = if kind == "counter" { "_total" } else { "" };
        let labels: Vec<String> = labels.into_iter().map(|label| format!("`{label}`")).collect();
        let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        table.push_str(&format!(
            "| `{name}{suffix}` | {kind} | {} | {} | {}. |\n",
            or_none(unit),
            or_none(&labels.join(", ")),
            help.trim_end_matches('.'),
        ));
    }
    table
}

/// The names of a sample's labels, but for a histogram's own. Values may hold anything but an unescaped quote.
fn labels(sample: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = sample.split_once('{').map_or("", |(_, labels)| labels);
    while let Some((name, value)) = rest.split_once("=\"") {
        if name != "le" {
            names.push(name);
        }
        let mut escaped = false;
        let end = value.find(|letter: char| {
            let ends = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            ends
        });
        rest = end.and_then(|end| value.get(end..)).unwrap_or_default().trim_start_matches(['"', ',']);
    }
    names
}

/// What stands below the heading `## heading` of `page`, up to the next one of its kind.
pub fn section<'a>(page: &'a str, heading: &str) -> Option<&'a str> {
    let (_, below) = page.split_once(&format!("\n## {heading}\n\n"))?;
    Some(below.split_once("\n## ").map_or(below, |(section, _)| section))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_line_with_what_the_exposition_says_of_it() {
        let exposition = "\
            HTTP/1.1 200 OK\n\n\
            # HELP outrigger_requests Requests that are over.\n\
            # TYPE outrigger_requests counter\n\
            outrigger_requests_total{direction=\"inbound\",path=\"a,b=\\\"c}\",status=\"2xx\"} 1\n\
            # HELP outrigger_edge_duration_seconds How long\n\
            # TYPE outrigger_edge_duration_seconds histogram\n\
            # UNIT outrigger_edge_duration_seconds seconds\n\
            outrigger_edge_duration_seconds_sum{port=\"80\"} 0.1\n\
            outrigger_edge_duration_seconds_bucket{le=\"+Inf\",port=\"80\"} 1\n\
            # HELP outrigger_connected One.\n\
            # TYPE outrigger_connected gauge\n\
            outrigger_connected 1\n\
            # EOF\n";
        assert_eq!(
            reference(exposition),
            "| Metric | Type | Unit | Labels | Meaning |\n\
             |---|---|---|---|---|\n\
             | `outrigger_connected` | gauge | - | - | One. |\n\
             | `outrigger_edge_duration_seconds` | histogram | seconds | `port` | How long. |\n\
             | `outrigger_requests_total` | counter | - | `direction`, `path`, `status` | Requests that are over. |\n"
        );
    }

    #[test]
    fn a_section_ends_with_the_next_one() {
        let page = "# Metrics\n\nText.\n\n## Proxy\n\na\nb\n\n## Control plane\n\nc\n";
        assert_eq!(section(page, "Proxy"), Some("a\nb\n"));
        assert_eq!(section(page, "Control plane"), Some("c\n"));
        assert_eq!(section(page, "Gateway"), None);
    }
}
