//! The control plane's end: one [`Session`] per stream.
//!
//! ```text
//! request -> on_request ─┐
//! change  -> on_change  ─┼─> names that may need sending ─> poll ─> response (one in flight per type)
//! applied -> on_applied ─┴─> applied_revision
//! ```
//!
//! A session keeps names and versions, never content: what it may have to send is bounded by what is subscribed, however
//! slowly the client reads. After every call of an `on_` function, and at [`Session::next_heartbeat`], the caller polls
//! until there is nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use outrigger_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    mesh::v1alpha1::RejectedResource,
};

use super::ResourceType;

mod plan;
mod state;

use state::TypeState;

/// No response is larger, unless a single resource is.
pub const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// Names that one stream may subscribe to, of all types.
pub const MAX_SUBSCRIPTIONS: usize = 16_384;
/// Longest name, bytes.
pub const MAX_NAME_BYTES: usize = 512;

/// What a node may see at one revision.
pub trait Source {
    /// The resource of that name.
    fn get(&self, type_url: &str, name: &str) -> Lookup<'_>;

    /// The names of all resources of a type that has a wildcard; [`Source::get`] finds no others of that type.
    fn wildcard(&self, type_url: &str) -> Vec<String>;
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// A resource.
    Found {
        /// Hash of the content.
        version: &'a str,
        /// The encoded message.
        content: &'a [u8],
        /// The client deletes it when it has not heard of it for so long.
        ttl: Option<Duration>,
    },
    /// Nothing, perhaps not yet.
    NotFound,
    /// Something that this node may not see; with the reason.
    Denied(&'a str),
}

/// A request that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A type that this server does not have. The stream may go on: a newer proxy asks for more than an older server has.
    #[error("type '{0}' is unknown here")]
    UnknownType(String),
    /// More than [`MAX_SUBSCRIPTIONS`] names; the stream has to end.
    #[error("more than {MAX_SUBSCRIPTIONS} names are subscribed")]
    TooManyNames,
    /// A name longer than [`MAX_NAME_BYTES`], or an empty one; the stream has to end.
    #[error("a subscribed name is empty or longer than {MAX_NAME_BYTES} bytes")]
    InvalidName,
}

/// What a request was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The answer to the response in flight; `None` for a spontaneous request or a stale nonce.
    pub answer: Option<Answer>,
    /// Names were subscribed to or unsubscribed from.
    pub subscription_changed: bool,
}

/// A client's judgement of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All of it is valid and queued.
    Ack,
    /// Some of it was rejected; the rest is valid and queued.
    Nack {
        /// For people.
        message: String,
        /// One for each resource rejected.
        rejected: Vec<Rejection>,
    },
}

/// A resource that the client rejected, until something else of its name is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its type.
    pub type_url: &'static str,
    /// The revision of the response.
    pub revision: u64,
    /// Name, version, field and reason; field empty when the client told none.
    pub detail: RejectedResource,
    /// The client runs what was valid before this revision.
    since: u64,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    /// Prefix of its nonces, without `-`.
    stream: String,
    counter: u64,
    /// The newest revision whose changes were told.
    seen: u64,
    target: u64,
    /// The client answered a response, so all that it held came with its first requests, which it sent before.
    known: bool,
    /// In the order of additions.
    types: Vec<TypeState>,
}

impl Session {
    /// A new stream. `stream_id` is unique among streams, those of other replicas and of former runs included (random);
    /// `revision` is the source's at this moment: every later one is told by [`Session::on_change`].
    pub fn new(stream_id: u64, types: &[ResourceType], revision: u64) -> Self {
        Self {
            stream: format!("{stream_id:016x}"),
            counter: 0,
            seen: revision,
            target: revision,
            known: false,
            types: types.iter().copied().map(TypeState::new).collect(),
        }
    }

    /// Prefix of this stream's nonces, up to the `-`.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Takes a request.
    ///
    /// # Errors
    /// By cause; only [`ProtocolError::UnknownType`] lets the stream go on.
    pub fn on_request(&mut self, request: DeltaDiscoveryRequest) -> Result<Received, ProtocolError> {
        let names = &request.resource_names_subscribe;
        if names
            .iter()
            .chain(request.initial_resource_versions.keys())
            .any(|name| name.is_empty() || name.len() > MAX_NAME_BYTES)
        {
            return Err(ProtocolError::InvalidName);
        }
        let held: usize = self.types.iter().map(TypeState::names).sum();
        if held + names.len() + request.initial_resource_versions.len() > 2 * MAX_SUBSCRIPTIONS {
            return Err(ProtocolError::TooManyNames);
        }
        let seen = self.seen;
        let state = self
            .types
            .iter_mut()
            .find(|state| state.kind.url == request.type_url)
            .ok_or_else(|| ProtocolError::UnknownType(request.type_url.clone()))?;
        // Rule 1: a stale nonce settles nothing, but does not spoil the rest.
        let answer = state.settle(&request.response_nonce, request.error_detail.as_ref());
        self.known |= answer.is_some();
        let first = state.begin(request.initial_resource_versions);
        let subscription_changed =
            first || !names.is_empty() || !request.resource_names_unsubscribe.is_empty();
        // An empty first request means the wildcard (rule 8).
        if first && names.is_empty() {
            state.subscribe_all(first);
        }
        for name in request.resource_names_subscribe {
            state.subscribe(name, first, seen);
        }
        // After the subscriptions: "* and not *" is how a client subscribes to nothing.
        for name in &request.resource_names_unsubscribe {
            state.unsubscribe(name, seen);
        }
        if self.types.iter().map(TypeState::subscriptions).sum::<usize>() > MAX_SUBSCRIPTIONS {
            return Err(ProtocolError::TooManyNames);
        }
        Ok(Received { answer, subscription_changed })
    }

