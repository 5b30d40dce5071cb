//! The store: one redb file, one writer, one revision for each write, with the audit record of the write in the same
//! transaction. Bias: consistency over availability; a file that is not whole is refused, never read in part.
//!
//! Values are small (an object, a token, a workload) and lists are read whole; the file fits in memory many times over.
//! All blocking work runs on tokio's blocking threads. A write that was started is finished even when its caller gives
//! up, and the new revision is announced by the write itself.

mod dump;
mod file;
mod history;
mod key;
mod past;
mod replies;

pub mod objects;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

use outrigger_proto::policy::v1alpha1::AuditRecord;
use redb::{ReadableDatabase, ReadableTable};
use tokio::sync::{Semaphore, watch};

pub use dump::{Dump, Load, LoadFailure, SCHEMA};
pub use file::OpenError;
pub use history::Retention;
pub use key::{Key, Keyspace};
pub use past::{Changed, Changes, HistoryError, Past, Version};
pub use replies::{Kept, LIFE as REPLY_LIFE, Reply};

use crate::audit;

/// A page of a list ends after so many bytes: its answer must fit a gRPC message (4 MiB), whatever is in it.
pub const PAGE_BYTES: usize = 1 << 20;

/// Counts the writes; 0 is the empty store.
pub type Revision = u64;

/// A value, and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// The revision that wrote it.
    pub revision: Revision,
    /// The value.
    pub value: Vec<u8>,
}

/// What must hold of a key for a commit to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It has no value.
    Absent,
    /// Its value was written by this revision.
    At(Revision),
}

/// One change of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the value.
    Put {
        /// Of which key.
        key: Key,
        /// To what.
        value: Vec<u8>,
    },
    /// Removes the value, if there is one.
    Delete {
        /// Of which key.
        key: Key,
    },
}

/// Changes that happen together or not at all, and the record of who made them.
#[derive(Debug, Clone)]
pub struct Commit {
    /// What must hold.
    pub expect: Vec<(Key, Expect)>,
    /// What changes.
    pub ops: Vec<Op>,
    /// Who, how and why.
    pub audit: audit::Draft,
}

/// An expectation that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Of which key.
    pub key: Key,
    /// The revision that wrote its value; `None` without a value.
    pub found: Option<Revision>,
}

/// Why a commit changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Expectations that did not hold, at least one.
    #[error("the store has changed: {}", .0.iter().map(|c| c.key.as_str()).collect::<Vec<_>>().join(", "))]
    Conflict(Vec<Conflict>),
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed; the disk is full or broken.
    #[error("the store cannot be read or written")]
    Database(#[source] Box<redb::Error>),
    /// The work was cut off, by the end of the process or a defect.
    #[error("the store's work was cut off")]
    Interrupted,
    /// A value is not what its key says.
    #[error("the value of '{0}' cannot be read")]
    Malformed(Key),
    /// A record of the audit log cannot be read.
    #[error("the audit log is damaged")]
    Audit(#[from] audit::Broken),
}

impl StoreError {
    fn from_redb(error: impl Into<redb::Error>) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// How far the store has come, told in one piece: a reader that has all objects up to `objects`, all workloads up to
/// `workloads` and the authorities up to `authority` has everything that concerns a proxy up to `newest`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest revision.
    pub newest: Revision,
    /// The newest that changed an object, since the file was opened.
    pub objects: Revision,
    /// The newest that changed a workload, since the file was opened.
    pub workloads: Revision,
    /// The newest that changed the authorities, since the file was opened.
    pub authority: Revision,
}

/// A handle on the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// One write at a time, in the order of arrival, without holding a blocking thread while waiting.
    writer: Arc<Semaphore>,
}

struct Inner {
    database: redb::Database,
    retention: Retention,
    newest: watch::Sender<Revision>,
    progress: watch::Sender<Progress>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("newest", &*self.newest.borrow()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the file at `path`, or makes it (mode 0600) when there is none. Reads and checks the whole file, the audit
    /// chain included. Blocks: for the start of a process.
    ///
    /// # Errors
    /// The file is in use by another process, damaged, of another version, or cannot be read or made.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, Retention::default())
    }

    /// The same, keeping so much of the past.
    ///
    /// # Errors
    /// As above.
    pub fn open_with(path: &Path, retention: Retention) -> Result<Self, OpenError> {
        let (database, revision) = file::open(path)?;
        let (newest, _) = watch::channel(revision);
        let (progress, _) = watch::channel(Progress { newest: revision, ..Progress::default() });
        Ok(Self {
            inner: Arc::new(Inner { database, retention, newest, progress }),
            writer: Arc::new(Semaphore::new(1)),
        })
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        *self.inner.newest.borrow()
    }

