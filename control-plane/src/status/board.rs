//! What is known of each proxy.

mod absent;
mod recall;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_core::{model::SpiffeId, wire};
use outrigger_proto::status::v1alpha1::{
    AppliedNonce, AppliedReport, LastKnownGood, PendingName, ProxyState, Rejection,
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

pub use absent::{Absence, Absences};
pub use recall::Known;
pub(super) use recall::MAX_KNOWN;

/// A proxy whose stream broke is remembered, and named, for so long: as long as its workload may still be registered
/// and lapsed.
pub const REMEMBERED: Duration = Duration::from_secs(60);
/// Of one identity, so many such proxies are remembered: nobody can fill the board alone.
const MAX_LOST_PER_IDENTITY: usize = 256;
/// Pending names kept of one report; more are counted only in what is missing.
const MAX_PENDING: usize = 256;
/// Types kept of one report; there are fewer.
const MAX_TYPES: usize = 16;
/// Signers kept of one report: an intermediate and a root, in ours.
const MAX_AUTHORITIES: usize = 8;
/// Longest nonce or type URL that is kept, bytes; ours are shorter.
const MAX_NONCE: usize = 128;
/// Longest text that is kept of what a proxy says, characters.
const MAX_TEXT: usize = 512;

/// What a proxy said that it applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reported {
    /// Counts its snapshots.
    pub generation: u64,
    /// The newest nonce of each type in its snapshot.
    pub applied: Vec<AppliedNonce>,
}

/// What its stream says of a proxy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Everything up to this revision is in its snapshot.
    pub applied: u64,
    /// The newest revision that concerns it.
    pub target: u64,
    /// What it rejected and would still be sent.
    pub rejections: Vec<Rejection>,
}

/// One proxy.
#[derive(Debug, Clone)]
pub struct Node {
    /// `<SPIFFE ID>#<instance>`.
    pub id: Arc<str>,
    /// As proven.
    pub identity: SpiffeId,
    /// As it says.
    pub version: String,
    /// Since when it is connected, or not.
    pub since: SystemTime,
    /// What its stream says.
    pub progress: Progress,
    /// What it said last itself, about its newest open stream.
    pub reported: Option<Reported>,
    /// Received and valid, but not in its snapshot.
    pub pending: Vec<PendingName>,
    /// When its certificate ends, as it says.
    pub svid_not_after: Option<prost_types::Timestamp>,
    /// It runs on what an earlier start had kept.
    pub last_known_good: Option<LastKnownGood>,
    /// The trust bundle in force there, as it says; 0 before it does.
    pub bundle_sequence: u64,
    /// SHA-256 of the public keys of those who signed its certificate, as it says.
    pub svid_authorities: Vec<[u8; 32]>,
    /// When its stream broke; `None`: it is open.
    lost: Option<Instant>,
    /// It was connected to an earlier process, and not to this one.
    recalled: bool,
}

impl Node {
    /// One that has not said anything.
    fn new(id: Arc<str>, identity: &SpiffeId, version: &str, since: SystemTime) -> Self {
        Self {
            id,
            identity: identity.clone(),
            version: version.chars().take(64).collect(),
            since,
            progress: Progress::default(),
            reported: None,
            pending: Vec::new(),
            svid_not_after: None,
            last_known_good: None,
            bundle_sequence: 0,
            svid_authorities: Vec::new(),
            lost: None,
            recalled: false,
        }
    }

    /// Whether it is known from an earlier process alone, and has not come back.
    pub fn recalled(&self) -> bool {
        self.recalled
    }

    /// Whether its stream is open.
    pub fn connected(&self) -> bool {
        self.lost.is_none()
    }

    /// Whether its snapshot holds everything up to `revision`, as far as it said so: before its first report nobody
    /// knows what it brought along from its former stream and has not applied.
    pub fn current(&self, revision: u64) -> bool {
        self.connected()
            && self.reported.is_some()
            && self.progress.applied >= revision
            && self.pending.is_empty()
            && self.last_known_good.is_none()
    }

