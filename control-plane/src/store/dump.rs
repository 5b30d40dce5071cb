//! The store as rows: all of it at one revision, and a new store made of such rows.

use std::path::{Path, PathBuf};

use redb::{
    Key as RedbKey, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, Value,
    WriteTransaction,
};

use super::{Keyspace, OpenError, Revision, Store, StoreError, append, file, history, replies};
use crate::audit::Draft;

/// The schema that this version reads and writes.
pub const SCHEMA: u64 = file::SCHEMA_VERSION;
/// Rows that are written at once.
const BATCH: usize = 1000;

/// Something to do with each table.
trait Visit {
    type Error;

    fn table<K: RedbKey + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), Self::Error>;
}

/// Shows every table to `visitor`.
fn every_table<V: Visit>(visitor: &mut V) -> Result<(), V::Error> {
    visitor.table(file::META)?;
    visitor.table(file::CURRENT)?;
    visitor.table(file::AUDIT)?;
    visitor.table(history::CHANGES)?;
    visitor.table(history::VERSIONS)?;
    visitor.table(history::REVISIONS)?;
    visitor.table(history::LOST)?;
    visitor.table(history::FACTS)?;
    visitor.table(replies::REPLIES)?;
    visitor.table(replies::REPLIES_BY_AGE)
}

/// The store at one revision, whatever is written meanwhile.
pub struct Dump {
    transaction: ReadTransaction,
    schema: u64,
    revision: Revision,
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Store {
    /// The store as it is now. Blocks.
    ///
    /// # Errors
    /// The store failed.
    pub fn dump(&self) -> Result<Dump, StoreError> {
        let begin = || -> Result<Dump, redb::Error> {
            let transaction = self.inner.database.begin_read()?;
            let meta = transaction.open_table(file::META)?;
            let revision = file::revision(&meta)?;
            Ok(Dump { schema: file::schema(&meta)?, revision, transaction })
        };
        begin().map_err(StoreError::from_redb)
    }
}

impl Dump {
    /// The schema of the rows.
    pub fn schema(&self) -> u64 {
        self.schema
    }

    /// The newest revision in it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Shows each row to `emit`: table, key, value. Blocks.
    ///
    /// # Errors
    /// The store failed, or `emit` did.
    pub fn rows<E: From<StoreError>>(
        &self,
        emit: impl FnMut(&str, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        every_table(&mut Rows { transaction: &self.transaction, emit, error: std::marker::PhantomData })
    }
}

struct Rows<'a, F, E> {
    transaction: &'a ReadTransaction,
    emit: F,
    error: std::marker::PhantomData<E>,
}

impl<F, E> Visit for Rows<'_, F, E>
where
    E: From<StoreError>,
    F: FnMut(&str, &[u8], &[u8]) -> Result<(), E>,
{
    type Error = E;

    fn table<K: RedbKey + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), E> {
        let name = table.name().to_owned();
        let opened = self.transaction.open_table(table).map_err(StoreError::from_redb)?;
        for row in opened.iter().map_err(StoreError::from_redb)? {
            let (key, value) = row.map_err(StoreError::from_redb)?;
            let (key, value) = (key.value(), value.value());
            (self.emit)(&name, K::as_bytes(&key).as_ref(), V::as_bytes(&value).as_ref())?;
        }
        Ok(())
    }
}

/// Why a store cannot be made of rows.
#[derive(Debug, thiserror::Error)]
pub enum LoadFailure {
    /// The file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table of another version.
    #[error("there is no table '{0}' in this version's store")]
    Table(String),
    /// The rows are not those of the revision that they should be of.
    #[error("the rows are of revision {found}, not of {expected}")]
    Revision {
        /// The revision in the rows.
        found: Revision,
        /// The one that was said.
        expected: Revision,
    },
}