    /// Tells what changed up to `revision` since the last one told, as (type URL, name), perhaps nothing. Every change has
    /// to be told, in order; several revisions may be told together, and a name in vain.
    pub fn on_change<'a>(&mut self, revision: u64, dirty: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let since = self.changed_since(revision);
        for (type_url, name) in dirty {
            let state = self.types.iter_mut().find(|state| state.kind.url == type_url);
            if state.is_some_and(|state| state.change(name, since)) {
                self.target = self.seen;
            }
        }
    }

    /// Tells that it is not known any more what changed up to `revision` since the last one told: everything may have.
    pub fn on_lapse(&mut self, revision: u64) {
        let since = self.changed_since(revision);
        for state in &mut self.types {
            state.change_all(since);
        }
        self.target = self.seen;
    }

    /// The first revision that may have the changes told with `revision`.
    fn changed_since(&mut self, revision: u64) -> u64 {
        let since = revision.min(self.seen + 1);
        self.seen = self.seen.max(revision);
        since
    }

    /// The client has the content of this response, and of all of its type before it, in its snapshot. A nonce of another
    /// stream is ignored.
    pub fn on_applied(&mut self, type_url: &str, nonce: &str) {
        let number = nonce
            .split_once('-')
            .filter(|(stream, _)| *stream == self.stream)
            .and_then(|(_, number)| number.parse().ok());
        let state = self.types.iter_mut().find(|state| state.kind.url == type_url);
        if let (Some(state), Some(number)) = (state, number) {
            state.applied(number);
        }
    }

    /// Everything up to this revision is in the client's snapshot: what is not sent, not applied or rejected holds it back.
    /// 0 as long as it is not known what the client came with, and while that is not replaced.
    ///
    /// What a client had valid but not applied when its former stream broke is not known here; it reports such names as
    /// pending.
    pub fn applied_revision(&self) -> u64 {
        if !self.known {
            return 0;
        }
        self.types
            .iter()
            .filter_map(TypeState::oldest)
            .min()
            .map_or(self.seen, |oldest| oldest.saturating_sub(1))
    }

    /// The newest revision that concerns this client.
    pub fn target_revision(&self) -> u64 {
        self.target
    }

    /// What the client rejected and was not replaced since.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.types.iter().flat_map(|state| state.rejected.values())
    }

    /// What this client subscribed to by name, as (type URL, name).
    pub fn subscribed(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.types
            .iter()
            .flat_map(|state| state.subscribed.iter().map(|name| (state.kind.url, name.as_str())))
    }

    /// Whether nothing waits to be sent or acknowledged.
    pub fn is_idle(&self) -> bool {
        self.types.iter().all(TypeState::is_idle)
    }

    /// Whether a response waits for its ACK: the caller ends a stream that does not answer for too long.
    pub fn in_flight(&self) -> bool {
        self.types.iter().any(|state| state.in_flight.is_some())
    }

    /// When to poll again even though nothing happened.
    pub fn next_heartbeat(&self) -> Option<Instant> {
        self.types.iter().filter_map(TypeState::next_heartbeat).min()
    }

    /// The next response, if one may be sent now. `revision` is the source's.
    pub fn poll(
        &mut self,
        source: &impl Source,
        revision: u64,
        now: Instant,
    ) -> Option<DeltaDiscoveryResponse> {
        let (place, batch) = plan::next(&mut self.types, source, (self.seen, self.known), now)?;
        self.counter += 1;
        let nonce = format!("{}-{}", self.stream, self.counter);
        let sending = plan::Sending { nonce, number: self.counter, revision, now };
        let state = self.types.get_mut(place)?;
        let response = plan::send(state, &batch, source, sending);
        self.target = self.target.max(state.outstanding_target());
        Some(response)
    }
}

/// Names by type that were told to have changed.
type Dirty = BTreeMap<String, state::Due>;
/// Names that a client asked for.
type Names = BTreeSet<String>;

#[cfg(test)]
mod tests;
