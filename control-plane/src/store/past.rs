//! Reading what [`super::history`] keeps: the changes after a revision, the objects at one, an object's versions.

#[cfg(test)]
mod tests;

use outrigger_proto::policy::v1alpha1::AuditRecord;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable};

use super::{Entry, Inner, Key, Keyspace, PAGE_BYTES, Revision, Store, StoreError, file, history};
use crate::audit;

/// Why the past cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is not kept any more.
    #[error("revision {asked} is not kept any more; the oldest that is kept is {oldest}")]
    Compacted {
        /// Which.
        asked: Revision,
        /// The oldest that is.
        oldest: Revision,
    },
    /// It belongs to a time that a restored backup does not know.
    #[error(
        "revision {asked} is not known: the store was restored from a backup of revision {last}, and went on at {next}"
    )]
    Lost {
        /// Which.
        asked: Revision,
        /// The last before.
        last: Revision,
        /// The first after.
        next: Revision,
    },
    /// It is still to come.
    #[error("there is no revision {asked} yet; the newest is {newest}")]
    Future {
        /// Which.
        asked: Revision,
        /// The newest.
        newest: Revision,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a revision did to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub revision: Revision,
    /// To whom.
    pub key: Key,
    /// What it wrote; `None`: it deleted it.
    pub value: Option<Vec<u8>>,
}

/// Changes in their order, whole revisions only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// By revision and key.
    pub changes: Vec<Changed>,
    /// Everything up to this revision is there; go on from here.
    pub until: Revision,
    /// There is more.
    pub more: bool,
}

/// The objects at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// By key.
    pub entries: Vec<Entry>,
    /// The newest revision that changed an object; 0 when no change is kept.
    pub newest_change: Revision,
}

/// One version of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// The revision that made it.
    pub revision: Revision,
    /// Its value; `None`: deleted.
    pub value: Option<Vec<u8>>,
    /// Who made it, as far as it is kept.
    pub record: Option<AuditRecord>,
}

impl Store {
    /// Some of the changes of objects after `revision`, oldest first.
    ///
    /// # Errors
    /// They are not known, or the store failed.
    pub async fn changes(&self, revision: Revision) -> Result<Changes, HistoryError> {
        self.read(move |inner| inner.changes(revision)).await
    }

    /// The objects as they were at `revision`.
    ///
    /// # Errors
    /// They are not known, or the store failed.
    pub async fn past(&self, revision: Revision) -> Result<Past, HistoryError> {
        self.read(move |inner| inner.past(revision)).await
    }

    /// At most `limit` versions of an object older than `before`, and not many more than [`PAGE_BYTES`] of them, newest
    /// first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn versions(
        &self,
        key: &Key,
        before: Revision,
        limit: usize,
    ) -> Result<Vec<Version>, StoreError> {
        let key = key.clone();
        self.read(move |inner| inner.versions(&key, before, limit)).await
    }

    /// At most `limit` records of revisions older than `before` that changed objects, newest first; not many more than
    /// [`PAGE_BYTES`] of them.
    ///
    /// # Errors
    /// The store failed.
    pub async fn revisions(&self, before: Revision, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        self.read(move |inner| inner.revisions(before, limit)).await
    }

    /// The oldest revision whose objects can be told.
    ///
    /// # Errors
    /// The store failed.
    pub async fn oldest(&self) -> Result<Revision, StoreError> {
        self.read(|inner| {
            let transaction = inner.begin()?;
            let facts = transaction.open_table(history::FACTS).map_err(StoreError::from_redb)?;
            history::floor(&facts).map_err(StoreError::from_redb)
        })
        .await
    }
}

impl Inner {
    fn begin(&self) -> Result<ReadTransaction, StoreError> {
        self.database.begin_read().map_err(StoreError::from_redb)
    }

    fn changes(&self, after: Revision) -> Result<Changes, HistoryError> {
        let transaction = self.begin()?;
        let newest = known(&transaction, after)?;
        read_changes(&transaction, after, newest).map_err(|error| StoreError::from_redb(error).into())
    }

    fn past(&self, revision: Revision) -> Result<Past, HistoryError> {
        let transaction = self.begin()?;
        known(&transaction, revision)?;
        read_past(&transaction, revision).map_err(|error| StoreError::from_redb(error).into())
    }

    fn versions(&self, key: &Key, before: Revision, limit: usize) -> Result<Vec<Version>, StoreError> {
        let transaction = self.begin()?;
        let versions = transaction.open_table(history::VERSIONS).map_err(StoreError::from_redb)?;
        let changes = transaction.open_table(history::CHANGES).map_err(StoreError::from_redb)?;
        let range = (key.as_str(), 0)..(key.as_str(), before);
        let (mut found, mut bytes) = (Vec::new(), 0);
        for row in versions.range(range).map_err(StoreError::from_redb)?.rev().take(limit) {
            let revision = row.map_err(StoreError::from_redb)?.0.value().1;
            let value = changes.get((revision, key.as_str())).map_err(StoreError::from_redb)?;
            let value = value.and_then(|guard| guard.value().map(<[u8]>::to_vec));
            bytes += value.as_ref().map_or(0, Vec::len);
            found.push(Version { revision, value, record: record(&transaction, revision)? });
            if bytes > PAGE_BYTES {
                break;
            }
        }
        Ok(found)
    }

