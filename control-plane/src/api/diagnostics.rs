//! Refusals that say what is wrong, where, and what to do: a list of diagnostics in the details of the status.

use outrigger_core::{
    model::{ObjectRef, Violation},
    wire,
};
use outrigger_proto::{google::rpc, policy::v1alpha1 as proto, type_url};
use prost::Message;
use tonic::{Code, Status};

/// Most diagnostics that one answer carries: a status travels in a header.
const MAX: usize = 30;
/// Longest place that a caller may give, characters: it is in the answer and in the audit record.
const MAX_SOURCE: usize = 256;
/// Most bytes of them.
const MAX_BYTES: usize = 6 * 1024;

/// `violation` as said about `object`; `source` is where the caller found it.
pub fn diagnostic(violation: &Violation, object: Option<&ObjectRef>, source: &str) -> proto::Diagnostic {
    let mut diagnostic = wire::policy::diagnostic(violation, object);
    if !source.is_empty() {
        let source: String = source.chars().take(MAX_SOURCE).collect();
        diagnostic.message = format!("{} ({source})", diagnostic.message);
    }
    diagnostic
}

/// The status that carries `diagnostics`, as many as fit. Its message is the first of them, for callers that read no
/// details.
pub fn status(code: Code, diagnostics: Vec<proto::Diagnostic>) -> Status {
    let count = diagnostics.len();
    let message = match diagnostics.first() {
        Some(first) => summary(first, count),
        None => "the request is refused".to_owned(),
    };
    let mut bytes = 0;
    let fitting = diagnostics.into_iter().take(MAX).take_while(|diagnostic| {
        bytes += diagnostic.encoded_len();
        bytes <= MAX_BYTES
    });
    let details = proto::Diagnostics { diagnostics: fitting.collect() };
    let any = prost_types::Any { type_url: type_url::DIAGNOSTICS.to_owned(), value: details.encode_to_vec() };
    let rich = rpc::Status { code: code.into(), message: message.clone(), details: vec![any] };
    Status::with_details(code, message, rich.encode_to_vec().into())
}

fn summary(first: &proto::Diagnostic, count: usize) -> String {
    let mut text = String::new();
    if let Some(object) = &first.r#ref {
        let namespace =
            if object.namespace.is_empty() { String::new() } else { format!("{}/", object.namespace) };
        let kind = wire::policy::kind(object.kind).map_or("object", outrigger_core::model::Kind::as_str);
        text.push_str(&format!("{kind} {namespace}{}: ", object.name));
    }
    if !first.field.is_empty() {
        text.push_str(&format!("{}: ", first.field));
    }
    text.push_str(&first.message);
    if !first.remedy.is_empty() {
        text.push_str(&format!("; {}", first.remedy));
    }
    if count > 1 {
        text.push_str(&format!(" (and {} more)", count - 1));
    }
    text
}