    /// The newest revision, as it grows. Revisions in between may be skipped.
    pub fn watch(&self) -> watch::Receiver<Revision> {
        self.inner.newest.subscribe()
    }

    /// How far the store has come, as it goes on. Told before what was written can be read elsewhere.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.inner.progress.subscribe()
    }

    /// Applies all of `commit` as one revision, durably, or nothing of it.
    ///
    /// Cancel safety: once started, the write is finished whether or not this future is.
    ///
    /// # Errors
    /// An expectation did not hold, or the store failed.
    pub async fn commit(&self, commit: Commit) -> Result<Revision, CommitError> {
        self.write(move |inner| inner.commit(&commit, None)).await?
    }

    /// The same, and keeps the answer, to be given again.
    ///
    /// # Errors
    /// As above.
    pub async fn commit_with(&self, commit: Commit, reply: Option<Reply>) -> Result<Revision, CommitError> {
        self.write(move |inner| inner.commit(&commit, reply.as_ref())).await?
    }

    /// Appends a record that belongs to no revision: that of a refused call. Returns its sequence number.
    ///
    /// # Errors
    /// The store failed.
    pub async fn record(&self, draft: audit::Draft) -> Result<u64, StoreError> {
        self.write(move |inner| inner.record(&draft)).await?
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// The store failed.
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.read(move |inner| inner.get(&key)).await
    }

    /// All values of a keyspace by ascending key, and the revision at which they are read.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(&self, keyspace: Keyspace) -> Result<(Revision, Vec<Entry>), StoreError> {
        self.read(move |inner| inner.list(keyspace)).await
    }

    /// At most `limit` audit records, and not many more than [`PAGE_BYTES`] of them, from sequence number `from` on,
    /// oldest first.
    ///
    /// # Errors
    /// The store failed, or a record cannot be decoded.
    pub async fn audit(&self, from: u64, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        self.read(move |inner| inner.audit(from, limit)).await
    }

    /// The revision at which the store was restored from a backup, until [`settled`](Self::settled) is called.
    ///
    /// # Errors
    /// The store failed.
    pub async fn restored(&self) -> Result<Option<Revision>, StoreError> {
        self.read(|inner| {
            let transaction = inner.database.begin_read().map_err(StoreError::from_redb)?;
            let meta = transaction.open_table(file::META).map_err(StoreError::from_redb)?;
            let restored = meta.get(file::RESTORED).map_err(StoreError::from_redb)?;
            Ok(restored.map(|guard| guard.value()))
        })
        .await
    }

    /// Takes note that everybody is back after a restore.
    ///
    /// # Errors
    /// The store failed.
    pub async fn settled(&self) -> Result<(), StoreError> {
        self.write(|inner| {
            let settle = || -> Result<(), redb::Error> {
                let transaction = inner.database.begin_write()?;
                transaction.open_table(file::META)?.remove(file::RESTORED)?;
                transaction.commit()?;
                Ok(())
            };
            settle().map_err(StoreError::from_redb)
        })
        .await?
    }

    async fn read<T, E>(&self, work: impl FnOnce(&Inner) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner)).await?
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn =
            Arc::clone(&self.writer).acquire_owned().await.map_err(|_closed| StoreError::Interrupted)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let result = work(&inner);
            drop(turn);
            result
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_cut_off| StoreError::Interrupted)
}

impl Inner {
    fn commit(&self, commit: &Commit, reply: Option<&Reply>) -> Result<Revision, CommitError> {
        let transaction = self.database.begin_write().map_err(StoreError::from_redb)?;
        {
            let current = transaction.open_table(file::CURRENT).map_err(StoreError::from_redb)?;
            check(&current, &commit.expect)?;
        }
        let revision = file::next_revision(&transaction).map_err(StoreError::from_redb)?;
        let sequence = append(&transaction, &commit.audit, revision)?;
        self.change(&transaction, &commit.ops, revision, sequence).map_err(StoreError::from_redb)?;
        if let Some(reply) = reply {
            replies::keep(&transaction, reply, revision).map_err(StoreError::from_redb)?;
        }
        transaction.commit().map_err(StoreError::from_redb)?;
        // The writer's turn is still held: revisions are announced in their order.
        self.progress.send_modify(|progress| {
            progress.newest = revision;
            for op in &commit.ops {
                let (Op::Put { key, .. } | Op::Delete { key }) = op;
                if key.is_in(Keyspace::Objects) {
                    progress.objects = revision;
                } else if key.is_in(Keyspace::Workloads) {
                    progress.workloads = revision;
                } else if key.is_authority() {
                    progress.authority = revision;
                }
            }
        });
        self.newest.send_replace(revision);
        Ok(revision)
    }

