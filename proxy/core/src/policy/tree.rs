//! Text to trees of plain values, each with its place in the text. The reader is bounded: length of the text, depth,
//! number of documents, and what anchors and aliases may unfold to.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Options, Spanned};

use super::{MAX_DOCUMENTS, MAX_TEXT};
use crate::{model::Violation, wire::policy::entry};

const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 65_536;
const MAX_ALIASES: usize = 256;
const MAX_ALIAS_DEPTH: usize = 8;

/// A place in the text, from 1; 0: unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl Place {
    pub(super) const UNKNOWN: Self = Self { line: 0, column: 0 };
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    place: Place,
}

/// What a document consists of.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One field of a map.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    place: Place,
    pub(super) node: Node,
}

impl Node {
    /// Where it begins.
    pub(super) fn begin(&self) -> Place {
        self.place
    }

    /// The place of the field at `path`, or of the nearest one above that was written.
    pub(super) fn find(&self, path: &str) -> Place {
        self.find_from(self.place, path)
    }

    fn find_from(&self, place: Place, path: &str) -> Place {
        let path = path.strip_prefix('.').unwrap_or(path);
        match &self.value {
            Value::List(items) => items.iter().enumerate().find_map(|(index, item)| {
                let rest = path.strip_prefix(&format!("[{index}]"))?;
                Some(item.find_from(item.place, rest))
            }),
            Value::Map(entries) => entries.iter().find_map(|field| {
                let rest =
                    path.strip_prefix(&field.key).or_else(|| path.strip_prefix(&entry("", &field.key)))?;
                let whole = rest.is_empty() || rest.starts_with(['.', '[']);
                whole.then(|| field.node.find_from(field.place, rest))
            }),
            _ => None,
        }
        .unwrap_or(place)
    }

    /// What it is, for a message: "a list", "the text 'x'".
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("the truth value {value}"),
            Value::Integer(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Text(value) => format!("the text '{}'", crate::wire::cut(value)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// The documents of `text` that are not empty. After one that cannot be read come those in which the reader finds its
/// way again.
pub(super) fn read(text: &str) -> Vec<Result<Node, (Place, Violation)>> {
    if text.len() > MAX_TEXT {
        let message = format!("the text has {} bytes, at most {MAX_TEXT} are read", text.len());
        let violation = Violation::error("", "too_large", message).remedy("apply it in several steps");
        return vec![Err((Place::UNKNOWN, violation))];
    }
    let yaml = read_yaml(text);
    let begin = text.trim_start();
    if yaml.iter().any(Result::is_err)
        && begin.starts_with('{')
        && let Some(json) = read_json(begin)
    {
        // JSON that YAML lacks: escapes of two halves, objects in a row.
        return json.into_iter().map(Ok).collect();
    }
    yaml
}

fn read_yaml(text: &str) -> Vec<Result<Node, (Place, Violation)>> {
    let mut reader = text.as_bytes();
    let mut nodes = Vec::new();
    for node in serde_saphyr::read_with_options::<_, Located>(&mut reader, options()) {
        if nodes.len() == MAX_DOCUMENTS {
            let message = format!("at most {MAX_DOCUMENTS} documents are read at once");
            let violation = Violation::error("", "too_many", message).remedy("apply them in several steps");
            nodes.push(Err((Place::UNKNOWN, violation)));
            break;
        }
        nodes.push(node.map(|located| located.0).map_err(|error| refused(&error)));
    }
    nodes
}

fn read_json(text: &str) -> Option<Vec<Node>> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Plain>()
        .take(MAX_DOCUMENTS)
        .map(|node| node.map(|plain| plain.0).ok())
        .collect()
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            // Its length is known already.
            max_reader_input_bytes: None,
            max_events: 4 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_total_scalar_bytes: 2 * MAX_TEXT,
            max_recorded_anchor_events: MAX_NODES,
            max_recorded_anchor_bytes: 2 * MAX_TEXT,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: MAX_ALIAS_DEPTH,
            max_alias_expansions_per_anchor: MAX_ALIASES,
        },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn refused(error: &serde_saphyr::Error) -> (Place, Violation) {
    use serde_saphyr::Error;
    let place = error.location().map_or(Place::UNKNOWN, Place::from);
    let malformed = |code, message: String, remedy: &str| Violation::error("", code, message).remedy(remedy);
    let mut cause = error;
    while let Error::AliasError { error, .. } | Error::WithSnippet { error, .. } = cause {
        cause = error;
    }
    let violation = match cause {
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("a key");
            malformed("duplicate", format!("'{}' is given twice", crate::wire::cut(key)), "write it once")
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => malformed(
            "too_large",
            "the document is too large, too deep, or its aliases unfold to too much".to_owned(),
            "write it without aliases, or in several documents",
        ),
        _ => {
            let text = message(error);
            let remedy = remedy(&text);
            malformed("malformed", format!("this is not well-formed: {text}"), remedy)
        }
    };
    (place, violation)
}

/// The reader's own words, without the place, which is told apart.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.render();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let line = match line.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((_, rest)) => rest,
        None => line.split(" at line ").next().unwrap_or(line),
    };
    crate::wire::cut(line)
}

