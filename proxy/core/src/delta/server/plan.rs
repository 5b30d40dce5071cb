//! What to send next, and in which order (rules 11 and 12).

use std::time::Instant;

use outrigger_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource, ResourceError, ResourceName},
    google::rpc::Status,
};
use prost::Message as _;
use prost_types::Any;

use super::{
    Lookup, MAX_RESPONSE_BYTES, Source,
    state::{InFlight, Known, Mortal, Outstanding, Sent, TypeState},
};
use crate::delta::{WILDCARD, code};

/// Names of one type that go into one response.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Resources, and answers that there is none.
    additions: Vec<String>,
    removals: Vec<String>,
    heartbeats: Vec<String>,
    /// Goes out even if it is empty.
    must_answer: bool,
}

/// How one response is labelled.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) nonce: String,
    pub(super) number: u64,
    pub(super) revision: u64,
    pub(super) now: Instant,
}

/// What is due of one type, by what would be sent.
#[derive(Debug, Default)]
struct Due {
    batch: Batch,
    /// Parallel to `batch.removals`.
    removals_since: Vec<u64>,
    oldest_addition: Option<u64>,
    oldest_removal: Option<u64>,
}

/// The place of the type whose turn it is, and what it sends. Removals wait until all first requests are `known`: one to
/// come may ask for what replaces them.
pub(super) fn next(
    types: &mut [TypeState],
    source: &impl Source,
    (seen, known): (u64, bool),
    now: Instant,
) -> Option<(usize, Batch)> {
    let mut due: Vec<Due> = types.iter_mut().map(|state| look(state, source, seen, now)).collect();
    // A removal waits for every addition as old as it or older, to be sent and to be acknowledged, and for the removals of
    // later types, which may refer to it.
    let mut barrier = types
        .iter()
        .zip(&due)
        .flat_map(|(state, due)| {
            let in_flight = state.in_flight.as_ref().and_then(|sent| sent.additions_since);
            [due.oldest_addition, in_flight]
        })
        .flatten()
        .min()
        .unwrap_or(u64::MAX);
    if !known {
        barrier = 0;
    }
    for (state, due) in types.iter().zip(&mut due).rev() {
        let mut since = due.removals_since.iter();
        due.batch.removals.retain(|_| since.next().is_some_and(|since| *since < barrier));
        let in_flight = state.in_flight.as_ref().and_then(|sent| sent.removals_since);
        // What was rejected is not acknowledged: the client runs what was before, and needs what that refers to.
        let rejected = state.rejected.values().map(|rejection| rejection.since).min();
        for since in [due.oldest_removal, in_flight, rejected].into_iter().flatten() {
            barrier = barrier.min(since);
        }
    }
    let free = |place: usize| types.get(place).is_some_and(|state| state.in_flight.is_none());
    // Additions in order: a type whose slot is taken holds up those after it.
    for (place, due) in due.iter_mut().enumerate() {
        let batch = &due.batch;
        let waiting = batch.must_answer || !batch.additions.is_empty();
        if free(place) && (waiting || !batch.heartbeats.is_empty()) {
            return Some((place, std::mem::take(&mut due.batch)));
        }
        if !batch.additions.is_empty() {
            break;
        }
    }
    // Only the removals: its additions, if it has any, are held up.
    due.iter_mut().enumerate().rev().find(|(place, due)| free(*place) && !due.batch.removals.is_empty()).map(
        |(place, due)| {
            let removals = std::mem::take(&mut due.batch.removals);
            (place, Batch { removals, ..Batch::default() })
        },
    )
}

/// Sorts what is due of a type, and drops what turns out to need nothing.
fn look(state: &mut TypeState, source: &impl Source, seen: u64, now: Instant) -> Due {
    let url = state.kind.url;
    if let Some(forced) = state.enumerate.take() {
        for name in source.wildcard(url) {
            state.mark(&name, seen, forced);
        }
    }
    let mut found = Due::default();
    look_after_mortals(state, source, seen, now, &mut found.batch.heartbeats);
    found.batch.must_answer = state.must_answer || state.wildcard_denied;
    let names: Vec<String> = state.due.keys().cloned().collect();
    for name in names {
        match verdict(state, source, &name) {
            Verdict::Nothing => {
                state.due.remove(&name);
            }
            Verdict::Add(since) => {
                found.oldest_addition = Some(found.oldest_addition.map_or(since, |old| old.min(since)));
                found.batch.additions.push(name);
            }
            Verdict::Remove(since) => {
                found.oldest_removal = Some(found.oldest_removal.map_or(since, |old| old.min(since)));
                found.removals_since.push(since);
                found.batch.removals.push(name);
            }
        }
    }
    found.batch.heartbeats.retain(|name| !state.due.contains_key(name));
    found
}

