//! The proxy's end: what is subscribed to, which versions are held, and the verdict on each response. One [`Client`]
//! lives through all streams of a process.
//!
//! The caller validates, keeps the content and builds snapshots; this keeps the books, so that a reconnect asks for what
//! is missing and nothing else. Every response is answered at once: an ACK means *valid and queued*, not *applied*.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use outrigger_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource},
    google::rpc::Status,
    mesh::v1alpha1::{RejectedResource, RejectedResources},
    type_url,
};
use prost::Message as _;
use prost_types::Any;

use super::{ResourceType, WILDCARD, code, cut};
use crate::model::Violation;

/// A change of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update<T> {
    /// It is this now.
    Set {
        /// Its name.
        name: String,
        /// Hash of its content.
        version: String,
        /// What validation made of it.
        value: T,
    },
    /// There is none (any more).
    Absent {
        /// Its name.
        name: String,
        /// Why.
        cause: Absence,
    },
}

impl<T> Update<T> {
    /// Whom it is about.
    pub fn name(&self) -> &str {
        match self {
            Self::Set { name, .. } | Self::Absent { name, .. } => name,
        }
    }
}

/// Why a resource is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// The server took it away.
    Removed,
    /// The server has none of this name; it sends it once it has.
    NotFound(String),
    /// Not for this node.
    Denied(String),
    /// Its time to live passed.
    Expired,
}

/// What came of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Received<T> {
    /// In the order of the response. What was rejected is not among them: the last good one stays.
    pub updates: Vec<Update<T>>,
    /// What was rejected; not empty means that `request` is a NACK.
    pub rejected: Vec<RejectedResource>,
    /// To be sent.
    pub request: DeltaDiscoveryRequest,
}

/// A proxy's books, over all its streams.
#[derive(Debug)]
pub struct Client {
    node: Node,
    connected: bool,
    /// The first request of a stream names the node.
    introduced: bool,
    types: Vec<Books>,
}

/// One type's.
#[derive(Debug)]
struct Books {
    kind: ResourceType,
    /// A request of this type was sent on this stream.
    started: bool,
    /// A response was received, on any stream.
    synced: bool,
    /// By name, whether it was ever answered.
    names: BTreeMap<String, bool>,
    /// Accepted, so never a version that was rejected (rule 2).
    versions: BTreeMap<String, String>,
    /// Rule 10.
    expiries: BTreeMap<String, Instant>,
}

impl Client {
    /// Books of `types`, nothing subscribed but the wildcards.
    pub fn new(node: Node, types: &[ResourceType]) -> Self {
        Self {
            node,
            connected: false,
            introduced: false,
            types: types.iter().copied().map(Books::new).collect(),
        }
    }

