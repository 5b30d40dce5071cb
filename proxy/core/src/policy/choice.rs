//! Words out of a closed list, and the nearest one to a word that is not in it.

use crate::wire::{Findings, cut};

/// The one of `known` that `word` names. A word of `elsewhere` is known to others but not supported by this version.
pub(super) fn choose<T: Copy>(
    findings: &mut Findings,
    field: &str,
    word: &str,
    known: &[(&str, T)],
    elsewhere: &[&str],
) -> Option<T> {
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == word) {
        return Some(*value);
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let any = format!("write {}", one_of(&names));
    if elsewhere.contains(&word) {
        findings.error(field, "unsupported", format!("{word} is not supported by this version"), &any);
    } else {
        let remedy = nearest(word, &names).map_or(any, |name| format!("did you mean {name}?"));
        findings.error(field, "invalid", format!("'{}' is not known here", cut(word)), &remedy);
    }
    None
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn one_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [start @ .., last] => format!("{} or {last}", start.join(", ")),
    }
}

/// The one of `known` that was probably meant: at most a third of its letters differ.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    // `retries` is as near to `retry` as `retrys` is.
    let singular = lower.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let far = |name: &str| {
        let singular = singular.as_ref().map(|word| distance(word, name) + 1);
        singular.into_iter().chain([distance(&lower, name)]).min().unwrap_or(usize::MAX)
    };
    known
        .iter()
        .map(|name| (far(&name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (row, from) in a.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
            let replaced = at(&last, column) + usize::from(from != *to);
            let mut best = replaced.min(at(&last, column + 1) + 1).min(at(&current, column) + 1);
            let neighbour = column.checked_sub(1).and_then(|index| b.get(index));
            if previous == Some(*to) && neighbour == Some(&from) {
                best = best.min(at(&before, column.saturating_sub(1)) + 1);
            }
            current.push(best);
        }
        previous = Some(from);
        before = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_what_was_meant() {
        let known = ["ports", "serviceAccounts", "selector", "backendRefs", "retry", "retryBudget"];
        for (word, meant) in [
            ("prots", Some("ports")),
            ("port", Some("ports")),
            ("Ports", Some("ports")),
            ("backendRef", Some("backendRefs")),
            ("backends", Some("backendRefs")),
            ("serviceaccount", Some("serviceAccounts")),
            ("retries", Some("retry")),
            ("Policies", None),
            ("type", None),
            ("", None),
            ("ü", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
    }
}
