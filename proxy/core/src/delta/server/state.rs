//! What a session knows about one type: subscriptions, what the client has, what is due, what is under way.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use outrigger_proto::{
    google::rpc::Status,
    mesh::v1alpha1::{RejectedResource, RejectedResources},
    type_url,
};
use prost::Message as _;

use super::{Answer, Dirty, Names, Rejection};
use crate::delta::{ResourceType, WILDCARD, cut};

/// Responses sent and not applied that are told apart; beyond, the oldest are taken together.
const MAX_OUTSTANDING: usize = 64;
/// Longest version that is kept of what a client says that it has, bytes; ours are hashes, and shorter.
const MAX_VERSION_BYTES: usize = 128;
/// A client that comes with something older runs nothing that is known.
const UNKNOWN: u64 = 1;

#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) kind: ResourceType,
    /// A request came.
    started: bool,
    /// The next response goes out even if it is empty.
    pub(super) must_answer: bool,
    pub(super) wildcard: bool,
    /// All names of the wildcard are to be looked at; `Some(true)`: and sent, whatever the client has.
    pub(super) enumerate: Option<bool>,
    /// `*` was asked for and is not to be had.
    pub(super) wildcard_denied: bool,
    pub(super) subscribed: Names,
    /// What the client has, or was told that there is not. Optimistic: set when sent, reverted by a NACK.
    pub(super) known: BTreeMap<String, Known>,
    pub(super) due: Dirty,
    pub(super) in_flight: Option<InFlight>,
    outstanding: VecDeque<Outstanding>,
    /// The newest response that was reported as applied.
    applied: u64,
    pub(super) rejected: BTreeMap<String, Rejection>,
    /// Resources with a time to live, and when they were last spoken of.
    pub(super) mortal: BTreeMap<String, Mortal>,
}

/// What a client has of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    Version(String),
    Absent,
}

/// Why a name has to be looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// What the client has may be out of date since this revision.
    pub(super) since: u64,
    /// To be answered whatever the client has.
    pub(super) forced: bool,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: String,
    pub(super) number: u64,
    pub(super) revision: u64,
    /// Oldest change among its additions and removals.
    pub(super) additions_since: Option<u64>,
    pub(super) removals_since: Option<u64>,
    /// It takes something from the client that it had.
    pub(super) takes_away: bool,
    pub(super) resources: Vec<Sent>,
    pub(super) heartbeats: Vec<String>,
}

impl InFlight {
    pub(super) fn new(nonce: String, number: u64, revision: u64) -> Self {
        Self {
            nonce,
            number,
            revision,
            additions_since: None,
            removals_since: None,
            takes_away: false,
            resources: Vec::new(),
            heartbeats: Vec::new(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) before: Option<Known>,
    pub(super) since: u64,
}

/// A response that is not in the client's snapshot yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) number: u64,
    pub(super) since: u64,
    pub(super) revision: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Mortal {
    pub(super) ttl: Duration,
    pub(super) spoken_of: Instant,
}

impl Mortal {
    /// Three chances before it dies.
    pub(super) fn heartbeat(&self) -> Instant {
        self.spoken_of + self.ttl / 3
    }
}

impl TypeState {
    pub(super) fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            started: false,
            must_answer: false,
            wildcard: false,
            enumerate: None,
            wildcard_denied: false,
            subscribed: Names::new(),
            known: BTreeMap::new(),
            due: Dirty::new(),
            in_flight: None,
            outstanding: VecDeque::new(),
            applied: 0,
            rejected: BTreeMap::new(),
            mortal: BTreeMap::new(),
        }
    }

    pub(super) fn names(&self) -> usize {
        self.subscribed.len() + self.known.len()
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.subscribed.len()
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.subscribed.contains(name)
    }

    /// Takes note of the first request's versions; whether this was the first.
    pub(super) fn begin(&mut self, versions: BTreeMap<String, String>) -> bool {
        if self.started {
            return false;
        }
        self.started = true;
        self.must_answer = true;
        for (name, version) in versions {
            // Rule 5: each is looked at, also those that nobody subscribes to.
            self.mark(&name, UNKNOWN, false);
            // A longer one is none of ours, and differs from whatever is current just as well.
            let version = if version.len() > MAX_VERSION_BYTES { String::new() } else { version };
            self.known.insert(name, Known::Version(version));
        }
        true
    }

    pub(super) fn subscribe(&mut self, name: String, first: bool, seen: u64) {
        if name == WILDCARD {
            return self.subscribe_all(first);
        }
        // Rule 6: always answered, but for an equal version in the first request.
        let claimed = first && self.known.contains_key(&name);
        self.mark(&name, if claimed { UNKNOWN } else { seen }, !claimed);
        self.subscribed.insert(name);
    }

    pub(super) fn subscribe_all(&mut self, first: bool) {
        if self.kind.wildcard {
            self.wildcard = true;
            self.enumerate = Some(!first);
        } else {
            self.wildcard_denied = true;
        }
    }

    pub(super) fn unsubscribe(&mut self, name: &str, seen: u64) {
        if name == WILDCARD {
            self.wildcard = false;
            self.enumerate = None;
            let orphans: Vec<_> = self
                .known
                .keys()
                .chain(self.due.keys())
                .filter(|name| !self.subscribed.contains(*name))
                .cloned()
                .collect();
            for name in &orphans {
                self.forget(name);
            }
        } else if self.subscribed.remove(name) || self.wildcard && self.known.contains_key(name) {
            // Rule 8: a name that the wildcard still covers is answered; one that was never heard of is not.
            if self.wildcard {
                self.mark(name, seen, true);
            } else {
                self.forget(name);
            }
        }
    }

    fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.due.remove(name);
        self.rejected.remove(name);
        self.mortal.remove(name);
        if let Some(in_flight) = &mut self.in_flight {
            // A NACK to come speaks of a subscription that is no more.
            in_flight.resources.retain(|sent| sent.name != name);
        }
    }

    /// A name changed; whether that concerns this client.
    pub(super) fn change(&mut self, name: &str, revision: u64) -> bool {
        let concerned = self.started && (self.wants(name) || self.known.contains_key(name));
        if concerned {
            self.mark(name, revision, false);
        }
        concerned
    }

    /// Everything that the client has, wants or might get may have changed.
    pub(super) fn change_all(&mut self, since: u64) {
        let names: Vec<_> = self.subscribed.iter().chain(self.known.keys()).cloned().collect();
        for name in &names {
            self.mark(name, since, false);
        }
        if self.wildcard {
            self.enumerate.get_or_insert(false);
        }
    }

    /// Coalesces by name (rules 9 and 12): the oldest cause stands.
    pub(super) fn mark(&mut self, name: &str, since: u64, forced: bool) {
        match self.due.get_mut(name) {
            Some(due) => {
                due.since = due.since.min(since);
                due.forced |= forced;
            }
            None => {
                self.due.insert(name.to_owned(), Due { since, forced });
            }
        }
    }

    /// Pairs an answer with the response in flight.
    pub(super) fn settle(&mut self, nonce: &str, error: Option<&Status>) -> Option<Answer> {
        let in_flight = self.in_flight.take_if(|in_flight| in_flight.nonce == nonce)?;
        // Rule 2: by the presence of the detail, never by a version.
        let Some(error) = error else {
            self.drop_applied();
            return Some(Answer::Ack);
        };
        let mut details = rejected_resources(error);
        // Rule 3; a NACK without details speaks of the whole response.
        let detailed = !details.is_empty();
        let mut rejected = Vec::new();
        let mut accepted = 0_usize;
        for sent in in_flight.resources {
            let detail = details.remove(&sent.name);
            if detailed && detail.is_none() {
                accepted += 1;
                continue;
            }
            rejected.push(self.reject(sent, detail, error, in_flight.revision));
        }
        for name in in_flight.heartbeats {
            if !detailed || details.contains_key(&name) {
                // It died there: only the whole resource brings it back.
                self.mark(&name, in_flight.revision, true);
            }
        }
        if accepted == 0 && !in_flight.takes_away {
            // Nothing of it will ever be applied; the rejections hold the revision back.
            self.outstanding.retain(|response| response.number != in_flight.number);
        }
        self.drop_applied();
        Some(Answer::Nack { message: cut(&error.message), rejected })
    }

    fn reject(
        &mut self,
        sent: Sent,
        detail: Option<RejectedResource>,
        error: &Status,
        revision: u64,
    ) -> Rejection {
        let mortal = self.mortal.remove(&sent.name).is_some();
        match sent.before {
            // Without heartbeats the one before dies there, too.
            Some(before) if !mortal => self.known.insert(sent.name.clone(), before),
            _ => self.known.remove(&sent.name),
        };
        // Kept for each name, and shown to operators: no longer than a client of ours would write.
        let (field, reason, unsupported) = match detail {
            Some(detail) => (cut(&detail.field), cut(&detail.reason), detail.unsupported),
            None => (String::new(), cut(&error.message), false),
        };
        let rejection = Rejection {
            type_url: self.kind.url,
            revision,
            detail: RejectedResource {
                name: sent.name.clone(),
                version: sent.version,
                field,
                reason,
                unsupported,
            },
            since: sent.since,
        };
        self.rejected.insert(sent.name, rejection.clone());
        rejection
    }

    pub(super) fn push_outstanding(&mut self, response: Outstanding) {
        self.outstanding.push_back(response);
        if self.outstanding.len() > MAX_OUTSTANDING
            && let Some(oldest) = self.outstanding.pop_front()
            && let Some(next) = self.outstanding.front_mut()
        {
            next.since = next.since.min(oldest.since);
        }
    }

    pub(super) fn outstanding_target(&self) -> u64 {
        self.outstanding.back().map_or(0, |response| response.revision)
    }

    pub(super) fn applied(&mut self, number: u64) {
        self.applied = self.applied.max(number);
        self.drop_applied();
    }

    /// The report of the snapshot travels on a stream of its own and may overtake a NACK: what is in flight is not applied
    /// yet, whatever is said.
    fn drop_applied(&mut self) {
        let in_flight = self.in_flight.as_ref().map(|in_flight| in_flight.number);
        self.outstanding
            .retain(|response| response.number > self.applied || Some(response.number) == in_flight);
    }

    /// The oldest change that the client may not run yet.
    pub(super) fn oldest(&self) -> Option<u64> {
        let due = self.due.values().map(|due| due.since);
        let outstanding = self.outstanding.iter().map(|response| response.since);
        let rejected = self.rejected.values().map(|rejection| rejection.since);
        due.chain(outstanding).chain(rejected).min()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
            && self.due.is_empty()
            && self.enumerate.is_none()
            && !self.must_answer
            && !self.wildcard_denied
    }

    pub(super) fn next_heartbeat(&self) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        self.mortal.values().map(Mortal::heartbeat).min()
    }
}

/// The details of a NACK, by name; none when they are missing or malformed.
fn rejected_resources(error: &Status) -> BTreeMap<String, RejectedResource> {
    error
        .details
        .iter()
        .filter(|detail| detail.type_url == type_url::REJECTED_RESOURCES)
        .filter_map(|detail| RejectedResources::decode(detail.value.as_slice()).ok())
        .flat_map(|details| details.rejected)
        .map(|detail| (detail.name.clone(), detail))
        .collect()
}