    /// A stream is open: its first requests, one for each type that is subscribed to. A type without names is left out
    /// until it has one, since an empty first request would mean all (rule 8).
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.disconnect();
        self.connected = true;
        let requests: Vec<_> = self.types.iter_mut().filter_map(Books::first_request).collect();
        requests.into_iter().map(|request| self.introduce(request)).collect()
    }

    /// The stream is gone. What is held stays held.
    pub fn disconnect(&mut self) {
        self.connected = false;
        self.introduced = false;
        for books in &mut self.types {
            books.started = false;
        }
    }

    /// Subscribes to a name; the request to send, if one is due.
    pub fn subscribe(&mut self, type_url: &str, name: &str) -> Option<DeltaDiscoveryRequest> {
        self.change(type_url, [name], [])
    }

    /// Gives a name up and forgets what was held of it; the request to send, if one is due.
    pub fn unsubscribe(&mut self, type_url: &str, name: &str) -> Option<DeltaDiscoveryRequest> {
        self.change(type_url, [], [name])
    }

    /// Takes over what an earlier process accepted: subscribes to `name`, and claims `version` on the next stream, as
    /// after a reconnect (rule 4). Before the first stream only.
    pub fn restore(&mut self, type_url: &str, name: &str, version: &str) {
        let Some(books) = self.types.iter_mut().find(|books| books.kind.url == type_url) else { return };
        if !books.kind.wildcard {
            books.names.insert(name.to_owned(), true);
        }
        books.versions.insert(name.to_owned(), version.to_owned());
    }

    /// Subscribes to and gives up several names with one request. `None` when nothing changes, without a stream (the
    /// next one begins with it), and for a type that has a wildcard or is unknown.
    pub fn change<'a>(
        &mut self,
        type_url: &str,
        subscribe: impl IntoIterator<Item = &'a str>,
        unsubscribe: impl IntoIterator<Item = &'a str>,
    ) -> Option<DeltaDiscoveryRequest> {
        let books = self.types.iter_mut().find(|books| books.kind.url == type_url && !books.kind.wildcard)?;
        let mut request =
            DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..DeltaDiscoveryRequest::default() };
        for name in subscribe {
            if !books.names.contains_key(name) {
                books.names.insert(name.to_owned(), false);
                request.resource_names_subscribe.push(name.to_owned());
            }
        }
        for name in unsubscribe {
            if books.names.remove(name).is_some() {
                books.forget(name);
                request.resource_names_unsubscribe.push(name.to_owned());
            }
        }
        if !self.connected {
            return None;
        }
        if !books.started {
            let request = books.first_request()?;
            return Some(self.introduce(request));
        }
        // A name in both lists ends up unsubscribed; the server sees it the same way.
        let changed =
            !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        changed.then_some(request)
    }

    /// Judges a response, resource by resource (rule 3). `validate` gets name and content of each one that is subscribed
    /// to; its error becomes part of the NACK.
    pub fn on_response<T>(
        &mut self,
        response: DeltaDiscoveryResponse,
        now: Instant,
        mut validate: impl FnMut(&str, &Any) -> Result<T, Violation>,
    ) -> Received<T> {
        let mut received = Received {
            updates: Vec::new(),
            rejected: Vec::new(),
            request: DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            },
        };
        let Some(books) = self.types.iter_mut().find(|books| books.kind.url == response.type_url) else {
            received.request.error_detail = Some(Status {
                code: code::INVALID_ARGUMENT,
                message: "this type was not asked for".to_owned(),
                details: Vec::new(),
            });
            return received;
        };
        books.synced = true;
        let twice = names_given_twice(&response.resources, &response.removed_resources);
        for resource in response.resources {
            if !books.wants(&resource.name) {
                // Given up while it was on its way.
                continue;
            }
            let name = resource.name.clone();
            let version = resource.version.clone();
            let verdict = if twice.contains(&name) {
                Err(Violation::error("", "duplicate", "the name occurs twice in one response"))
            } else {
                books.take(resource, now, &mut validate)
            };
            match verdict {
                Ok(Some(value)) => received.updates.push(Update::Set { name, version, value }),
                Ok(None) => {}
                Err(violation) => received.rejected.push(rejection(name, version, &violation)),
            }
        }
        let mut absences: BTreeMap<String, Absence> = response
            .removed_resources
            .into_iter()
            .filter(|name| !twice.contains(name))
            .map(|name| (name, Absence::Removed))
            .collect();
        for error in response.resource_errors {
            let name = error.resource_name.unwrap_or_default().name;
            let status = error.error_detail.unwrap_or_default();
            let cause = match status.code {
                code::NOT_FOUND => Absence::NotFound(status.message),
                code::PERMISSION_DENIED => Absence::Denied(status.message),
                // Of a passing nature: what is held stays.
                _ => continue,
            };
            absences.insert(name, cause);
        }
        for (name, cause) in absences {
            if books.wants(&name) {
                books.answered(&name);
                books.forget(&name);
                received.updates.push(Update::Absent { name, cause });
            }
        }
        if !received.rejected.is_empty() {
            received.request.error_detail = Some(nack(&received.rejected));
        }
        received
    }

    /// Deletes what was not heard of for its time to live (rule 10), as (type URL, update).
    pub fn expire<T>(&mut self, now: Instant) -> Vec<(&'static str, Update<T>)> {
        let mut updates = Vec::new();
        for books in &mut self.types {
            let expired: Vec<_> = books
                .expiries
                .iter()
                .filter(|(_, expiry)| **expiry <= now)
                .map(|(name, _)| name.clone())
                .collect();
            for name in expired {
                books.forget(&name);
                let cause = Absence::Expired;
                updates.push((books.kind.url, Update::Absent { name, cause }));
            }
        }
        updates
    }

    /// When [`Client::expire`] has something to do.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.types.iter().flat_map(|books| books.expiries.values()).min().copied()
    }

    /// Whether a response of this type ever came: with it, a wildcard's content is complete.
    pub fn is_synced(&self, type_url: &str) -> bool {
        self.books(type_url).is_some_and(|books| books.synced)
    }

    /// Whether this name is subscribed to.
    pub fn is_subscribed(&self, type_url: &str, name: &str) -> bool {
        self.books(type_url).is_some_and(|books| books.names.contains_key(name))
    }

    /// Names that were subscribed to and never answered, with content or with its absence. A rejected one counts as not
    /// answered.
    pub fn unanswered(&self, type_url: &str) -> impl Iterator<Item = &str> {
        self.books(type_url)
            .into_iter()
            .flat_map(|books| books.names.iter().filter(|(_, answered)| !**answered))
            .map(|(name, _)| name.as_str())
    }

    /// The version held of a name.
    pub fn version(&self, type_url: &str, name: &str) -> Option<&str> {
        self.books(type_url)?.versions.get(name).map(String::as_str)
    }

    fn books(&self, type_url: &str) -> Option<&Books> {
        self.types.iter().find(|books| books.kind.url == type_url)
    }

    fn introduce(&mut self, mut request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
        if !self.introduced {
            self.introduced = true;
            request.node = Some(self.node.clone());
        }
        request
    }
}