/// Rule 10: a heartbeat in time; past the time to live the client has deleted it, and only the whole resource brings it
/// back.
fn look_after_mortals(
    state: &mut TypeState,
    source: &impl Source,
    seen: u64,
    now: Instant,
    heartbeats: &mut Vec<String>,
) {
    let spoken_of: Vec<_> = state
        .mortal
        .iter()
        .filter(|(_, mortal)| now >= mortal.heartbeat())
        .map(|(name, mortal)| (name.clone(), now >= mortal.spoken_of + mortal.ttl))
        .collect();
    for (name, dead) in spoken_of {
        let current = match (state.known.get(&name), source.get(state.kind.url, &name)) {
            (Some(Known::Version(known)), Lookup::Found { version, .. }) => known == version,
            _ => false,
        };
        if dead || !current {
            state.mark(&name, seen, dead);
        } else if state.in_flight.is_none() {
            heartbeats.push(name);
        }
    }
}

enum Verdict {
    Nothing,
    Add(u64),
    Remove(u64),
}

fn verdict(state: &mut TypeState, source: &impl Source, name: &str) -> Verdict {
    let Some(due) = state.due.get(name).copied() else { return Verdict::Nothing };
    let wanted = state.wants(name);
    let lookup = if wanted { source.get(state.kind.url, name) } else { Lookup::NotFound };
    let version = match lookup {
        Lookup::Found { version, .. } => Some(version),
        Lookup::NotFound | Lookup::Denied(_) => None,
    };
    let mut since = due.since;
    if let Some(rejection) = state.rejected.get(name) {
        // Rule 2: not pushed again, unless the client asks for it.
        if version == Some(rejection.detail.version.as_str()) && !due.forced {
            return Verdict::Nothing;
        }
        // What replaces a rejected version makes good for all since it.
        since = since.min(rejection.since);
    }
    if let Some(due) = state.due.get_mut(name) {
        due.since = since;
    }
    match (version, state.known.get(name)) {
        (Some(version), Some(Known::Version(known))) if known == version && !due.forced => {
            // What the client fell back to is what it should have.
            state.rejected.remove(name);
            Verdict::Nothing
        }
        (Some(_), _) => Verdict::Add(since),
        (None, Some(Known::Version(_))) if !due.forced => Verdict::Remove(since),
        // Rule 7, and rule 8 for a name given up beside a wildcard.
        (None, _) if due.forced => Verdict::Add(since),
        (None, None) if state.subscribed.contains(name) => Verdict::Add(since),
        (None, _) => {
            state.rejected.remove(name);
            Verdict::Nothing
        }
    }
}

/// Builds the response and takes note of it. What does not fit stays due.
pub(super) fn send(
    state: &mut TypeState,
    batch: &Batch,
    source: &impl Source,
    sending: Sending,
) -> DeltaDiscoveryResponse {
    let mut draft = Draft::new(state, sending);
    draft.state.must_answer = false;
    if std::mem::take(&mut draft.state.wildcard_denied) {
        draft.absent(WILDCARD, code::PERMISSION_DENIED, "resources of this type are had by name only");
    }
    for name in &batch.heartbeats {
        draft.heartbeat(name);
    }
    // What does not fit stays due.
    let _all_fit = batch.additions.iter().all(|name| draft.add(name, source))
        && batch.removals.iter().all(|name| draft.remove(name));
    draft.finish()
}

struct Draft<'a> {
    state: &'a mut TypeState,
    response: DeltaDiscoveryResponse,
    size: usize,
    note: InFlight,
    /// Oldest change that the client has to bring into its snapshot.
    changes_since: Option<u64>,
    now: Instant,
}

impl<'a> Draft<'a> {
    fn new(state: &'a mut TypeState, sending: Sending) -> Self {
        Self {
            response: DeltaDiscoveryResponse {
                // Rule 13.
                system_version_info: sending.revision.to_string(),
                type_url: state.kind.url.to_owned(),
                nonce: sending.nonce.clone(),
                ..DeltaDiscoveryResponse::default()
            },
            state,
            size: 0,
            note: InFlight::new(sending.nonce, sending.number, sending.revision),
            changes_since: None,
            now: sending.now,
        }
    }

    /// Whether there is room for `more` bytes; for anything, as long as it is empty.
    fn fits(&mut self, more: usize) -> bool {
        let fits = self.size == 0 || self.size + more <= MAX_RESPONSE_BYTES;
        if fits {
            self.size += more;
        }
        fits
    }

