//! Where things are kept: every key of the store is built here.

use std::fmt;

use outrigger_core::model::{Name, ObjectRef};

const AUTHORITY: &str = "authority/";

/// The name of one value in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// An object that an operator wrote.
    pub fn object(object: &ObjectRef) -> Self {
        let namespace = object.namespace.as_ref().map_or("", Name::as_str);
        Self(format!("object/{}/{namespace}/{}", object.kind.as_str(), object.name))
    }

    /// A registered workload.
    pub fn workload(namespace: &Name, id: &Name) -> Self {
        Self(format!("workload/{namespace}/{id}"))
    }

    /// A join token.
    pub fn token(id: &str) -> Self {
        Self(format!("token/{id}"))
    }

    /// What an operator may do.
    pub fn role(operator: &Name) -> Self {
        Self(format!("role/{operator}"))
    }

    /// A fact about the authority that its files must agree with.
    pub fn authority(fact: &'static str) -> Self {
        Self(format!("{AUTHORITY}{fact}"))
    }

    /// Whether it is one of those.
    pub(super) fn is_authority(&self) -> bool {
        self.0.starts_with(AUTHORITY)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it belongs to `keyspace`.
    pub(super) fn is_in(&self, keyspace: Keyspace) -> bool {
        self.0.starts_with(keyspace.prefix())
    }

    pub(super) fn from_stored(key: &str) -> Self {
        Self(key.to_owned())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A family of keys, to be listed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyspace {
    /// [`Key::object`].
    Objects,
    /// [`Key::workload`].
    Workloads,
    /// [`Key::token`].
    Tokens,
    /// [`Key::role`].
    Roles,
}

impl Keyspace {
    /// What all its keys start with; ends with `/`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Objects => "object/",
            Self::Workloads => "workload/",
            Self::Tokens => "token/",
            Self::Roles => "role/",
        }
    }

    /// The first key after all of them: `0` follows `/`.
    pub(super) fn end(self) -> String {
        let prefix = self.prefix();
        format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix))
    }
}
