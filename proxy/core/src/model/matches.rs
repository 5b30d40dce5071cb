//! Conditions on a request and edits of its headers, in the shape of the Gateway API's HTTPRoute.

use http::{HeaderName, HeaderValue, Method};

/// A regular expression anchored at both ends, compiled with a bounded size. Equal when its source is.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: regex::Regex,
}

impl Pattern {
    /// Size limit of a compiled expression, bytes: a proxy holds those of every route it uses.
    pub const MAX_COMPILED: usize = 1 << 18;

    /// Compiles `source`, to match a whole value.
    ///
    /// # Errors
    /// The expression's own error when it is malformed or compiles to more than [`Self::MAX_COMPILED`].
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        // On its own first: "a)(b" must not become well-formed by the anchors around it.
        regex::RegexBuilder::new(source).size_limit(Self::MAX_COMPILED).build()?;
        let regex =
            regex::RegexBuilder::new(&format!("^(?:{source})$")).size_limit(Self::MAX_COMPILED).build()?;
        Ok(Self { source: source.to_owned(), regex })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it matches the whole of `value`.
    pub fn is_match(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

/// Condition on the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path, byte for byte.
    Exact(String),
    /// Whole segments: `/v1` matches `/v1` and `/v1/x`, not `/v1x`. A trailing `/` is not significant.
    Prefix(String),
    /// The whole path.
    Regex(Pattern),
}

/// Condition on a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(String),
    /// The whole value.
    Regex(Pattern),
}

/// Condition on a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Which.
    pub name: HeaderName,
    /// Several values of one header are joined with `,` first (RFC 9110 §5.3).
    pub value: ValueMatch,
}

/// Condition on a query parameter; the first one of that name counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    /// Byte for byte, before decoding.
    pub name: String,
    /// On the raw value, before decoding.
    pub value: ValueMatch,
}

/// All conditions must hold; none: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// Condition on the path.
    pub path: Option<PathMatch>,
    /// Condition on the method.
    pub method: Option<Method>,
    /// Conditions on headers, each name once.
    pub headers: Vec<HeaderMatch>,
    /// Conditions on query parameters, each name once.
    pub query_params: Vec<QueryMatch>,
}

/// Edits of a head, applied in the order set, add, remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderMutation {
    /// Replaces all values.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appends a value.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes all values.
    pub remove: Vec<HeaderName>,
}

/// What a rule does to a request or its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpFilter {
    /// Edits the request's head before it is sent on.
    RequestHeaders(HeaderMutation),
    /// Edits the response's head before it is delivered.
    ResponseHeaders(HeaderMutation),
}