    /// Adds a resource, or the answer that there is none; `false` when the response is full.
    fn add(&mut self, name: &str, source: &impl Source) -> bool {
        let Some(due) = self.state.due.get(name).copied() else { return true };
        let wanted = self.state.wants(name);
        let lookup = if wanted { source.get(self.state.kind.url, name) } else { Lookup::NotFound };
        let (version, content, ttl) = match lookup {
            Lookup::Found { version, content, ttl } => (version, content, ttl),
            Lookup::NotFound => return self.absent(name, code::NOT_FOUND, "no resource of this name"),
            Lookup::Denied(reason) => return self.absent(name, code::PERMISSION_DENIED, reason),
        };
        let resource = Resource {
            version: version.to_owned(),
            resource: Some(Any { type_url: self.state.kind.url.to_owned(), value: content.to_owned() }),
            name: name.to_owned(),
            aliases: Vec::new(),
            ttl: ttl.and_then(|ttl| ttl.try_into().ok()),
        };
        // A tag and a length of up to five bytes.
        if !self.fits(resource.encoded_len() + 6) {
            return false;
        }
        self.response.resources.push(resource);
        self.state.due.remove(name);
        self.state.rejected.remove(name);
        let known = Known::Version(version.to_owned());
        let before = self.state.known.insert(name.to_owned(), known.clone());
        self.note.additions_since = older(self.note.additions_since, due.since);
        if before.as_ref() != Some(&known) {
            self.changes_since = older(self.changes_since, due.since);
        }
        match ttl {
            Some(ttl) => {
                let spoken_of = self.now;
                self.state.mortal.insert(name.to_owned(), Mortal { ttl, spoken_of });
            }
            None => {
                self.state.mortal.remove(name);
            }
        }
        self.note.resources.push(Sent {
            name: name.to_owned(),
            version: version.to_owned(),
            before,
            since: due.since,
        });
        true
    }

    /// Says that there is none, both as the specification has it and with the reason (xRFC TP3).
    fn absent(&mut self, name: &str, code: i32, message: &str) -> bool {
        if !self.fits(2 * name.len() + message.len() + 24) {
            return false;
        }
        self.response.resource_errors.push(ResourceError {
            resource_name: Some(ResourceName { name: name.to_owned() }),
            error_detail: Some(Status { code, message: message.to_owned(), details: Vec::new() }),
        });
        if name != WILDCARD {
            self.response.removed_resources.push(name.to_owned());
            self.told_absent(name);
        }
        true
    }

    /// Takes away what the client has; `false` when the response is full.
    fn remove(&mut self, name: &str) -> bool {
        let Some(due) = self.state.due.get(name).copied() else { return true };
        if !self.fits(name.len() + 6) {
            return false;
        }
        self.note.removals_since = older(self.note.removals_since, due.since);
        self.response.removed_resources.push(name.to_owned());
        self.told_absent(name);
        true
    }

    /// The client is told that there is none.
    fn told_absent(&mut self, name: &str) {
        let due = self.state.due.remove(name);
        self.state.rejected.remove(name);
        self.state.mortal.remove(name);
        let before = if self.state.wants(name) {
            self.state.known.insert(name.to_owned(), Known::Absent)
        } else {
            self.state.known.remove(name)
        };
        if let (Some(Known::Version(_)), Some(due)) = (before, due) {
            self.note.takes_away = true;
            self.changes_since = older(self.changes_since, due.since);
        }
    }

    /// Says that a resource is still what it was (rule 10).
    fn heartbeat(&mut self, name: &str) {
        let Some(mortal) = self.state.mortal.get_mut(name) else { return };
        let Some(Known::Version(version)) = self.state.known.get(name) else { return };
        mortal.spoken_of = self.now;
        self.response.resources.push(Resource {
            version: version.clone(),
            name: name.to_owned(),
            ttl: mortal.ttl.try_into().ok(),
            ..Resource::default()
        });
        self.note.heartbeats.push(name.to_owned());
    }

    fn finish(self) -> DeltaDiscoveryResponse {
        if let Some(since) = self.changes_since {
            self.state.push_outstanding(Outstanding {
                number: self.note.number,
                since,
                revision: self.note.revision,
            });
        }
        self.state.in_flight = Some(self.note);
        self.response
    }
}

fn older(since: Option<u64>, candidate: u64) -> Option<u64> {
    Some(since.map_or(candidate, |since| since.min(candidate)))
}
