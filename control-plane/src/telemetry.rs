//! Where the mesh's time goes: what the proxies counted, merged and kept in memory by edge; and how they see the
//! endpoints that they call.

mod chain;
mod endpoints;
pub mod service;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use outrigger_core::{
    model::SpiffeId,
    telemetry::{Edge, EdgeKey, Sparse},
};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use chain::chain;
pub use endpoints::{Endpoints, Seen, Stream, View};

/// Edges of one caller; further ones count as its `other`.
const MAX_EDGES_PER_SOURCE: usize = 2_000;
/// Edges altogether; further ones count as their callers' `other`.
const MAX_EDGES: usize = 50_000;
/// Runs of proxies whose last sequence is known; beyond, the one that was silent longest is forgotten.
const MAX_RUNS: usize = 20_000;
/// Pictures that cursors can refer to.
const MAX_PICTURES: usize = 64;
/// Edges of all these pictures together, unless there is only one: each may keep figures that nobody else has any more.
const MAX_PICTURED_EDGES: usize = 100_000;

/// One edge of the mesh: who calls what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The caller, as proven.
    pub source: SpiffeId,
    /// What it called, as it says.
    pub edge: EdgeKey,
}

/// What was counted on an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests.
    pub requests: u64,
    /// Answered 5xx, reset, or by the proxy itself.
    pub failures: u64,
    /// Their times.
    pub total: Sparse,
}

impl Figures {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
            total: self.total.since(&earlier.total),
        }
    }
}

/// All edges at one moment.
type Picture = Arc<BTreeMap<Key, Arc<Figures>>>;

/// What was counted between two moments.
#[derive(Debug, Clone)]
pub struct Added {
    before: Picture,
    now: Picture,
    /// Names the later moment.
    pub cursor: Vec<u8>,
}

impl Added {
    /// All edges that there are, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.now.keys()
    }

    /// What was counted on the edge of `key` between the two moments; `None`: no request.
    pub fn of(&self, key: &Key) -> Option<Figures> {
        let figures = self.now.get(key)?;
        let added = match self.before.get(key) {
            Some(earlier) if Arc::ptr_eq(earlier, figures) => return None,
            Some(earlier) => figures.since(earlier),
            None => Figures::clone(figures),
        };
        (added.requests > 0).then_some(added)
    }
}

/// The cursor is none of this server's, or too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is of another run of the control plane or too old; ask again without it")]
pub struct CursorGone;

/// All edges since the start.
#[derive(Debug)]
pub struct Edges {
    /// Tells this run's cursors from those of others.
    boot: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    edges: Picture,
    per_source: BTreeMap<SpiffeId, usize>,
    runs: BTreeMap<(SpiffeId, u64), Run>,
    pictures: VecDeque<(u64, Picture)>,
    taken: u64,
}

#[derive(Debug)]
struct Run {
    acknowledged: u64,
    heard: Instant,
}

impl Edges {
    /// None yet; `boot` is random.
    pub fn new(boot: u64) -> Self {
        Self { boot, inner: Mutex::default() }
    }

    /// Adds what `source` counted, unless this sequence of its run was added before. Returns the last one added.
    pub fn add(&self, source: &SpiffeId, run: u64, sequence: u64, edges: Vec<Edge>, now: Instant) -> u64 {
        let mut inner = self.inner.lock();
        if !inner.advance((source.clone(), run), sequence, now) {
            return inner.runs.get(&(source.clone(), run)).map_or(0, |run| run.acknowledged);
        }
        for edge in edges {
            let key = inner.place(Key { source: source.clone(), edge: edge.key });
            let figures = Arc::make_mut(&mut inner.edges).entry(key).or_default();
            let figures = Arc::make_mut(figures);
            figures.requests = figures.requests.saturating_add(edge.requests);
            figures.failures = figures.failures.saturating_add(edge.failures);
            figures.total.merge(&edge.total);
        }
        sequence
    }

    /// What was counted since `cursor` (empty: since the start), and the cursor of now.
    ///
    /// # Errors
    /// The cursor is not known.
    pub fn since(&self, cursor: &[u8]) -> Result<Added, CursorGone> {
        let mut inner = self.inner.lock();
        let before = if cursor.is_empty() { Picture::default() } else { self.picture(&inner, cursor)? };
        let now = Arc::clone(&inner.edges);
        let taken = inner.take_picture();
        let cursor = [self.boot.to_be_bytes(), taken.to_be_bytes()].concat();
        Ok(Added { before, now, cursor })
    }

    fn picture(&self, inner: &Inner, cursor: &[u8]) -> Result<Picture, CursorGone> {
        let taken = cursor.strip_prefix(&self.boot.to_be_bytes()).ok_or(CursorGone)?;
        let taken = u64::from_be_bytes(taken.try_into().map_err(|_length| CursorGone)?);
        let found = inner.pictures.iter().find(|(number, _)| *number == taken);
        found.map(|(_, picture)| Arc::clone(picture)).ok_or(CursorGone)
    }
}

impl Inner {
    /// Whether `sequence` is new.
    fn advance(&mut self, run: (SpiffeId, u64), sequence: u64, now: Instant) -> bool {
        if self.runs.len() >= MAX_RUNS && !self.runs.contains_key(&run) {
            let silent = self.runs.iter().min_by_key(|(_, run)| run.heard).map(|(key, _)| key.clone());
            silent.map(|key| self.runs.remove(&key));
        }
        let known = self.runs.entry(run).or_insert(Run { acknowledged: 0, heard: now });
        known.heard = now;
        let new = sequence > known.acknowledged;
        known.acknowledged = known.acknowledged.max(sequence);
        new
    }

    /// Where to count `key`: there, or where too many edges go together.
    fn place(&mut self, key: Key) -> Key {
        if self.edges.contains_key(&key) {
            return key;
        }
        let own = self.per_source.entry(key.source.clone()).or_default();
        if *own < MAX_EDGES_PER_SOURCE && self.edges.len() < MAX_EDGES {
            *own += 1;
            return key;
        }
        Key { source: key.source, edge: EdgeKey::OTHER }
    }

    fn take_picture(&mut self) -> u64 {
        if let Some((number, newest)) = self.pictures.back()
            && Arc::ptr_eq(newest, &self.edges)
        {
            return *number;
        }
        self.taken += 1;
        self.pictures.push_back((self.taken, Arc::clone(&self.edges)));
        let mut edges: usize = self.pictures.iter().map(|(_, picture)| picture.len()).sum();
        while self.pictures.len() > 1 && (self.pictures.len() > MAX_PICTURES || edges > MAX_PICTURED_EDGES) {
            edges -= self.pictures.pop_front().map_or(0, |(_, picture)| picture.len());
        }
        self.taken
    }
}

#[cfg(test)]
mod tests;
