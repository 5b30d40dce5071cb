//! Conditions on a request, which an operator writes and a proxy receives in the same shape.

use std::collections::BTreeSet;

use http::{HeaderName, Method};
use outrigger_proto::mesh::v1alpha1 as proto;

use super::Findings;
use crate::model::{AppProtocol, HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, ValueMatch};

/// Header or query conditions of one match, and edits of one list (the Gateway API's bound).
pub(super) const MAX_ITEMS: usize = 16;
const MAX_PATH: usize = 1024;
const MAX_VALUE: usize = 4096;
const MAX_NAME: usize = 256;
const MAX_PATTERN: usize = 1024;

/// What the fields are called where their author sees them: on the wire, or in a document.
#[derive(Debug)]
pub(super) struct Vocabulary {
    path_exact: &'static str,
    path_prefix: &'static str,
    path_regex: &'static str,
    value_exact: &'static str,
    value_regex: &'static str,
    query_params: &'static str,
    pub(super) request_headers: &'static str,
    pub(super) response_headers: &'static str,
}

/// As in the messages of `outrigger.mesh`.
pub(super) const WIRE: Vocabulary = Vocabulary {
    path_exact: "path.exact",
    path_prefix: "path.prefix",
    path_regex: "path.regex",
    value_exact: "value.exact",
    value_regex: "value.regex",
    query_params: "query_params",
    request_headers: "request_headers",
    response_headers: "response_headers",
};

/// As in a document.
pub(super) const DOCUMENT: Vocabulary = Vocabulary {
    path_exact: "path.value",
    path_prefix: "path.value",
    path_regex: "path.value",
    value_exact: "value",
    value_regex: "value",
    query_params: "queryParams",
    request_headers: "requestHeaderModifier",
    response_headers: "responseHeaderModifier",
};

pub(super) fn protocol(findings: &mut Findings, field: &str, value: i32) -> Option<AppProtocol> {
    match proto::AppProtocol::try_from(value) {
        Ok(proto::AppProtocol::Unspecified) => Some(AppProtocol::Detect),
        Ok(proto::AppProtocol::Tcp) => Some(AppProtocol::Tcp),
        Ok(proto::AppProtocol::Http1) => Some(AppProtocol::Http1),
        Ok(proto::AppProtocol::Http2) => Some(AppProtocol::Http2),
        Ok(proto::AppProtocol::Grpc) => Some(AppProtocol::Grpc),
        Ok(proto::AppProtocol::Tls) => Some(AppProtocol::Tls),
        Err(_) => {
            findings.error(
                field,
                "unsupported",
                format!("protocol {value} is not known to this version"),
                "",
            );
            None
        }
    }
}

pub(super) fn http_match(
    findings: &mut Findings,
    words: &Vocabulary,
    wire: &proto::HttpMatch,
) -> Option<HttpMatch> {
    let before = findings.count();
    let path = wire.path.as_ref().and_then(|wire| path(findings, words, wire));
    let method = if wire.method.is_empty() { None } else { method(findings, &wire.method) };
    let mut names = BTreeSet::new();
    let headers = findings.each("headers", &wire.headers, MAX_ITEMS, |findings, header| {
        let name = header_name(findings, "name", &header.name);
        let value = value(findings, words, header.value.as_ref(), is_field_value);
        let name = unique(findings, &mut names, name)?;
        Some(HeaderMatch { name, value: value? })
    });
    let mut names = BTreeSet::new();
    let query_params = findings.each(words.query_params, &wire.query_params, MAX_ITEMS, |findings, param| {
        let name = query_name(findings, &param.name);
        let value = value(findings, words, param.value.as_ref(), is_query_value);
        let name = unique(findings, &mut names, name)?;
        Some(QueryMatch { name, value: value? })
    });
    (findings.count() == before).then_some(HttpMatch { path, method, headers, query_params })
}

/// How many regular expressions are in it.
pub(super) fn patterns(wire: &proto::HttpMatch) -> usize {
    let path = wire.path.as_ref().and_then(|path| path.kind.as_ref());
    let headers = wire.headers.iter().filter_map(|header| header.value.as_ref());
    let params = wire.query_params.iter().filter_map(|param| param.value.as_ref());
    let values = headers.chain(params).filter_map(|value| value.kind.as_ref());
    values.filter(|kind| matches!(kind, proto::value_match::Kind::Regex(_))).count()
        + usize::from(matches!(path, Some(proto::path_match::Kind::Regex(_))))
}

