//! The store's file: its tables, its first making, and the checks at its opening.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    Keyspace, Revision,
    history::{self, Ledger},
    replies,
};
use crate::audit;

/// Key -> (revision of the last write, value).
pub(super) const CURRENT: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("current");
/// Sequence number -> encoded `AuditRecord`.
pub(super) const AUDIT: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("audit");
/// [`SCHEMA`], [`REVISION`] and [`RESTORED`].
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

const SCHEMA: &str = "schema";
pub(super) const SCHEMA_VERSION: u64 = 2;
/// The one before: no history, no replies.
const SCHEMA_WITHOUT_HISTORY: u64 = 1;
pub(super) const REVISION: &str = "revision";
/// The revision at which it was restored from a backup; none once everybody is back.
pub(super) const RESTORED: &str = "restored";

/// The database's page cache, bytes; its own default of 1 GiB is more than a control plane should ever take.
const CACHE: usize = 16 << 20;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error(
        "{path} is in use by another process; is a control plane already running on this state directory?"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error(
        "{path} is damaged ({defect}); nothing of it was read. Restore it from a backup, or move it away to start with \
         an empty store"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it shows.
        defect: String,
    },
    /// Another version wrote it.
    #[error(
        "{path} has schema {found}, this version reads schema {SCHEMA_VERSION}; use the version that wrote it"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        found: u64,
    },
    /// It cannot be read or made.
    #[error("{path} cannot be opened")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Opens or makes the file, and checks all of it.
pub(super) fn open(path: &Path) -> Result<(redb::Database, Revision), OpenError> {
    if !path.try_exists().map_err(|source| OpenError::Io { path: path.to_owned(), source })? {
        make(path)?;
    }
    // On a page that cannot be what redb wrote, it panics in some places where it could return an error.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = redb::Builder::new()
            .set_cache_size(CACHE)
            .set_check_integrity_on_open(true)
            .open(path)
            .map_err(|error| classify(path, error.into()))?;
        upgrade(&database).map_err(|error| classify(path, error))?;
        let revision = verify(path, &database)?;
        Ok((database, revision))
    }));
    opened.unwrap_or_else(|_panic| Err(damaged(path, "a page is not what was written")))
}

/// Makes an empty store beside `path` and moves it there whole: a file at `path` is never half made, so that an empty
/// or short one is always damage.
fn make(path: &Path) -> Result<(), OpenError> {
    let new = path.with_extension("new");
    draft(path, &new)?;
    initialise(&new).map_err(|error| classify(path, error))?;
    publish(path, &new)
}

/// Makes the empty file `draft`, to become that at `path`.
pub(super) fn draft(path: &Path, draft: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft).map(drop).map_err(io)
}

/// Moves `draft`, which is whole, to `path`.
pub(super) fn publish(path: &Path, draft: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    fs::rename(draft, path).map_err(io)?;
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    }
    Ok(())
}

fn initialise(draft: &Path) -> Result<(), redb::Error> {
    let database = redb::Database::create(draft)?;
    let transaction = database.begin_write()?;
    transaction.open_table(CURRENT)?;
    transaction.open_table(AUDIT)?;
    transaction.open_table(replies::REPLIES)?;
    transaction.open_table(replies::REPLIES_BY_AGE)?;
    Ledger::open(&transaction)?.begin(0)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(SCHEMA, SCHEMA_VERSION)?;
        meta.insert(REVISION, 0)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Gives a file of the version before what it lacks. Its history begins with what is in it.
fn upgrade(database: &redb::Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let schema = meta.get(SCHEMA)?.map(|guard| guard.value());
        if schema != Some(SCHEMA_WITHOUT_HISTORY) {
            // Nothing was written: the transaction is dropped.
            return Ok(());
        }
        let newest = revision(&meta)?;
        transaction.open_table(replies::REPLIES)?;
        transaction.open_table(replies::REPLIES_BY_AGE)?;
        let mut ledger = Ledger::open(&transaction)?;
        let current = transaction.open_table(CURRENT)?;
        let end = Keyspace::Objects.end();
        for row in current.range(Keyspace::Objects.prefix()..end.as_str())? {
            let (key, value) = row?;
            let (revision, value) = value.value();
            ledger.change(revision, key.value(), Some(value), 0)?;
        }
        ledger.begin(newest)?;
        meta.insert(SCHEMA, SCHEMA_VERSION)?;
    }
    transaction.commit()?;
    Ok(())
}

