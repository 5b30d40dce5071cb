//! Request -> rule -> backend, with the semantics of the Gateway API's HTTPRoute.
//!
//! The control plane sorts compiled rules by [`precedence`]; the proxy takes the first that covers the request
//! ([`select`]), then a backend by weight ([`weighted`]).

use std::{borrow::Cow, cmp::Reverse};

use http::{HeaderMap, HeaderValue, Method};

use crate::model::{
    HeaderMatch, HeaderMutation, HttpMatch, PathMatch, QueryMatch, RouteRule, ValueMatch, WeightedBackend,
};

/// What a rule may look at.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// Raw and without the query; empty or `*` where the request has no path.
    pub path: &'a str,
    /// Raw and without the `?`.
    pub query: Option<&'a str>,
    /// As received.
    pub headers: &'a HeaderMap,
}

/// The first rule that covers the request; rules are in match order.
pub fn select<'r>(rules: &'r [RouteRule], head: &RequestHead<'_>) -> Option<&'r RouteRule> {
    rules.iter().find(|rule| covers(&rule.condition, head))
}

/// Whether all conditions hold.
pub fn covers(condition: &HttpMatch, head: &RequestHead<'_>) -> bool {
    condition.method.as_ref().is_none_or(|method| method == head.method)
        && condition.path.as_ref().is_none_or(|path| path_matches(path, head.path))
        && condition.headers.iter().all(|header| header_matches(header, head.headers))
        && condition.query_params.iter().all(|param| query_matches(param, head.query))
}

fn path_matches(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => match path.strip_prefix(trimmed(prefix)) {
            // Whole segments only. The root covers everything, `*` and the empty path of CONNECT too.
            Some(rest) => rest.is_empty() || rest.starts_with('/') || trimmed(prefix).is_empty(),
            None => false,
        },
        PathMatch::Regex(pattern) => pattern.is_match(path),
    }
}

/// A prefix without its trailing `/`, which is not significant.
fn trimmed(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

fn header_matches(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&condition.name).iter();
    let Some(first) = values.next() else { return false };
    let mut joined = Cow::Borrowed(first.as_bytes());
    for value in values {
        let joined = joined.to_mut();
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    value_matches(&condition.value, &joined)
}

/// A value that is not UTF-8 matches no regular expression.
fn value_matches(condition: &ValueMatch, value: &[u8]) -> bool {
    match condition {
        ValueMatch::Exact(exact) => exact.as_bytes() == value,
        ValueMatch::Regex(pattern) => std::str::from_utf8(value).is_ok_and(|value| pattern.is_match(value)),
    }
}

fn query_matches(condition: &QueryMatch, query: Option<&str>) -> bool {
    query
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *name == condition.name)
        .is_some_and(|(_, value)| value_matches(&condition.value, value.as_bytes()))
}

/// A match's place in the order of a port's rules; less is tried earlier. See [`precedence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence(Reverse<(PathRank, bool, usize, usize)>);

/// By rising precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    /// By length without a trailing `/`; no condition on the path is the prefix `/`.
    Prefix(usize),
    /// By length of the source.
    Regex(usize),
    Exact,
}

/// The Gateway API's order: exact path, longest prefix, method, most headers, most query parameters. Ties go on to the
/// older route, then the route's name, then the rule's place: that is the caller's to compare.
///
/// The API leaves regular expressions to implementations; here they come after exact paths and before prefixes, else a
/// prefix `/` beside them would leave them nothing.
pub fn precedence(condition: &HttpMatch) -> Precedence {
    let path = match &condition.path {
        Some(PathMatch::Exact(_)) => PathRank::Exact,
        Some(PathMatch::Regex(pattern)) => PathRank::Regex(pattern.source().len()),
        Some(PathMatch::Prefix(prefix)) => PathRank::Prefix(trimmed(prefix).chars().count()),
        None => PathRank::Prefix(0),
    };
    Precedence(Reverse((
        path,
        condition.method.is_some(),
        condition.headers.len(),
        condition.query_params.len(),
    )))
}

/// A backend by weight; `random` is uniform over all of `u64`. `None` when every weight is 0.
pub fn weighted(backends: &[WeightedBackend], random: u64) -> Option<&WeightedBackend> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut ticket = random.checked_rem(total)?;
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let chosen = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        chosen
    })
}

/// Edits a head in the order set, add, remove.
pub fn mutate(mutation: &HeaderMutation, headers: &mut HeaderMap<HeaderValue>) {
    for (name, value) in &mutation.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &mutation.add {
        headers.append(name, value.clone());
    }
    for name in &mutation.remove {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
