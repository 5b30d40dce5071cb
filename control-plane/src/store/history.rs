//! What the objects were: every change of an object is kept beside its newest value, as far back as [`Retention`] allows.
//! Written in the transaction of the change itself.
//!
//! From the floor on, the objects of any revision can be told: of what is older, the last version before the floor is
//! kept, and nothing else. The floor rises with the writes that make it necessary, a few rows each.

use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};

use super::Revision;

/// (revision, key) -> the value that it wrote; `None`: it deleted it.
pub(super) const CHANGES: TableDefinition<'static, (u64, &str), Option<&[u8]>> =
    TableDefinition::new("changes");
/// The same rows by (key, revision).
pub(super) const VERSIONS: TableDefinition<'static, (&str, u64), ()> = TableDefinition::new("versions");
/// Revision that changed an object -> sequence number of its audit record. None below the floor.
pub(super) const REVISIONS: TableDefinition<'static, u64, u64> = TableDefinition::new("revisions");
/// Revisions that are nobody's: after the first, and before the second, there may have been others that a restored backup
/// does not know.
pub(super) const LOST: TableDefinition<'static, u64, u64> = TableDefinition::new("lost");
/// [`FLOOR`] and [`SUPERSEDED`].
pub(super) const FACTS: TableDefinition<'static, &str, u64> = TableDefinition::new("history");

/// The oldest revision whose objects can be told.
pub(super) const FLOOR: &str = "floor";
/// Bytes of the values in [`CHANGES`] that are not the newest of their key.
const SUPERSEDED: &str = "superseded";

/// How much of the past is kept; at least the newest revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Revisions that changed objects, at least 1.
    pub revisions: u64,
    /// Bytes of values that were replaced or deleted.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { revisions: 10_000, bytes: 64 << 20 }
    }
}

/// The tables of one write.
pub(super) struct Ledger<'t> {
    changes: Table<'t, (u64, &'static str), Option<&'static [u8]>>,
    versions: Table<'t, (&'static str, u64), ()>,
    revisions: Table<'t, u64, u64>,
    facts: Table<'t, &'static str, u64>,
    superseded: u64,
}

impl<'t> Ledger<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let facts = transaction.open_table(FACTS)?;
        let superseded = facts.get(SUPERSEDED)?.map_or(0, |guard| guard.value());
        transaction.open_table(LOST)?;
        Ok(Self {
            changes: transaction.open_table(CHANGES)?,
            versions: transaction.open_table(VERSIONS)?,
            revisions: transaction.open_table(REVISIONS)?,
            facts,
            superseded,
        })
    }

    /// Takes note that `revision` wrote `value` to `key`, in the place of a value of `replaced` bytes.
    pub(super) fn change(
        &mut self,
        revision: Revision,
        key: &str,
        value: Option<&[u8]>,
        replaced: usize,
    ) -> Result<(), redb::Error> {
        self.changes.insert((revision, key), value)?;
        self.versions.insert((key, revision), ())?;
        self.superseded += length(replaced);
        Ok(())
    }

    /// Ends `revision`, which the audit record `sequence` tells of, and forgets what `retention` does not keep.
    pub(super) fn close(
        mut self,
        revision: Revision,
        sequence: u64,
        retention: Retention,
    ) -> Result<(), redb::Error> {
        self.revisions.insert(revision, sequence)?;
        while self.revisions.len()? > retention.revisions || self.superseded > retention.bytes {
            let above = floor(&self.facts)? + 1;
            let next = self.revisions.range(above..)?.next().transpose()?.map(|(next, _)| next.value());
            let Some(next) = next else { break };
            self.raise(next)?;
        }
        self.facts.insert(SUPERSEDED, self.superseded)?;
        Ok(())
    }

    /// Begins a history with what there is: no more is known.
    pub(super) fn begin(mut self, revision: Revision) -> Result<(), redb::Error> {
        self.facts.insert(FLOOR, revision)?;
        self.facts.insert(SUPERSEDED, 0)?;
        Ok(())
    }

    /// Makes `floor` the oldest revision that can be told; the next one after the old floor.
    fn raise(&mut self, floor: Revision) -> Result<(), redb::Error> {
        let mut changed = Vec::new();
        for row in self.changes.range((floor, "")..(floor + 1, ""))? {
            let (key, value) = row?;
            changed.push((key.value().1.to_owned(), value.value().is_some()));
        }
        for (key, present) in changed {
            let mut older = Vec::new();
            for row in self.versions.range((key.as_str(), 0)..(key.as_str(), floor))? {
                older.push(row?.0.value().1);
            }
            for revision in older {
                self.forget(revision, &key)?;
            }
            if !present {
                self.forget(floor, &key)?;
            }
        }
        let mut ended = Vec::new();
        for row in self.revisions.range(..floor)? {
            ended.push(row?.0.value());
        }
        for revision in ended {
            self.revisions.remove(revision)?;
        }
        self.facts.insert(FLOOR, floor)?;
        Ok(())
    }

    fn forget(&mut self, revision: Revision, key: &str) -> Result<(), redb::Error> {
        self.versions.remove((key, revision))?;
        if let Some(removed) = self.changes.remove((revision, key))? {
            let bytes = removed.value().map_or(0, <[u8]>::len);
            self.superseded = self.superseded.saturating_sub(length(bytes));
        }
        Ok(())
    }
}

/// The oldest revision whose objects can be told.
pub(super) fn floor(facts: &impl ReadableTable<&'static str, u64>) -> Result<Revision, redb::StorageError> {
    Ok(facts.get(FLOOR)?.map_or(0, |guard| guard.value()))
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
