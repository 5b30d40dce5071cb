//! Edits of heads, which an operator writes and a proxy receives in the same shape.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};
use outrigger_proto::mesh::v1alpha1 as proto;

use super::{
    Findings,
    matches::{MAX_ITEMS, Vocabulary, cut, header_name, is_field_value, unique},
};
use crate::model::{HeaderMutation, HttpFilter};

/// Header fields that frame a message or belong to one connection: an edit would break or smuggle requests.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn filters(
    findings: &mut Findings,
    words: &Vocabulary,
    wire: &[proto::HttpFilter],
) -> Vec<HttpFilter> {
    let (mut request, mut response) = (false, false);
    findings.each("filters", wire, MAX_ITEMS, |findings, filter| {
        let (field, seen, edits) = match filter.kind.as_ref() {
            Some(proto::http_filter::Kind::RequestHeaders(edits)) => {
                (words.request_headers, &mut request, edits)
            }
            Some(proto::http_filter::Kind::ResponseHeaders(edits)) => {
                (words.response_headers, &mut response, edits)
            }
            None => {
                findings.error("", "unsupported", "the filter is missing or not known to this version", "");
                return None;
            }
        };
        if std::mem::replace(seen, true) {
            findings.error(
                "",
                "duplicate",
                "a rule has each kind of filter once",
                "write one filter with all edits",
            );
        }
        let edits = findings.within(field, |findings| mutation(findings, edits))?;
        Some(match filter.kind {
            Some(proto::http_filter::Kind::ResponseHeaders(_)) => HttpFilter::ResponseHeaders(edits),
            _ => HttpFilter::RequestHeaders(edits),
        })
    })
}

fn mutation(findings: &mut Findings, wire: &proto::HeaderMutation) -> Option<HeaderMutation> {
    let before = findings.count();
    if wire.set.is_empty() && wire.add.is_empty() && wire.remove.is_empty() {
        findings.error("", "required", "the filter edits nothing", "write set, add or remove");
    }
    let set = headers(findings, "set", &wire.set);
    let add = headers(findings, "add", &wire.add);
    let mut names = BTreeSet::new();
    let remove = findings.each("remove", &wire.remove, MAX_ITEMS, |findings, name| {
        let name = editable(findings, "", name)?;
        if !names.insert(name.to_string()) {
            findings.error("", "duplicate", format!("'{name}' is given twice"), "write it once");
        }
        Some(name)
    });
    (findings.count() == before).then_some(HeaderMutation { set, add, remove })
}

fn headers(findings: &mut Findings, field: &str, wire: &[proto::Header]) -> Vec<(HeaderName, HeaderValue)> {
    let mut names = BTreeSet::new();
    findings.each(field, wire, MAX_ITEMS, |findings, header| {
        let name = editable(findings, "name", &header.name);
        let value = HeaderValue::from_str(&header.value).ok().filter(|_| is_field_value(&header.value));
        if value.is_none() {
            let message = format!("'{}' cannot be the value of a header", cut(&header.value));
            let remedy = "write up to 4096 printable ASCII characters, without a blank at either end";
            findings.error("value", "invalid", message, remedy);
        }
        Some((unique(findings, &mut names, name)?, value?))
    })
}

/// A header that a rule may edit.
fn editable(findings: &mut Findings, field: &str, value: &str) -> Option<HeaderName> {
    let name = header_name(findings, field, value)?;
    if FRAMING.contains(&name.as_str()) {
        let message = format!("'{name}' belongs to the connection, not to the request");
        findings.error(field, "reserved", message, "leave it to the proxies");
        return None;
    }
    if name.as_str().starts_with("outrigger-") {
        let message = format!("'{name}' is one of the mesh's own headers");
        findings.error(field, "reserved", message, "use a name that does not start with 'outrigger-'");
        return None;
    }
    Some(name)
}

impl From<&HeaderMutation> for proto::HeaderMutation {
    fn from(edits: &HeaderMutation) -> Self {
        let encode = |headers: &[(HeaderName, HeaderValue)]| {
            headers
                .iter()
                .map(|(name, value)| proto::Header {
                    name: name.to_string(),
                    value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
                })
                .collect()
        };
        Self {
            set: encode(&edits.set),
            add: encode(&edits.add),
            remove: edits.remove.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&HttpFilter> for proto::HttpFilter {
    fn from(filter: &HttpFilter) -> Self {
        use proto::http_filter::Kind;
        Self {
            kind: Some(match filter {
                HttpFilter::RequestHeaders(edits) => Kind::RequestHeaders(edits.into()),
                HttpFilter::ResponseHeaders(edits) => Kind::ResponseHeaders(edits.into()),
            }),
        }
    }
}
