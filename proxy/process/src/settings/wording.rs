//! What a person is told of a value that a type does not take: serde speaks of Rust's types, and nobody writes those.

use figment::{
    Error as Found,
    error::{Actual, Kind},
    value::Value,
};

use super::{Defect, address};

/// What `value` should have been, and was not.
pub(super) fn describe(path: &[String], found: &Found, value: Option<&Value>) -> Defect {
    let key = path.join(".");
    match &found.kind {
        Kind::UnknownField(field, known) => {
            Defect::new(key, "there is no such setting", alternatives(field, known))
        }
        Kind::UnknownVariant(given, variants) => {
            let problem = match given.as_str() {
                A_LIST | A_TABLE => format!("found {given}"),
                given => format!("'{given}' is not one of its values"),
            };
            let known = format!("known: {}", variants.join(", "));
            let remedy = nearest(given, variants)
                .map_or_else(|| known.clone(), |near| format!("did you mean '{near}'? {known}"));
            Defect::new(key, problem, remedy)
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let remedy = format!("write {}", in_words(&expected.to_string(), &key));
            Defect::new(key, format!("found {}", given(actual)), remedy)
        }
        kind => {
            // An address that is none is told no more of than that.
            let address = value.and_then(Value::as_str).and_then(|text| address::parse(text).err());
            match (kind, address) {
                (Kind::Message(message), Some(error)) if message == NO_ADDRESS => {
                    let text = error.to_string();
                    let (problem, remedy) = text.split_once("; ").unwrap_or((&text, ""));
                    Defect::new(key, problem, remedy)
                }
                (kind, _) => Defect::new(key, kind.to_string(), ""),
            }
        }
    }
}

/// What stands for a list, and for a table.
const A_LIST: &str = "a list";
const A_TABLE: &str = "a table";

/// A section that is written as a list: serde would take its settings from that, in their order.
pub(super) fn no_section(path: &[String]) -> Defect {
    let key = path.join(".");
    let remedy = format!("write {}", section(&key));
    Defect::new(key, format!("found {A_LIST}"), remedy)
}

fn section(key: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or_default();
    format!("a section [{key}]: this line, and its settings below it; or {last}.SETTING = ...")
}

/// What the standard library says of every address that it cannot read.
const NO_ADDRESS: &str = "invalid socket address syntax";

/// Whether one of a few words was wanted, and what was found is no text: as a text, it is told which words there are.
pub(super) fn is_of_choice(found: &Found) -> bool {
    matches!(&found.kind, Kind::InvalidType(_, expected) if expected.to_string().starts_with("enum "))
}

/// A number or a truth value, as it was written; what no value of a choice is like, by its name.
pub(super) fn bare(value: &Value) -> Option<String> {
    match value {
        Value::Bool(_, truth) => Some(truth.to_string()),
        Value::Num(_, number) => Some(given(&number.to_actual())),
        Value::Char(_, letter) => Some(letter.to_string()),
        Value::Array(..) => Some(A_LIST.to_owned()),
        Value::Dict(..) => Some(A_TABLE.to_owned()),
        _ => None,
    }
}

/// A type of Rust's, in words.
fn in_words(expected: &str, key: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" => "a whole number, without quotes and not below 0".to_owned(),
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => {
            "a whole number, 1 or more".to_owned()
        }
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false, without quotes".to_owned(),
        "a string" | "string" => "a text, in quotes".to_owned(),
        "path string" => "a path, in quotes".to_owned(),
        "socket address" => "an IP address and a port in quotes, such as \"127.0.0.1:17001\"".to_owned(),
        _ if expected.starts_with("struct ") => section(key),
        _ => expected.to_owned(),
    }
}

fn given(actual: &Actual) -> String {
    match actual {
        Actual::Bool(truth) => truth.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Char(letter) => format!("'{letter}'"),
        Actual::Str(text) => format!("'{text}'"),
        Actual::Seq => A_LIST.to_owned(),
        Actual::Map => A_TABLE.to_owned(),
        other => other.to_string(),
    }
}

fn alternatives(given: &str, known: &[&str]) -> String {
    match nearest(given, known) {
        Some(near) => format!("did you mean '{near}'?"),
        None if known.is_empty() => "there are none here".to_owned(),
        None => format!("known: {}", known.join(", ")),
    }
}

/// What `given` was probably meant to be: it has something in common with it, and differs in two letters at most.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().min_by_key(|candidate| distance(given, candidate))?;
    let apart = distance(given, near);
    (apart <= 2 && apart < near.chars().count()).then_some(near)
}

/// Levenshtein's.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (above, from) in left.chars().enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(right.chars()) {
            let cost = (diagonal + usize::from(from != to)).min(before + 1).min(*cell + 1);
            diagonal = *cell;
            before = cost;
            *cell = cost;
        }
    }
    row.last().copied().unwrap_or_default()
}