fn path(findings: &mut Findings, words: &Vocabulary, wire: &proto::PathMatch) -> Option<PathMatch> {
    match findings.required("path", wire.kind.as_ref())? {
        proto::path_match::Kind::Exact(path) => {
            is_path(findings, words.path_exact, path).then(|| PathMatch::Exact(path.clone()))
        }
        proto::path_match::Kind::Prefix(path) => {
            is_path(findings, words.path_prefix, path).then(|| PathMatch::Prefix(path.clone()))
        }
        proto::path_match::Kind::Regex(source) => {
            pattern(findings, words.path_regex, source).map(PathMatch::Regex)
        }
    }
}

/// Whether `path` can ever equal the path of a request: what cannot is a mistake, not a condition.
fn is_path(findings: &mut Findings, field: &str, path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let (code, message, remedy) = if path.is_empty() {
        ("required", "the path is missing".to_owned(), "write a path that starts with '/'")
    } else if !path.starts_with('/') {
        ("invalid", format!("'{}' does not start with '/'", cut(path)), "write an absolute path")
    } else if path.len() > MAX_PATH {
        ("too_long", format!("the path is longer than {MAX_PATH} bytes"), "")
    } else if let Some(bad) = path.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#')) {
        let message = format!("{bad:?} cannot occur in the path of a request");
        ("invalid", message, "percent-encode it, and match a query with queryParams")
    } else if lower.contains("//")
        || lower.contains("%2f")
        || path.split('/').any(|part| part == "." || part == "..")
    {
        let message = format!("'{}' is not a normal path", cut(path));
        ("invalid", message, "leave out '//', '/./', '/../' and '%2f'")
    } else {
        return true;
    };
    findings.error(field, code, message, remedy);
    false
}

fn method(findings: &mut Findings, value: &str) -> Option<Method> {
    let legal = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if value.len() <= 32
        && value.bytes().all(legal)
        && let Ok(method) = Method::from_bytes(value.as_bytes())
    {
        return Some(method);
    }
    let message = format!("'{}' is not a method", cut(value));
    findings.error("method", "invalid", message, "write it in capital letters, such as GET or POST");
    None
}

fn value(
    findings: &mut Findings,
    words: &Vocabulary,
    wire: Option<&proto::ValueMatch>,
    legal: fn(&str) -> bool,
) -> Option<ValueMatch> {
    match findings.required("value", wire.and_then(|wire| wire.kind.as_ref()))? {
        proto::value_match::Kind::Exact(value) => {
            let (code, message) = if value.is_empty() {
                ("required", "the value is missing".to_owned())
            } else if value.len() > MAX_VALUE {
                ("too_long", format!("the value is longer than {MAX_VALUE} bytes"))
            } else if !legal(value) {
                ("invalid", format!("'{}' cannot occur here in a request", cut(value)))
            } else {
                return Some(ValueMatch::Exact(value.clone()));
            };
            findings.error(words.value_exact, code, message, "");
            None
        }
        proto::value_match::Kind::Regex(source) => {
            pattern(findings, words.value_regex, source).map(ValueMatch::Regex)
        }
    }
}

fn pattern(findings: &mut Findings, field: &str, source: &str) -> Option<Pattern> {
    if source.is_empty() {
        findings.error(field, "required", "the regular expression is missing", "");
        return None;
    }
    if source.len() > MAX_PATTERN {
        let message = format!("the regular expression is longer than {MAX_PATTERN} bytes");
        findings.error(field, "too_long", message, "");
        return None;
    }
    match Pattern::new(source) {
        Ok(pattern) => Some(pattern),
        Err(regex::Error::CompiledTooBig(limit)) => {
            let message = format!("the regular expression needs more than {limit} bytes when compiled");
            findings.error(field, "too_large", message, "write smaller repetitions");
            None
        }
        Err(error) => {
            // The library draws the place over several lines; its last line says what is wrong.
            let text = error.to_string();
            let cause = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let message = format!("'{}' is not a regular expression: {cause}", cut(source));
            findings.error(
                field,
                "invalid_regex",
                message,
                "write it as in RE2: no look-around, no back-references",
            );
            None
        }
    }
}

