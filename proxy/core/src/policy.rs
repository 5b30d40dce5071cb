//! Operators' documents: YAML or JSON in the shape that Kubernetes users write, to validated objects and back.
//!
//! A document is read into the message of the API and then decoded by [`crate::wire::policy`], so that a file and a
//! call are held to one set of rules. Everything that is wrong with all documents is reported at once, each finding
//! with its line, the path as its author wrote it, and what to write instead. Nothing is ignored: a field that is
//! unknown, or known elsewhere but not supported here, is refused.

mod choice;
pub mod duration;
mod fields;
mod mesh_config;
mod object;
mod render;
mod route;
mod service;
mod traffic_policy;
mod tree;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

pub use render::{to_json, to_yaml};

use crate::model::{Object, ObjectRef, Violation};

/// The `apiVersion` of every document.
pub const API_VERSION: &str = "outrigger.dev/v1alpha1";
/// Longest text that [`parse`] reads, bytes.
pub const MAX_TEXT: usize = 1 << 20;
/// Most documents in one text.
pub const MAX_DOCUMENTS: usize = 64;

/// One object, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What was written.
    pub object: Object,
    /// Its place among the documents that are not empty, from 0.
    pub index: usize,
    /// Where it begins, from 1; 0: unknown, as in JSON that is not YAML.
    pub line: u64,
}

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DocumentError {
    /// Which document, from 0.
    pub index: usize,
    /// From 1; 0: unknown.
    pub line: u64,
    /// From 1; 0: unknown.
    pub column: u64,
    /// What is wrong there.
    pub violation: Violation,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.index.saturating_add(1))?;
        if self.line > 0 {
            write!(f, ", line {}, column {}", self.line, self.column)?;
        }
        write!(f, ": ")?;
        match self.violation.field.as_str() {
            "" => write!(f, "{}", self.violation.message)?,
            _ => write!(f, "{}", self.violation)?,
        }
        match self.violation.remedy.as_str() {
            "" => Ok(()),
            remedy => write!(f, "; {remedy}"),
        }
    }
}

impl DocumentError {
    fn new(index: usize, place: tree::Place, violation: Violation) -> Self {
        Self { index, line: place.line, column: place.column, violation }
    }
}

/// Reads all documents of `text`: YAML with `---` between them, or JSON.
///
/// # Errors
/// Everything that is wrong with any of them, in the order of the text, at least one.
pub fn parse(text: &str) -> Result<Vec<Document>, Vec<DocumentError>> {
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    let mut first: BTreeMap<ObjectRef, usize> = BTreeMap::new();
    for (index, root) in tree::read(text).into_iter().enumerate() {
        let root = match root {
            Ok(root) => root,
            Err((place, violation)) => {
                errors.push(DocumentError::new(index, place, violation));
                continue;
            }
        };
        match object::read(&root) {
            Ok(object) => {
                let reference = object.reference();
                if let Some(before) = first.get(&reference) {
                    let message = format!("{reference} is also document {}", before.saturating_add(1));
                    let violation = Violation::error("metadata.name", "duplicate", message)
                        .remedy("write each object once");
                    errors.push(DocumentError::new(index, root.find("metadata.name"), violation));
                } else {
                    first.insert(reference, index);
                }
                documents.push(Document { object, index, line: root.begin().line });
            }
            Err(violations) => errors.extend(
                violations
                    .into_iter()
                    .map(|violation| DocumentError::new(index, root.find(&violation.field), violation)),
            ),
        }
    }
    if documents.is_empty() && errors.is_empty() {
        let violation = Violation::error("", "required", "there is no document")
            .remedy("write at least one object, with apiVersion, kind, metadata and spec");
        errors.push(DocumentError::new(0, tree::Place::UNKNOWN, violation));
    }
    if errors.is_empty() { Ok(documents) } else { Err(errors) }
}
