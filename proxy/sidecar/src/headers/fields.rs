//! Which fields a head has, of those that the proxy asks for. A head has few fields, and of these next to none: one walk
//! over what is there costs less than the look-ups for what is not, each of which hashes a name.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::is_own;

macro_rules! fields {
    ($($field:ident = $name:literal;)+) => {
        /// A field that the proxy asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Field { $($field,)+ }

        impl Field {
            /// Every one.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$field,)+];

            pub(crate) fn name(self) -> HeaderName {
                match self { $(Self::$field => const { HeaderName::from_static($name) },)+ }
            }

            /// By its name, in lower case.
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$field),)+
                    _ => None,
                }
            }
        }
    };
}

fields! {
    Host = "host";
    ContentType = "content-type";
    ContentLength = "content-length";
    Expect = "expect";
    ProxyAuthorization = "proxy-authorization";
    // Of one connection.
    Connection = "connection";
    KeepAlive = "keep-alive";
    ProxyConnection = "proxy-connection";
    Te = "te";
    TransferEncoding = "transfer-encoding";
    Upgrade = "upgrade";
    // What a request is called.
    RequestId = "x-request-id";
    Traceparent = "traceparent";
    Tracestate = "tracestate";
    // Of the mesh.
    ClientCert = "x-forwarded-client-cert";
    GrpcTimeout = "grpc-timeout";
    Timeout = "outrigger-timeout";
    Hop = "outrigger-hop";
    Version = "outrigger-version";
    Idle = "outrigger-idle";
    Unprocessed = "outrigger-unprocessed";
    Reason = "outrigger-reason";
}

/// Some of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set(u32);

impl Set {
    const NONE: Self = Self(0);
    /// The fields of the mesh's own that have no [`Field`].
    pub(super) const OTHERS_OF_OURS: Self = Self(1 << 31);

    pub(super) const fn of(mut fields: &[Field]) -> Self {
        let mut set = Self::NONE;
        while let [field, rest @ ..] = fields {
            set = set.and(Self::only(*field));
            fields = rest;
        }
        set
    }

    /// Those of either.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `other`.
    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of `other` is in it.
    pub(super) const fn has_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn has(self, field: Field) -> bool {
        self.has_of(Self::only(field))
    }

    const fn only(field: Field) -> Self {
        Self(1 << field as u32)
    }
}

/// A head's fields, with what is known of them. As long as it is there the head cannot be changed, so that what is known
/// stays true: what is to be decided by the fields as they came is decided before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    map: &'a HeaderMap,
    there: Set,
}

impl<'a> Fields<'a> {
    /// Looks at each field once.
    pub(crate) fn of(map: &'a HeaderMap) -> Self {
        let there = map.keys().fold(Set::NONE, |there, name| there.and(class(name.as_str())));
        Self { map, there }
    }

    pub(crate) fn map(self) -> &'a HeaderMap {
        self.map
    }

    pub(crate) fn has(self, field: Field) -> bool {
        self.there.has(field)
    }

    /// Its first value.
    pub(crate) fn get(self, field: Field) -> Option<&'a HeaderValue> {
        if self.has(field) { self.map.get(field.name()) } else { None }
    }

    /// All its values.
    pub(crate) fn all(self, field: Field) -> impl Iterator<Item = &'a HeaderValue> {
        self.has(field).then(|| self.map.get_all(field.name())).into_iter().flatten()
    }

    /// Those of `set` that are there.
    pub(super) fn among(self, set: Set) -> Set {
        Set(self.there.0 & set.0)
    }
}

/// Whether a field is one of [`Set::OTHERS_OF_OURS`].
pub(super) fn is_other_of_ours(name: &HeaderName) -> bool {
    class(name.as_str()) == Set::OTHERS_OF_OURS
}

fn class(name: &str) -> Set {
    match Field::named(name) {
        Some(field) => Set::only(field),
        None if is_own(name) => Set::OTHERS_OF_OURS,
        None => Set::NONE,
    }
}

#[cfg(test)]
mod tests;