/// What mends most of what the reader complains of in these words.
fn remedy(message: &str) -> &'static str {
    let message = message.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if any(&["tab"]) {
        "indent with spaces"
    } else if any(&["mapping values are not allowed", "block mapping", "block collection", "indent"]) {
        "check the indentation here, and put a text that contains ': ' in quotes"
    } else if any(&["flow", "unclosed", "unexpected end", "eof"]) {
        "close every '[', '{' and quote"
    } else if any(&["anchor", "alias"]) {
        "put a text that begins with '*' or '&' in quotes"
    } else if any(&["tag"]) {
        "put a text that begins with '!' in quotes"
    } else {
        "check the indentation, the quotes and the brackets around this place"
    }
}

/// How children are read: with their places, or without.
trait Source {
    type Key: DeserializeOwned + Into<(String, Place)>;
    type Node: DeserializeOwned + Into<Node>;
}

struct Yaml;
struct Json;

struct Located(Node);
struct Plain(Node);
struct LocatedKey(Spanned<String>);
struct PlainKey(String);

impl Source for Yaml {
    type Key = LocatedKey;
    type Node = Located;
}

impl Source for Json {
    type Key = PlainKey;
    type Node = Plain;
}

impl From<Located> for Node {
    fn from(node: Located) -> Self {
        node.0
    }
}

impl From<Plain> for Node {
    fn from(node: Plain) -> Self {
        node.0
    }
}

impl From<LocatedKey> for (String, Place) {
    fn from(key: LocatedKey) -> Self {
        (key.0.value, key.0.referenced.into())
    }
}

impl From<PlainKey> for (String, Place) {
    fn from(key: PlainKey) -> Self {
        (key.0, Place::UNKNOWN)
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Bare<Yaml>>::deserialize(deserializer)?;
        Ok(Self(Node { value: spanned.value.0, place: spanned.referenced.into() }))
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Node { value: Bare::<Json>::deserialize(deserializer)?.0, place: Place::UNKNOWN }))
    }
}

impl<'de> Deserialize<'de> for LocatedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for PlainKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A value whose own place is known to its reader.
struct Bare<S>(Value, PhantomData<S>);

impl<'de, S: Source> Deserialize<'de> for Bare<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values::<S>(PhantomData)).map(|value| Self(value, PhantomData))
    }
}

struct Values<S>(PhantomData<S>);

impl<'de, S: Source> Visitor<'de> for Values<S> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // Nothing here is counted that far: any number beyond is out of range all the same.
        Ok(Value::Integer(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<S::Node>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map: Vec<Entry> = Vec::new();
        let mut keys = std::collections::HashSet::new();
        while let Some((key, node)) = fields.next_entry::<S::Key, S::Node>()? {
            let (key, place) = key.into();
            if !keys.insert(key.clone()) {
                return Err(de::Error::custom(format_args!("'{}' is given twice", crate::wire::cut(&key))));
            }
            map.push(Entry { key, place, node: node.into() });
        }
        Ok(Value::Map(map))
    }
}