/// A store in the making. Nothing of it is there before it is finished.
pub struct Load {
    path: PathBuf,
    draft: PathBuf,
    database: redb::Database,
    transaction: WriteTransaction,
    table: String,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Load {
    /// Begins one at `path`. Blocks.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn begin(path: &Path) -> Result<Self, LoadFailure> {
        let draft = path.with_extension("new");
        file::draft(path, &draft)?;
        let failed = |error: redb::Error| StoreError::from_redb(error);
        let database = redb::Database::create(&draft).map_err(|error| failed(error.into()))?;
        let transaction = database.begin_write().map_err(|error| failed(error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            draft,
            database,
            transaction,
            table: String::new(),
            rows: Vec::new(),
        })
    }

    /// Adds a row. Blocks.
    ///
    /// # Errors
    /// There is no such table, or it cannot be written.
    pub fn row(&mut self, table: String, key: Vec<u8>, value: Vec<u8>) -> Result<(), LoadFailure> {
        if table != self.table || self.rows.len() >= BATCH {
            self.flush()?;
            self.table = table;
        }
        self.rows.push((key, value));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LoadFailure> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let mut insert = Insert { transaction: &self.transaction, table: &self.table, rows, found: false };
        every_table(&mut insert).map_err(StoreError::from_redb)?;
        if insert.found { Ok(()) } else { Err(LoadFailure::Table(self.table.clone())) }
    }

    /// Makes the store of the rows, which are of `revision`; it goes on at `next`, knows that what was between is lost,
    /// and is on record with `audit`. Join tokens are left out: one that was redeemed since must not be redeemed again.
    /// Blocks.
    ///
    /// # Errors
    /// It cannot be written, or is not a whole store.
    pub fn finish(mut self, revision: Revision, next: Revision, audit: &Draft) -> Result<(), LoadFailure> {
        self.flush()?;
        let Self { path, draft, database, transaction, .. } = self;
        let found = go_on(&transaction, revision, next).map_err(StoreError::from_redb)?;
        if found != revision {
            return Err(LoadFailure::Revision { found, expected: revision });
        }
        append(&transaction, audit, next)?;
        transaction.commit().map_err(StoreError::from_redb)?;
        drop(database);
        file::publish(&path, &draft)?;
        // As any start would: a store that does not open is found now.
        drop(Store::open(&path)?);
        Ok(())
    }
}

/// Leaves the rows at `next`; the revision that they are of.
fn go_on(
    transaction: &WriteTransaction,
    revision: Revision,
    next: Revision,
) -> Result<Revision, redb::Error> {
    every_table(&mut Touch(transaction))?;
    let mut meta = transaction.open_table(file::META)?;
    let found = file::revision(&meta)?;
    meta.insert(file::REVISION, next)?;
    meta.insert(file::RESTORED, next)?;
    transaction.open_table(history::LOST)?.insert(revision, next)?;
    let mut current = transaction.open_table(file::CURRENT)?;
    let end = Keyspace::Tokens.end();
    let mut tokens = Vec::new();
    for row in current.range(Keyspace::Tokens.prefix()..end.as_str())? {
        tokens.push(row?.0.value().to_owned());
    }
    for token in tokens {
        current.remove(token.as_str())?;
    }
    Ok(found)
}

/// Makes the tables that had no rows.
struct Touch<'a>(&'a WriteTransaction);

impl Visit for Touch<'_> {
    type Error = redb::Error;

    fn table<K: RedbKey + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), redb::Error> {
        self.0.open_table(table)?;
        Ok(())
    }
}

struct Insert<'a> {
    transaction: &'a WriteTransaction,
    table: &'a str,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    found: bool,
}

impl Visit for Insert<'_> {
    type Error = redb::Error;

    fn table<K: RedbKey + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), redb::Error> {
        if table.name() != self.table {
            return Ok(());
        }
        self.found = true;
        let mut opened = self.transaction.open_table(table)?;
        for (key, value) in &self.rows {
            opened.insert(K::from_bytes(key), V::from_bytes(value))?;
        }
        Ok(())
    }
}
