//! What the tests of both ends share: a source that is changed by hand. A resource's version is its content.

use std::{collections::BTreeMap, time::Duration};

use super::{
    TYPES,
    server::{Lookup, Session, Source},
};

pub(super) const BUNDLE: &str = TYPES[0].url;
pub(super) const SET: &str = TYPES[1].url;
pub(super) const SERVICE: &str = TYPES[2].url;
pub(super) const CONFIG: &str = TYPES[3].url;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Content(String),
    Mortal(String, Duration),
    Denied,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) revision: u64,
    pub(super) entries: BTreeMap<(&'static str, String), Entry>,
}

impl World {
    /// One more revision; `None` deletes.
    pub(super) fn set(&mut self, url: &'static str, name: &str, entry: Option<Entry>) {
        self.revision += 1;
        match entry {
            Some(entry) => self.entries.insert((url, name.to_owned()), entry),
            None => self.entries.remove(&(url, name.to_owned())),
        };
    }

    pub(super) fn put(&mut self, url: &'static str, name: &str, content: &str) {
        self.set(url, name, Some(Entry::Content(content.to_owned())));
    }

    /// The same, told to a session.
    pub(super) fn tell(&mut self, session: &mut Session, changes: &[(&'static str, &str, Option<&str>)]) {
        let revision = self.revision + 1;
        for (url, name, content) in changes {
            self.set(url, name, content.map(|content| Entry::Content(content.to_owned())));
        }
        self.revision = revision;
        session.on_change(revision, changes.iter().map(|(url, name, _)| (*url, *name)));
    }

    pub(super) fn content(&self, url: &'static str, name: &str) -> Option<&str> {
        match self.entries.get(&(url, name.to_owned()))? {
            Entry::Content(content) | Entry::Mortal(content, _) => Some(content),
            Entry::Denied => None,
        }
    }
}

impl Source for World {
    fn get(&self, type_url: &str, name: &str) -> Lookup<'_> {
        let found = self.entries.iter().find(|((url, own), _)| *url == type_url && own == name);
        match found.map(|(_, entry)| entry) {
            None => Lookup::NotFound,
            Some(Entry::Denied) => Lookup::Denied("not for you"),
            Some(Entry::Content(content)) => {
                Lookup::Found { version: content, content: content.as_bytes(), ttl: None }
            }
            Some(Entry::Mortal(content, ttl)) => {
                Lookup::Found { version: content, content: content.as_bytes(), ttl: Some(*ttl) }
            }
        }
    }

    fn wildcard(&self, type_url: &str) -> Vec<String> {
        self.entries
            .iter()
            .filter(|((url, _), entry)| *url == type_url && **entry != Entry::Denied)
            .map(|((_, name), _)| name.clone())
            .collect()
    }
}
