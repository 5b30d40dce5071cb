//! The fields of one map of a document: those that are known, and a finding for each that is not.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    choice::{nearest, one_of},
    duration,
    tree::{Entry, Node, Value},
};
use crate::wire::{Findings, cut, policy::entry, time::encode_duration};

/// The fields that a map may have.
#[derive(Debug)]
pub(super) struct Shape {
    /// Those that are read.
    pub(super) known: &'static [&'static str],
    /// Those that mean something in a later version or in the Gateway API: refused by name, never ignored.
    pub(super) elsewhere: &'static [&'static str],
}

/// Paths that the document already spoke of; what the decoder says about them would be an echo.
#[derive(Debug, Default)]
pub(super) struct Spoken(RefCell<Vec<String>>);

impl Spoken {
    /// Remembers a field that was probably meant by a misspelt one.
    fn meant(&self, path: String) {
        self.0.borrow_mut().push(path);
    }

    pub(super) fn into_paths(self) -> Vec<String> {
        self.0.into_inner()
    }
}

/// What is written in one map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'t>(&'t [Entry]);

impl<'t> Fields<'t> {
    /// Opens the map `node`; every field that `shape` does not know is a finding.
    pub(super) fn open(
        findings: &mut Findings,
        spoken: &Spoken,
        node: &'t Node,
        shape: &Shape,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            mismatch(findings, "", "a map of fields", node);
            return None;
        };
        for Entry { key, .. } in entries {
            let name = key.as_str();
            if shape.known.contains(&name) {
                continue;
            }
            let field = entry("", key);
            if shape.elsewhere.contains(&name) {
                let message = format!("'{name}' is not supported by this version");
                findings.error(&field, "unsupported", message, "leave it out");
                continue;
            }
            let remedy = match nearest(name, shape.known) {
                Some(meant) => {
                    spoken.meant(findings.path(meant));
                    format!("did you mean '{meant}'?")
                }
                None => format!("known here: {}", one_of(shape.known).replace(" or ", ", ")),
            };
            findings.error(
                &field,
                "unknown_field",
                format!("there is no field '{}' here", cut(name)),
                &remedy,
            );
        }
        Some(Self(entries))
    }

    /// What is written at `name`; nothing written, or `null`: `None`.
    pub(super) fn get(&self, name: &str) -> Option<&'t Node> {
        let field = self.0.iter().find(|field| field.key == name)?;
        if matches!(field.node.value, Value::Null) { None } else { Some(&field.node) }
    }

    /// A text; empty when there is none.
    pub(super) fn text(&self, findings: &mut Findings, name: &str) -> String {
        self.get(name).map_or_else(String::new, |node| text(findings, name, node))
    }

    /// A number; `None` when there is none.
    pub(super) fn number(&self, findings: &mut Findings, name: &str) -> Option<u32> {
        number(findings, name, self.get(name)?)
    }

    /// A truth value; `None` when there is none.
    pub(super) fn truth(&self, findings: &mut Findings, name: &str) -> Option<bool> {
        let node = self.get(name)?;
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        // What YAML 1.1 and people mean by them.
        let remedy = match &node.value {
            Value::Text(text) if is_one_of(text, &["true", "yes", "y", "on"]) => "write true, without quotes",
            Value::Text(text) if is_one_of(text, &["false", "no", "n", "off"]) => {
                "write false, without quotes"
            }
            _ => "write true or false",
        };
        let message = format!("true or false is needed, this is {}", node.describe());
        findings.error(name, "wrong_type", message, remedy);
        None
    }

    /// A revision of the store; 0 when there is none.
    pub(super) fn revision(&self, findings: &mut Findings, name: &str) -> u64 {
        let Some(node) = self.get(name) else {
            return 0;
        };
        if let Value::Integer(value) = node.value
            && let Ok(revision) = u64::try_from(value)
        {
            return revision;
        }
        mismatch(findings, name, "a revision, as `outrigger get` shows it", node);
        0
    }

    /// A port; 0 when there is none, which the decoder knows how to judge.
    pub(super) fn port(&self, findings: &mut Findings, name: &str) -> u32 {
        let port = self.number(findings, name);
        if port == Some(0) {
            findings.error(name, "out_of_range", "0 is not a port", "write a port from 1 to 65535");
        }
        port.unwrap_or_default()
    }

    /// A duration; `None` when there is none.
    pub(super) fn duration(&self, findings: &mut Findings, name: &str) -> Option<prost_types::Duration> {
        const REMEDY: &str = "write it like 1s, 250ms or 1h30m";
        let node = self.get(name)?;
        let message = match &node.value {
            Value::Text(text) => match duration::parse(text) {
                Ok(duration) => return Some(encode_duration(duration)),
                Err(_) => format!("'{}' is not a duration", cut(text)),
            },
            Value::Integer(number) => format!("{number} has no unit"),
            _ => {
                mismatch(findings, name, "a duration", node);
                return None;
            }
        };
        findings.error(name, "invalid_duration", message, REMEDY);
        None
    }

    /// A list; each item stays in its place, whether it could be read or not. Empty when there is none.
    pub(super) fn list<T>(
        &self,
        findings: &mut Findings,
        name: &str,
        mut read: impl FnMut(&mut Findings, &'t Node) -> T,
    ) -> Vec<T> {
        match self.get(name).map(|node| (node, &node.value)) {
            None => Vec::new(),
            Some((_, Value::List(items))) => {
                findings.each(name, items, usize::MAX, |findings, item| Some(read(findings, item)))
            }
            Some((node, _)) => {
                mismatch(findings, name, "a list", node);
                Vec::new()
            }
        }
    }

    /// A map of fields, if there is one.
    pub(super) fn map<T>(
        &self,
        findings: &mut Findings,
        spoken: &Spoken,
        (name, shape): (&str, &Shape),
        read: impl FnOnce(&mut Findings, Fields<'t>) -> T,
    ) -> Option<T> {
        let node = self.get(name)?;
        findings.within(name, |findings| {
            let fields = Fields::open(findings, spoken, node, shape)?;
            Some(read(findings, fields))
        })
    }

    /// A map of texts with keys of the author's own; empty when there is none.
    pub(super) fn texts(&self, findings: &mut Findings, name: &str) -> BTreeMap<String, String> {
        let Some(node) = self.get(name) else {
            return BTreeMap::new();
        };
        let Value::Map(entries) = &node.value else {
            mismatch(findings, name, "a map of texts", node);
            return BTreeMap::new();
        };
        entries
            .iter()
            .map(|Entry { key, node, .. }| (key.clone(), text(findings, &entry(name, key), node)))
            .collect()
    }
}

/// A text. Numbers and truth values are not guessed to be one: YAML would change `1.10` to `1.1`.
pub(super) fn text(findings: &mut Findings, field: &str, node: &Node) -> String {
    match &node.value {
        Value::Text(text) => return text.clone(),
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
            let message = format!("a text is needed, this is {}", node.describe());
            findings.error(field, "wrong_type", message, "write it in quotes");
        }
        _ => mismatch(findings, field, "a text", node),
    }
    String::new()
}

/// A number.
pub(super) fn number(findings: &mut Findings, field: &str, node: &Node) -> Option<u32> {
    match &node.value {
        Value::Integer(value) => {
            if let Ok(value) = u32::try_from(*value) {
                return Some(value);
            }
            let remedy = if *value < 0 { "write 0 or more" } else { "write a smaller number" };
            findings.error(field, "out_of_range", format!("{value} is out of range"), remedy);
        }
        Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
            let remedy = format!("write {} without quotes", cut(text));
            findings.error(field, "wrong_type", "this is a text, a number is needed", &remedy);
        }
        _ => mismatch(findings, field, "a whole number", node),
    }
    None
}

fn is_one_of(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn mismatch(findings: &mut Findings, field: &str, needed: &str, node: &Node) {
    let message = format!("{needed} is needed, this is {}", node.describe());
    findings.error(field, "wrong_type", message, "");
}