    fn revisions(&self, before: Revision, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        let transaction = self.begin()?;
        let revisions = transaction.open_table(history::REVISIONS).map_err(StoreError::from_redb)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for row in revisions.range(..before).map_err(StoreError::from_redb)?.rev().take(limit) {
            let revision = row.map_err(StoreError::from_redb)?.0.value();
            if let Some(record) = record(&transaction, revision)? {
                bytes += prost::Message::encoded_len(&record);
                found.push(record);
            }
            if bytes > PAGE_BYTES {
                break;
            }
        }
        Ok(found)
    }
}

/// Makes sure that `asked` can be told; the newest revision.
fn known(transaction: &ReadTransaction, asked: Revision) -> Result<Revision, HistoryError> {
    let (newest, oldest, gap) = bounds(transaction, asked).map_err(StoreError::from_redb)?;
    if asked > newest {
        return Err(HistoryError::Future { asked, newest });
    }
    if asked < oldest {
        return Err(HistoryError::Compacted { asked, oldest });
    }
    match gap {
        Some((last, next)) if asked > last && asked < next => Err(HistoryError::Lost { asked, last, next }),
        _ => Ok(newest),
    }
}

type Bounds = (Revision, Revision, Option<(Revision, Revision)>);

fn bounds(transaction: &ReadTransaction, asked: Revision) -> Result<Bounds, redb::Error> {
    let newest = file::revision(&transaction.open_table(file::META)?)?;
    let oldest = history::floor(&transaction.open_table(history::FACTS)?)?;
    let lost = transaction.open_table(history::LOST)?;
    let gap = lost.range(..=asked)?.next_back().transpose()?;
    Ok((newest, oldest, gap.map(|(last, next)| (last.value(), next.value()))))
}

fn read_changes(
    transaction: &ReadTransaction,
    after: Revision,
    newest: Revision,
) -> Result<Changes, redb::Error> {
    let table = transaction.open_table(history::CHANGES)?;
    let mut found = Changes { changes: Vec::new(), until: after, more: false };
    let mut bytes = 0;
    for row in table.range((after.saturating_add(1), "")..)? {
        let (key, value) = row?;
        let (revision, key) = key.value();
        if revision != found.until && bytes > PAGE_BYTES {
            found.more = true;
            return Ok(found);
        }
        found.until = revision;
        let value = value.value().map(<[u8]>::to_vec);
        bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        found.changes.push(Changed { revision, key: Key::from_stored(key), value });
    }
    found.until = newest;
    Ok(found)
}

fn read_past(transaction: &ReadTransaction, revision: Revision) -> Result<Past, redb::Error> {
    let versions = transaction.open_table(history::VERSIONS)?;
    let changes = transaction.open_table(history::CHANGES)?;
    // The last version of each key up to the revision: a later row of the same key takes its place.
    let mut last: Vec<(String, Revision)> = Vec::new();
    let end = Keyspace::Objects.end();
    for row in versions.range((Keyspace::Objects.prefix(), 0)..(end.as_str(), 0))? {
        let (row, _) = row?;
        let (key, at) = row.value();
        if at > revision {
            continue;
        }
        match last.last_mut() {
            Some((known, newest)) if known == key => *newest = at,
            _ => last.push((key.to_owned(), at)),
        }
    }
    let mut entries = Vec::with_capacity(last.len());
    for (key, at) in last {
        let value = changes.get((at, key.as_str()))?;
        let value = value.and_then(|guard| guard.value().map(<[u8]>::to_vec));
        entries.extend(value.map(|value| Entry { key: Key::from_stored(&key), revision: at, value }));
    }
    let newest = transaction.open_table(history::REVISIONS)?.last()?.map_or(0, |(newest, _)| newest.value());
    Ok(Past { entries, newest_change: newest })
}

/// The audit record of a revision that is kept.
fn record(transaction: &ReadTransaction, revision: Revision) -> Result<Option<AuditRecord>, StoreError> {
    let revisions = transaction.open_table(history::REVISIONS).map_err(StoreError::from_redb)?;
    let Some(sequence) = revisions.get(revision).map_err(StoreError::from_redb)? else { return Ok(None) };
    let sequence = sequence.value();
    let records = transaction.open_table(file::AUDIT).map_err(StoreError::from_redb)?;
    match records.get(sequence).map_err(StoreError::from_redb)? {
        Some(bytes) => Ok(Some(audit::decode(sequence, bytes.value())?)),
        None => Ok(None),
    }
}