pub(super) fn header_name(findings: &mut Findings, field: &str, value: &str) -> Option<HeaderName> {
    if value.is_empty() {
        findings.error(field, "required", "the header's name is missing", "");
        return None;
    }
    match HeaderName::from_bytes(value.as_bytes()) {
        Ok(name) if value.len() <= MAX_NAME => Some(name),
        _ => {
            let message = format!("'{}' is not the name of a header", cut(value));
            let remedy = "write 1 to 256 letters, digits and '-', without a colon";
            findings.error(field, "invalid_name", message, remedy);
            None
        }
    }
}

fn query_name(findings: &mut Findings, value: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '&' | '=' | '#');
    if value.is_empty() {
        findings.error("name", "required", "the parameter's name is missing", "");
    } else if value.len() > MAX_NAME || !value.chars().all(legal) {
        let message = format!("'{}' cannot be the name of a query parameter", cut(value));
        findings.error("name", "invalid_name", message, "percent-encode it as clients do");
    } else {
        return Some(value.to_owned());
    }
    None
}

/// Records a name that was given before.
pub(super) fn unique<T: std::fmt::Display>(
    findings: &mut Findings,
    seen: &mut BTreeSet<String>,
    name: Option<T>,
) -> Option<T> {
    let name = name?;
    if seen.insert(name.to_string()) {
        return Some(name);
    }
    let message = format!("'{name}' is given twice");
    findings.error("name", "duplicate", message, "write it once");
    None
}

/// What HTTP can carry as a field's value without changing it (RFC 9110 §5.5).
pub(super) fn is_field_value(value: &str) -> bool {
    value.len() <= MAX_VALUE
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && value.trim_matches([' ', '\t']).len() == value.len()
}

fn is_query_value(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '&' | '#'))
}

/// A value for a message: cut where a hostile one would fill the screen.
pub(crate) fn cut(value: &str) -> String {
    let mut short: String =
        value.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if value.chars().nth(80).is_some() {
        short.push_str("...");
    }
    short
}

impl From<AppProtocol> for proto::AppProtocol {
    fn from(protocol: AppProtocol) -> Self {
        match protocol {
            AppProtocol::Detect => Self::Unspecified,
            AppProtocol::Tcp => Self::Tcp,
            AppProtocol::Http1 => Self::Http1,
            AppProtocol::Http2 => Self::Http2,
            AppProtocol::Grpc => Self::Grpc,
            AppProtocol::Tls => Self::Tls,
        }
    }
}

impl From<&PathMatch> for proto::PathMatch {
    fn from(path: &PathMatch) -> Self {
        use proto::path_match::Kind;
        Self {
            kind: Some(match path {
                PathMatch::Exact(path) => Kind::Exact(path.clone()),
                PathMatch::Prefix(path) => Kind::Prefix(path.clone()),
                PathMatch::Regex(pattern) => Kind::Regex(pattern.source().to_owned()),
            }),
        }
    }
}

impl From<&ValueMatch> for proto::ValueMatch {
    fn from(value: &ValueMatch) -> Self {
        use proto::value_match::Kind;
        Self {
            kind: Some(match value {
                ValueMatch::Exact(value) => Kind::Exact(value.clone()),
                ValueMatch::Regex(pattern) => Kind::Regex(pattern.source().to_owned()),
            }),
        }
    }
}

impl From<&HttpMatch> for proto::HttpMatch {
    fn from(condition: &HttpMatch) -> Self {
        Self {
            path: condition.path.as_ref().map(Into::into),
            method: condition.method.as_ref().map_or_else(String::new, ToString::to_string),
            headers: condition
                .headers
                .iter()
                .map(|header| proto::HeaderMatch {
                    name: header.name.to_string(),
                    value: Some((&header.value).into()),
                })
                .collect(),
            query_params: condition
                .query_params
                .iter()
                .map(|param| proto::QueryMatch {
                    name: param.name.clone(),
                    value: Some((&param.value).into()),
                })
                .collect(),
        }
    }
}