impl Books {
    fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            started: false,
            synced: false,
            names: BTreeMap::new(),
            versions: BTreeMap::new(),
            expiries: BTreeMap::new(),
        }
    }

    /// All names and the versions held (rule 4).
    fn first_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        let names =
            if self.kind.wildcard { vec![WILDCARD.to_owned()] } else { self.names.keys().cloned().collect() };
        if names.is_empty() {
            return None;
        }
        self.started = true;
        Some(DeltaDiscoveryRequest {
            type_url: self.kind.url.to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: self.versions.clone(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn wants(&self, name: &str) -> bool {
        self.kind.wildcard || self.names.contains_key(name)
    }

    fn answered(&mut self, name: &str) {
        if let Some(answered) = self.names.get_mut(name) {
            *answered = true;
        }
    }

    fn forget(&mut self, name: &str) {
        self.versions.remove(name);
        self.expiries.remove(name);
    }

    /// Validates one resource and notes its version; `None` for a heartbeat.
    fn take<T>(
        &mut self,
        resource: Resource,
        now: Instant,
        validate: &mut impl FnMut(&str, &Any) -> Result<T, Violation>,
    ) -> Result<Option<T>, Violation> {
        let Resource { version, resource, name, ttl, .. } = resource;
        let ttl = match ttl.map(Duration::try_from) {
            None => None,
            Some(Ok(ttl)) if !ttl.is_zero() => Some(ttl),
            Some(_) => return Err(Violation::error("ttl", "out_of_range", "a time to live is above zero")),
        };
        let value = match resource {
            Some(content) if content.type_url != self.kind.url => {
                let message = format!("the content is of type '{}'", content.type_url);
                return Err(Violation::error("resource", "wrong_type", message));
            }
            Some(content) => Some(validate(&name, &content)?),
            None if ttl.is_some() && self.versions.get(&name) == Some(&version) => None,
            None => {
                let message = "a heartbeat for a version that is not held";
                return Err(Violation::error("resource", "required", message));
            }
        };
        match ttl.and_then(|ttl| now.checked_add(ttl)) {
            Some(expiry) => self.expiries.insert(name.clone(), expiry),
            None => self.expiries.remove(&name),
        };
        self.answered(&name);
        self.versions.insert(name, version);
        Ok(value)
    }
}

/// Rule 9, seen from the receiving end: two contents, or a content and its removal. The same removal twice says nothing
/// wrong.
fn names_given_twice(resources: &[Resource], removed: &[String]) -> BTreeSet<String> {
    let removed: BTreeSet<_> = removed.iter().collect();
    let mut seen = BTreeSet::new();
    resources
        .iter()
        .map(|resource| &resource.name)
        .filter(|name| removed.contains(*name) || !seen.insert(*name))
        .cloned()
        .collect()
}

fn rejection(name: String, version: String, violation: &Violation) -> RejectedResource {
    RejectedResource {
        name,
        version,
        field: violation.field.clone(),
        reason: cut(&violation.message),
        unsupported: violation.code == "unsupported",
    }
}

fn nack(rejected: &[RejectedResource]) -> Status {
    let first = rejected.first().map(|one| format!("{}: {}: {}", one.name, one.field, one.reason));
    let details = RejectedResources { rejected: rejected.to_vec() };
    Status {
        code: code::INVALID_ARGUMENT,
        message: format!("{} rejected; {}", rejected.len(), first.unwrap_or_default()),
        details: vec![Any {
            type_url: type_url::REJECTED_RESOURCES.to_owned(),
            value: details.encode_to_vec(),
        }],
    }
}

#[cfg(test)]
mod tests;