    /// For the API.
    pub fn to_wire(&self) -> ProxyState {
        ProxyState {
            node_id: self.id.to_string(),
            spiffe_id: self.identity.to_string(),
            version: self.version.clone(),
            connected: self.connected(),
            since: Some(wire::time::encode_timestamp(self.since)),
            applied_revision: self.progress.applied,
            target_revision: self.progress.target,
            generation: self.reported.as_ref().map_or(0, |reported| reported.generation),
            pending: self.pending.clone(),
            rejections: self.progress.rejections.clone(),
            svid_not_after: self.svid_not_after,
            last_known_good: self.last_known_good,
        }
    }
}

/// All proxies, written by their streams. Bounded by the streams that are open or broke within the last minute; of those
/// that broke earlier, little is kept, and of 10 000.
#[derive(Debug)]
pub struct Board {
    inner: Mutex<Inner>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
    /// Told when a proxy comes or goes.
    known: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By nonce prefix.
    streams: BTreeMap<String, Open>,
    /// The open streams of each proxy, the newest last. There are several when a proxy came back before its former
    /// stream was seen to break, and when two run with the same instance id: the newest open one counts.
    by_node: BTreeMap<Arc<str>, Vec<String>>,
    /// Proxies that broke off, and have no open stream.
    lost: BTreeMap<Arc<str>, Node>,
    /// The same, and those that did so long ago.
    absences: Absences,
}

/// An open stream, and what it says of its proxy.
#[derive(Debug)]
struct Open {
    node: Node,
    reports: watch::Sender<Reported>,
}

impl Default for Board {
    fn default() -> Self {
        Self { inner: Mutex::default(), changed: watch::channel(0).0, known: watch::channel(()).0 }
    }
}

impl Board {
    /// A proxy opened `stream`; returns where its reports arrive. A stream that it had before counts no longer, unless
    /// it outlives this one.
    pub fn connect(
        &self,
        stream: &str,
        id: &str,
        identity: &SpiffeId,
        version: &str,
        now: SystemTime,
    ) -> watch::Receiver<Reported> {
        let (reports, receiver) = watch::channel(Reported::default());
        let id: Arc<str> = Arc::from(id);
        let node = Node::new(Arc::clone(&id), identity, version, now);
        {
            let mut inner = self.inner.lock();
            inner.lost.remove(&id);
            inner.absences.remove(&id);
            inner.streams.insert(stream.to_owned(), Open { node, reports });
            inner.by_node.entry(id).or_default().push(stream.to_owned());
        }
        self.known.send_replace(());
        self.tell();
        receiver
    }

    /// `stream` came on.
    pub fn progress(&self, stream: &str, progress: Progress) {
        let news = {
            let mut inner = self.inner.lock();
            inner.streams.get_mut(stream).is_some_and(|open| {
                let news = open.node.progress != progress;
                open.node.progress = progress;
                news
            })
        };
        if news {
            self.tell();
        }
    }

    /// `stream` ended: by a good-bye, which forgets the proxy, or it broke. A proxy that has another one is where that
    /// one is.
    pub fn disconnect(&self, stream: &str, good_bye: bool, now: (Instant, SystemTime)) {
        {
            let mut inner = self.inner.lock();
            if let Some(mut node) = inner.close(stream)
                && !good_bye
            {
                let identity = node.identity.clone();
                node.lost = Some(now.0);
                node.since = now.1;
                let absence = Absence { since: now.1, bundle_sequence: node.bundle_sequence };
                inner.absences.add(Arc::clone(&node.id), absence);
                inner.lost.insert(Arc::clone(&node.id), node);
                inner.forget_beyond_bound(&identity);
            }
            inner.expire(now.0);
        }
        self.known.send_replace(());
        self.tell();
    }

