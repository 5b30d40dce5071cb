//! What is wrong with an input, where, and what to do about it.

/// How bad a [`Violation`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Accepted, but probably not what was meant.
    Warning,
    /// Refused.
    Error,
}

/// One defect of an input: the field that has it, a stable code, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Violation {
    /// How bad it is.
    pub severity: Severity,
    /// Path of the field as its author wrote it: `spec.rules[0].backendRefs[1].weight`.
    pub field: String,
    /// Stable, for programs. Of a field: `required`, `wrong_type`, `invalid`, `invalid_name`, `invalid_regex`,
    /// `invalid_duration`, `out_of_range`, `too_long`, `too_large`, `too_many`, `duplicate`, `reserved`, `conflict`,
    /// `unknown_field`, `unsupported`, `all_weights_zero`. Of a text: `malformed`. Of several objects together:
    /// `dangling_reference` and others of the control plane.
    pub code: &'static str,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to write instead; empty when the message already says it.
    pub remedy: String,
}

impl Violation {
    /// An error at `field`.
    pub fn error(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            field: field.into(),
            code,
            message: message.into(),
            remedy: String::new(),
        }
    }

    /// A warning at `field`.
    pub fn warning(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(field, code, message) }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The same, seen from one level up: `prefix` + `.` + field.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.field = match (prefix, self.field.as_str()) {
            (_, "") => prefix.to_owned(),
            ("", _) => self.field,
            (_, field) if field.starts_with('[') => format!("{prefix}{field}"),
            (_, field) => format!("{prefix}.{field}"),
        };
        self
    }
}