    /// Applies `ops` as `revision`, and keeps what they did to objects.
    fn change(
        &self,
        transaction: &redb::WriteTransaction,
        ops: &[Op],
        revision: Revision,
        sequence: u64,
    ) -> Result<(), redb::Error> {
        let mut current = transaction.open_table(file::CURRENT)?;
        let mut ledger = history::Ledger::open(transaction)?;
        let mut kept = false;
        for op in ops {
            let (key, value) = match op {
                Op::Put { key, value } => (key, Some(value.as_slice())),
                Op::Delete { key } => (key, None),
            };
            let before = match value {
                Some(value) => current.insert(key.as_str(), (revision, value))?,
                None => current.remove(key.as_str())?,
            };
            let before = before.map(|guard| guard.value().1.len());
            if key.is_in(Keyspace::Objects) && (value.is_some() || before.is_some()) {
                ledger.change(revision, key.as_str(), value, before.unwrap_or(0))?;
                kept = true;
            }
        }
        if kept { ledger.close(revision, sequence, self.retention) } else { Ok(()) }
    }

    fn record(&self, draft: &audit::Draft) -> Result<u64, StoreError> {
        let transaction = self.database.begin_write().map_err(StoreError::from_redb)?;
        let sequence = append(&transaction, draft, 0)?;
        transaction.commit().map_err(StoreError::from_redb)?;
        Ok(sequence)
    }

    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::from_redb)?;
        let current = transaction.open_table(file::CURRENT).map_err(StoreError::from_redb)?;
        let found = current.get(key.as_str()).map_err(StoreError::from_redb)?;
        Ok(found.map(|guard| {
            let (revision, value) = guard.value();
            Entry { key: key.clone(), revision, value: value.to_vec() }
        }))
    }

    fn list(&self, keyspace: Keyspace) -> Result<(Revision, Vec<Entry>), StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::from_redb)?;
        let meta = transaction.open_table(file::META).map_err(StoreError::from_redb)?;
        let revision = file::revision(&meta).map_err(StoreError::from_redb)?;
        let current = transaction.open_table(file::CURRENT).map_err(StoreError::from_redb)?;
        let end = keyspace.end();
        let mut entries = Vec::new();
        for item in current.range(keyspace.prefix()..end.as_str()).map_err(StoreError::from_redb)? {
            let (key, guard) = item.map_err(StoreError::from_redb)?;
            let (revision, value) = guard.value();
            entries.push(Entry { key: Key::from_stored(key.value()), revision, value: value.to_vec() });
        }
        Ok((revision, entries))
    }

    fn audit(&self, from: u64, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::from_redb)?;
        let table = transaction.open_table(file::AUDIT).map_err(StoreError::from_redb)?;
        let mut records = Vec::new();
        let mut total = 0;
        for item in table.range(from..).map_err(StoreError::from_redb)?.take(limit) {
            let (sequence, bytes) = item.map_err(StoreError::from_redb)?;
            records.push(audit::decode(sequence.value(), bytes.value())?);
            total += bytes.value().len();
            if total > PAGE_BYTES {
                break;
            }
        }
        Ok(records)
    }
}

fn check(
    current: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    expect: &[(Key, Expect)],
) -> Result<(), CommitError> {
    let mut conflicts = Vec::new();
    for (key, expected) in expect {
        let found = current.get(key.as_str()).map_err(StoreError::from_redb)?.map(|guard| guard.value().0);
        let holds = match expected {
            Expect::Absent => found.is_none(),
            Expect::At(revision) => found == Some(*revision),
        };
        if !holds {
            conflicts.push(Conflict { key: key.clone(), found });
        }
    }
    if conflicts.is_empty() { Ok(()) } else { Err(CommitError::Conflict(conflicts)) }
}

fn append(
    transaction: &redb::WriteTransaction,
    draft: &audit::Draft,
    revision: Revision,
) -> Result<u64, StoreError> {
    let mut table = transaction.open_table(file::AUDIT).map_err(StoreError::from_redb)?;
    let head = match table.last().map_err(StoreError::from_redb)? {
        Some((sequence, bytes)) => audit::Head::of(&audit::decode(sequence.value(), bytes.value())?),
        None => audit::Head::start(),
    };
    let record = audit::next(&head, draft, revision);
    table
        .insert(record.sequence, prost::Message::encode_to_vec(&record).as_slice())
        .map_err(StoreError::from_redb)?;
    Ok(record.sequence)
}