    /// `identity` says what it applied. Ignored for a stream that is not open, or not its own.
    pub fn report(&self, identity: &SpiffeId, report: AppliedReport) {
        let report = bounded(report);
        {
            let mut inner = self.inner.lock();
            let Some(open) = inner.streams.get_mut(&report.stream) else { return };
            if open.node.identity != *identity {
                return;
            }
            let reported = Reported { generation: report.generation, applied: report.applied };
            open.reports.send_replace(reported.clone());
            open.node.reported = Some(reported);
            open.node.pending = report.pending;
            open.node.svid_not_after = report.svid_not_after;
            open.node.last_known_good = report.last_known_good;
            open.node.bundle_sequence = report.bundle_sequence;
            let authorities = report.svid_authorities.iter().take(MAX_AUTHORITIES);
            open.node.svid_authorities =
                authorities.filter_map(|key| key.as_slice().try_into().ok()).collect();
        }
        self.tell();
    }

    /// All proxies, by id; one that broke off more than a minute ago is forgotten.
    pub fn nodes(&self, now: Instant) -> Vec<Node> {
        let inner = self.inner.lock();
        let lost = inner.lost.values().filter(|node| node.lost.is_none_or(|lost| now - lost < REMEMBERED));
        let mut nodes: Vec<Node> = inner.connected().chain(lost).cloned().collect();
        nodes.sort_by(|one, other| one.id.cmp(&other.id));
        nodes
    }

    /// Those that broke off, and may be running.
    pub fn absences(&self) -> Absences {
        self.inner.lock().absences.clone()
    }

    /// Counts the changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns when every connected proxy has everything up to `revision`.
    pub async fn propagated(&self, revision: u64) {
        let mut changed = self.watch();
        loop {
            let behind = {
                let inner = self.inner.lock();
                inner.connected().any(|node| node.progress.applied < revision)
            };
            // The board outlives whoever asks it.
            if !behind || changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The part of a report that is worth keeping: what a proxy of ours would write.
fn bounded(mut report: AppliedReport) -> AppliedReport {
    report.applied.retain(|one| one.type_url.len() <= MAX_NONCE && one.nonce.len() <= MAX_NONCE);
    report.applied.truncate(MAX_TYPES);
    report.pending.truncate(MAX_PENDING);
    for pending in &mut report.pending {
        for text in [&mut pending.type_url, &mut pending.name, &mut pending.cause] {
            *text = text.chars().take(MAX_TEXT).collect();
        }
    }
    report
}

impl Inner {
    /// Every connected proxy, as its newest open stream says.
    fn connected(&self) -> impl Iterator<Item = &Node> {
        let newest = self.by_node.values().filter_map(|streams| self.streams.get(streams.last()?));
        newest.map(|open| &open.node)
    }

    /// Forgets `stream`; returns its proxy if that has no other one.
    fn close(&mut self, stream: &str) -> Option<Node> {
        let Open { node, .. } = self.streams.remove(stream)?;
        if let Some(streams) = self.by_node.get_mut(&node.id) {
            streams.retain(|open| open != stream);
            if !streams.is_empty() {
                return None;
            }
        }
        self.by_node.remove(&node.id);
        Some(node)
    }

    /// Forgets those whose time is over.
    fn expire(&mut self, now: Instant) {
        self.lost.retain(|_, node| node.lost.is_none_or(|lost| now - lost < REMEMBERED));
    }

    /// Forgets the proxy of `identity` that was lost first, if it lost too many. Those of an earlier process have a bound of
    /// their own.
    fn forget_beyond_bound(&mut self, identity: &SpiffeId) {
        let lost = self.lost.values().filter(|node| node.identity == *identity && !node.recalled);
        let lost: Vec<_> = lost.filter_map(|node| Some((node.lost?, Arc::clone(&node.id)))).collect();
        if lost.len() > MAX_LOST_PER_IDENTITY
            && let Some((_, oldest)) = lost.into_iter().min()
        {
            self.lost.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
