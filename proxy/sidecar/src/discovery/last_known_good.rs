//! The last known good: what was in force, on disk, so that a proxy that is started without a control plane serves at
//! once.
//!
//! ```text
//!   in force -> Contents -> writer (debounced, a thread of its own) -> file
//!   start:  file -> checks, all or nothing -> LastKnownGood -> in force, versions claimed on the first stream
//!                -> refused: set aside, logged, counted; the start is one without a file
//! ```
//!
//! It is kept as it was received, byte by byte, with the versions: so the control plane resends what differs and removes
//! what is gone, and a newer proxy reads fields that the older one did not know. Fault, and whatever else has a time to
//! live, is not kept. There is no secret in it; what it is good for ends with the credential.

mod away;
mod file;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use outrigger_core::model::{ServiceName, SpiffeId};
use parking_lot::Mutex;

use super::validate::Resource;

pub use away::watch_away;
pub use file::Refused;
pub use writer::Keeper;

/// Names kept, those that do not exist included.
pub(super) const MAX_NAMES: usize = 1000;
/// Resources kept, bytes.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// An older one is refused.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks differ and are set: one written so far in the future is taken for new.
const SKEW: Duration = Duration::from_secs(300);

/// A resource as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) version: Arc<str>,
    pub(super) content: Bytes,
}

/// One of them, by type and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) type_url: &'static str,
    pub(super) name: Arc<str>,
    pub(super) raw: Raw,
}

impl Item {
    pub(super) fn new(type_url: &'static str, name: Arc<str>, raw: &Raw) -> Self {
        Self { type_url, name, raw: raw.clone() }
    }

    /// What it takes in the file, at most.
    pub(super) fn bytes(&self) -> usize {
        // Tags and lengths of four fields and of the whole.
        self.type_url.len() + self.name.len() + self.raw.version.len() + self.raw.content.len() + 32
    }
}

/// What is in force, to be kept. Cheap to clone for its size: the bytes are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub(super) revision: u64,
    pub(super) items: Vec<Item>,
    /// Each service followed by its endpoint sets; those used last first.
    pub(super) retired: Vec<Item>,
    pub(super) absent: Vec<ServiceName>,
}

/// What an earlier start had kept, checked: each resource can be run.
#[derive(Debug)]
pub struct LastKnownGood {
    /// What it is.
    pub origin: Origin,
    pub(super) items: Vec<(Item, Resource)>,
    /// As in [`Contents`].
    pub(super) retired: Vec<(Item, Resource)>,
    pub(super) absent: Vec<ServiceName>,
}

/// Where a configuration comes from that the control plane has not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The newest revision in it.
    pub revision: u64,
    /// When it was written.
    pub written: SystemTime,
}

/// What metrics tell of it.
#[derive(Debug, Default)]
pub struct KeptFigures {
    /// Seconds since the epoch; 0: never.
    written: AtomicU64,
    failures: AtomicU64,
    refused: Mutex<Option<&'static str>>,
    overdue: AtomicBool,
}

impl KeptFigures {
    /// When it was last written by this process, since the epoch.
    pub fn written(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.written.load(Ordering::Relaxed))).filter(|since| !since.is_zero())
    }

    /// It was written.
    pub(crate) fn note_written(&self, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.written.store(since.as_secs(), Ordering::Relaxed);
    }

    /// The one that was found is not used.
    pub(crate) fn note_refused(&self, reason: &'static str) {
        *self.refused.lock() = Some(reason);
    }

    /// Attempts to write it that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Why the one that was found at the start was not used.
    pub fn refused(&self) -> Option<&'static str> {
        *self.refused.lock()
    }

    /// The control plane has been away for half of the time that the credential had left.
    pub fn overdue(&self) -> bool {
        self.overdue.load(Ordering::Relaxed)
    }
}

/// The file, and what is told of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    figures: Arc<KeptFigures>,
}

impl Store {
    /// In the private directory `dir`, which is one proxy's alone.
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join("last-known-good"), figures: Arc::default() }
    }

    /// For metrics.
    pub fn figures(&self) -> Arc<KeptFigures> {
        Arc::clone(&self.figures)
    }

    /// Reads what an earlier start of `own` kept; `None`: nothing. What cannot be used is set aside as
    /// `last-known-good.refused`, in place of an earlier one, logged and counted. Blocks.
    ///
    /// # Errors
    /// If it cannot be used, by cause: all of it or nothing is.
    pub fn recall(&self, own: &SpiffeId, now: SystemTime) -> Result<Option<LastKnownGood>, Refused> {
        let refused = match file::read(&self.path, own, now) {
            Ok(Some(kept)) => {
                let Origin { revision, written } = kept.origin;
                let age = now.duration_since(written).unwrap_or_default();
                tracing::info!(revision, age_seconds = age.as_secs(), "serving from the last known good");
                return Ok(Some(kept));
            }
            Ok(None) => return Ok(None),
            Err(refused) => refused,
        };
        self.figures.note_refused(refused.reason());
        let aside = self.path.with_extension("refused");
        let kept_for_inspection = std::fs::rename(&self.path, &aside);
        tracing::warn!(
            error = &refused as &dyn std::error::Error,
            reason = refused.reason(),
            set_aside = kept_for_inspection.is_ok().then(|| aside.display().to_string()),
            "the last known good is not used"
        );
        Err(refused)
    }
}
