//! What is wrong with one input, collected while it is walked: the path of the field under inspection, and the
//! violations found so far.

use std::{fmt::Write, str::FromStr, time::Duration};

use crate::model::{InvalidName, Violation};

/// Collects violations with the path of the field they are in, so that one pass reports all of them.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    path: String,
    found: Vec<Violation>,
}

impl Findings {
    /// More than this nobody reads, and a hostile input could fill memory with them.
    const MAX: usize = 100;

    /// What was found, in the order of the input.
    pub(crate) fn into_violations(self) -> Vec<Violation> {
        self.found
    }

    /// How many were found so far: compared before and after, it tells whether a part is sound.
    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }

    /// The path of `field` below the one under inspection; `field` may be empty or start with `[`.
    pub(crate) fn path(&self, field: &str) -> String {
        let mut path = self.path.clone();
        join(&mut path, field);
        path
    }

    /// Records an error at `field` below the path under inspection.
    pub(crate) fn error(
        &mut self,
        field: &str,
        code: &'static str,
        message: impl Into<String>,
        remedy: &str,
    ) {
        if self.found.len() < Self::MAX {
            self.found.push(Violation::error(self.path(field), code, message).remedy(remedy));
        }
    }

    /// Inspects what is at `field` below.
    pub(crate) fn within<T>(&mut self, field: &str, inspect: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.path.len();
        join(&mut self.path, field);
        let result = inspect(self);
        self.path.truncate(before);
        result
    }

    /// Inspects every item of the list `field`; those that could be decoded. At most `max`, the rest is an error.
    pub(crate) fn each<'a, I, T>(
        &mut self,
        field: &str,
        items: &'a [I],
        max: usize,
        mut inspect: impl FnMut(&mut Self, &'a I) -> Option<T>,
    ) -> Vec<T> {
        if items.len() > max {
            let given = items.len();
            self.error(field, "too_many", format!("{given} items are given, at most {max} are allowed"), "");
        }
        let mut step = String::with_capacity(field.len() + 6);
        items
            .iter()
            .take(max)
            .enumerate()
            .filter_map(|(index, item)| {
                step.clear();
                step.push_str(field);
                // Writing into a String cannot fail.
                let _infallible = write!(step, "[{index}]");
                self.within(&step, |findings| inspect(findings, item))
            })
            .collect()
    }

    /// Parses a name of the grammar of `T`; an empty one is `required`.
    pub(crate) fn name<T: FromStr<Err = InvalidName>>(&mut self, field: &str, value: &str) -> Option<T> {
        if value.is_empty() {
            self.error(field, "required", "it is missing", "");
            return None;
        }
        match value.parse() {
            Ok(name) => Some(name),
            Err(invalid) => {
                self.error(field, "invalid_name", invalid.to_string(), "");
                None
            }
        }
    }

    /// The same, where an empty one means that there is none.
    pub(crate) fn optional_name<T: FromStr<Err = InvalidName>>(
        &mut self,
        field: &str,
        value: &str,
    ) -> Option<T> {
        if value.is_empty() { None } else { self.name(field, value) }
    }

    /// A TCP port; 0 is `required`.
    pub(crate) fn port(&mut self, field: &str, value: u32) -> Option<u16> {
        match u16::try_from(value) {
            Ok(0) => self.error(field, "required", "the port is missing", "write a port from 1 to 65535"),
            Ok(port) => return Some(port),
            Err(_) => {
                let message = format!("{value} is not a port");
                self.error(field, "out_of_range", message, "write a port from 1 to 65535");
            }
        }
        None
    }

    /// A number between `min` and `max`.
    pub(crate) fn number(&mut self, field: &str, value: u32, min: u32, max: u32) -> Option<u32> {
        if (min..=max).contains(&value) {
            return Some(value);
        }
        let remedy = format!("write a number from {min} to {max}");
        self.error(field, "out_of_range", format!("{value} is out of range"), &remedy);
        None
    }

    /// A duration between `min` and `max`; `None` when it is absent or wrong.
    pub(crate) fn duration(
        &mut self,
        field: &str,
        value: Option<&prost_types::Duration>,
        min: Duration,
        max: Duration,
    ) -> Option<Duration> {
        let decoded = super::time::decode_duration(value?);
        if let Some(duration) = decoded
            && (min..=max).contains(&duration)
        {
            return Some(duration);
        }
        let message = match decoded {
            Some(duration) => format!("{} is out of range", super::limits::describe(duration)),
            None => "this is not a duration".to_owned(),
        };
        let (min, max) = (super::limits::describe(min), super::limits::describe(max));
        self.error(field, "out_of_range", message, &format!("write a duration from {min} to {max}"));
        None
    }

    /// Records `required` when `value` is absent, and passes it on.
    pub(crate) fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.error(field, "required", "it is missing", "");
        }
        value
    }
}

/// Appends a step to a path: a dot between names, none before an index.
fn join(path: &mut String, field: &str) {
    if !path.is_empty() && !field.is_empty() && !field.starts_with('[') {
        path.push('.');
    }
    path.push_str(field);
}