fn verify(path: &Path, database: &redb::Database) -> Result<Revision, OpenError> {
    let wrong = |error: redb::Error| classify(path, error);
    let mode =
        fs::metadata(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?.permissions();
    if mode.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    }
    let transaction = database.begin_read().map_err(|error| wrong(error.into()))?;
    let meta = transaction.open_table(META).map_err(|error| wrong(error.into()))?;
    let schema = schema(&meta).map_err(|error| wrong(error.into()))?;
    if schema != SCHEMA_VERSION {
        return Err(OpenError::Schema { path: path.to_owned(), found: schema });
    }
    let newest = revision(&meta).map_err(|error| wrong(error.into()))?;
    let current = transaction.open_table(CURRENT).map_err(|error| wrong(error.into()))?;
    let changes = transaction.open_table(history::CHANGES).map_err(|error| wrong(error.into()))?;
    for item in current.iter().map_err(|error| wrong(error.into()))? {
        let (key, value) = item.map_err(|error| wrong(error.into()))?;
        if value.value().0 > newest {
            return Err(damaged(path, &format!("'{}' is newer than the store", key.value())));
        }
        let is_object = key.value().starts_with(Keyspace::Objects.prefix());
        if is_object {
            let kept = changes.get((value.value().0, key.value())).map_err(|error| wrong(error.into()))?;
            if kept.is_none_or(|kept| kept.value() != Some(value.value().1)) {
                return Err(damaged(path, &format!("'{}' is not what its history says", key.value())));
            }
        }
    }
    verify_audit(path, &transaction)?;
    Ok(newest)
}

fn verify_audit(path: &Path, transaction: &redb::ReadTransaction) -> Result<(), OpenError> {
    let wrong = |error: redb::Error| classify(path, error);
    let table = transaction.open_table(AUDIT).map_err(|error| wrong(error.into()))?;
    let mut head = audit::Head::start();
    for item in table.iter().map_err(|error| wrong(error.into()))? {
        let (sequence, bytes) = item.map_err(|error| wrong(error.into()))?;
        head = audit::decode(sequence.value(), bytes.value())
            .and_then(|record| audit::follow(&head, &record))
            .map_err(|broken| damaged(path, &broken.to_string()))?;
    }
    Ok(())
}

/// The newest revision, 0 in an empty store.
pub(super) fn revision(meta: &impl ReadableTable<&'static str, u64>) -> Result<Revision, redb::StorageError> {
    Ok(meta.get(REVISION)?.map_or(0, |guard| guard.value()))
}

/// Which version wrote it.
pub(super) fn schema(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, redb::StorageError> {
    Ok(meta.get(SCHEMA)?.map_or(0, |guard| guard.value()))
}

/// Takes the next revision.
pub(super) fn next_revision(transaction: &redb::WriteTransaction) -> Result<Revision, redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let next = revision(&meta)? + 1;
    meta.insert(REVISION, next)?;
    Ok(next)
}

fn damaged(path: &Path, defect: &str) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), defect: defect.to_owned() }
}

fn classify(path: &Path, error: redb::Error) -> OpenError {
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            OpenError::InUse { path: path.to_owned() }
        }
        // What redb reports for a file that is shorter than it says, or not its own.
        redb::Error::Io(source)
            if matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
        {
            damaged(path, &source.to_string())
        }
        redb::Error::Io(source) => OpenError::Io { path: path.to_owned(), source },
        other => damaged(path, &other.to_string()),
    }
}
