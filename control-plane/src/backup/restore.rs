//! Restoring a backup into a fresh state directory, for the next start.
//!
//! What was written after the backup is lost, and its revisions must never be given to anything else: the store goes on
//! well beyond them. Proxies keep what they have until they are told otherwise; the first start after this waits for one
//! lease before it tells them, so that every workload that runs is registered again.

use std::{
    fs,
    io::{self, BufReader, Read, Seek as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::SystemTime,
};

use outrigger_core::wire;
use outrigger_process::files::{self, DirectoryError};
use outrigger_proto::backup::v1alpha1::{File, Header, record::Kind};

use super::{
    archive::{self, ReadError, Reader},
    spool,
};
use crate::{
    audit::Draft,
    store::{Load, LoadFailure, Revision},
};

/// In a state directory whose restoring did not come to its end: nothing starts on it.
pub const INCOMPLETE: &str = "restore.incomplete";

/// The name of a backup that is none of a file.
const STANDARD_INPUT: &str = "-";
/// Revisions are given out anew from a multiple of this. The product with the seconds since 1970 stays exact in a JSON
/// number (2^53) for two centuries.
const STRIDE: u64 = 1_000_000;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup.
    #[error("the backup {} cannot be used", named(path))]
    Read {
        /// Which; `-` is standard input.
        path: PathBuf,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The backup is of another version.
    #[error(
        "the backup has schema {found}, this version reads schema {known}; use the version that wrote it ({version})"
    )]
    Schema {
        /// That of the backup.
        found: u64,
        /// Ours.
        known: u64,
        /// Of the control plane that made it.
        version: String,
    },
    /// The state directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The state directory holds something.
    #[error("{0} is not empty; restore into a directory that is empty or does not exist")]
    NotEmpty(PathBuf),
    /// A file cannot be written.
    #[error("{path} cannot be written; empty the directory before you try again")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store cannot be made.
    #[error("the store cannot be made; empty the directory before you try again")]
    Store(#[from] LoadFailure),
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The backup's revision.
    pub revision: Revision,
    /// The revision that the store goes on at.
    pub next: Revision,
    /// When the backup was taken.
    pub taken: SystemTime,
    /// The mesh's trust domain.
    pub trust_domain: String,
}

impl Restored {
    /// What became of it, for whoever restored it.
    pub fn sentence(&self, directory: &Path) -> String {
        format!(
            "restored {} as of revision {}, taken at {}, into {}; it goes on at revision {}",
            self.trust_domain,
            self.revision,
            rfc3339(self.taken),
            directory.display(),
            self.next
        )
    }
}

/// Restores the backup `file` (`-`: standard input) into `directory`, which is empty or does not exist. Blocks.
///
/// # Errors
/// What is in the way. The backup is checked as a whole before anything is written.
pub fn restore(file: &Path, directory: &Path, now: SystemTime) -> Result<Restored, RestoreError> {
    let unreadable = |source: ReadError| RestoreError::Read { path: file.to_owned(), source };
    let (header, content) = checked(file, directory)?;
    if header.schema != crate::store::SCHEMA {
        return Err(RestoreError::Schema {
            found: header.schema,
            known: crate::store::SCHEMA,
            version: header.version,
        });
    }
    fresh(directory)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Write { path, source }
    };
    let marker = directory.join(INCOMPLETE);
    files::write_atomic(&marker, b"", 0o600).map_err(failed(&marker))?;
    files::private_dir(&directory.join("authority"))?;
    let restored = plan(&header, now);
    let mut reader = Reader::new(BufReader::new(content)).map_err(unreadable)?;
    // As at the opening of a store: rows that cannot be what was written may make it panic.
    let made = catch_unwind(AssertUnwindSafe(|| unpack(&mut reader, directory, &restored, now)));
    match made {
        Ok(made) => made.map_err(|error| match error {
            Unpack::Read(source) => unreadable(source),
            Unpack::Restore(error) => error,
        })?,
        Err(_panic) => return Err(unreadable(ReadError::Damaged("a row is not what its table holds"))),
    }
    fs::remove_file(&marker).map_err(failed(&marker))?;
    Ok(restored)
}

/// The backup's header, and the backup at its beginning, of which all was read and found right.
fn checked(file: &Path, directory: &Path) -> Result<(Header, fs::File), RestoreError> {
    let unreadable = |source: ReadError| RestoreError::Read { path: file.to_owned(), source };
    if file == Path::new(STANDARD_INPUT) {
        fresh(directory)?;
        return spool::copy(io::stdin().lock(), directory).map_err(unreadable);
    }
    let mut content = fs::File::open(file).map_err(|error| unreadable(error.into()))?;
    let metadata = content.metadata().map_err(|error| unreadable(error.into()))?;
    if !metadata.is_file() {
        fresh(directory)?;
        return spool::copy(content, directory).map_err(unreadable);
    }
    let header = archive::check(BufReader::new(&content)).map_err(unreadable)?;
    content.rewind().map_err(|error| unreadable(error.into()))?;
    Ok((header, content))
}

/// Makes sure that `directory` is there, private, and empty.
fn fresh(directory: &Path) -> Result<(), RestoreError> {
    files::private_dir(directory)?;
    let unusable = |source| RestoreError::Write { path: directory.to_owned(), source };
    if fs::read_dir(directory).map_err(unusable)?.next().is_some() {
        return Err(RestoreError::NotEmpty(directory.to_owned()));
    }
    Ok(())
}

fn named(file: &Path) -> String {
    if file == Path::new(STANDARD_INPUT) {
        "on standard input".to_owned()
    } else {
        file.display().to_string()
    }
}

enum Unpack {
    Read(ReadError),
    Restore(RestoreError),
}

impl<E: Into<RestoreError>> From<E> for Unpack {
    fn from(error: E) -> Self {
        Self::Restore(error.into())
    }
}

fn unpack(
    reader: &mut Reader<impl Read>,
    directory: &Path,
    restored: &Restored,
    now: SystemTime,
) -> Result<(), Unpack> {
    let store = directory.join("store.redb");
    let mut load = Load::begin(&store)?;
    while let Some(kind) = reader.next().map_err(Unpack::Read)? {
        match kind {
            Kind::Row(row) => load.row(row.table, row.key, row.value)?,
            Kind::File(file) => write(&directory.join("authority"), &file)?,
            Kind::Header(_) | Kind::Trailer(_) => {}
        }
    }
    let taken = rfc3339(restored.taken);
    let draft = Draft::own(
        now,
        &format!("spiffe://{}/outrigger/control-plane", restored.trust_domain),
        "control_plane.Restore",
        format!(
            "from a backup of revision {}, taken at {taken}; later revisions are lost",
            restored.revision
        ),
    );
    load.finish(restored.revision, restored.next, &draft)?;
    Ok(())
}

fn rfc3339(at: SystemTime) -> String {
    let at = time::OffsetDateTime::from(at);
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

fn write(directory: &Path, file: &File) -> Result<(), RestoreError> {
    let path = directory.join(&file.name);
    // A name that is more than a name would lead out of the directory.
    if Path::new(&file.name).file_name().is_none_or(|name| name != file.name.as_str()) {
        let source = io::Error::new(io::ErrorKind::InvalidData, "the backup gives it a name that is none");
        return Err(RestoreError::Write { path, source });
    }
    files::write_atomic(&path, &file.content, 0o600).map_err(|source| RestoreError::Write { path, source })
}

fn plan(header: &Header, now: SystemTime) -> Restored {
    let taken = header.taken.as_ref().and_then(wire::time::decode_timestamp).unwrap_or(now);
    Restored {
        revision: header.revision,
        next: next_revision(header.revision, now),
        taken,
        trust_domain: header.trust_domain.clone(),
    }
}

/// Where a store goes on that was restored at `now` from a backup of `revision`: a million for each second since 1970. No
/// store writes that much, so what was written since the backup, and what an earlier restore of any backup gave out, is
/// below. A clock that is behind all of that leaves the next million.
fn next_revision(revision: Revision, now: SystemTime) -> Revision {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    (revision / STRIDE).saturating_add(1).max(seconds).saturating_mul(STRIDE)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{STRIDE, next_revision};

    #[test]
    fn no_revision_is_given_out_twice() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let next = next_revision(41, now);
        assert_eq!(next, 1_800_000_000 * STRIDE);
        // Two restores of one backup, within a minute.
        let second = next_revision(41, now + Duration::from_secs(40));
        assert_eq!(second, next + 40 * STRIDE);
        // A backup of what was restored first, restored after the second.
        assert!(next_revision(next + 7, now + Duration::from_secs(60)) > second + 1_000);
        assert_eq!(next_revision(next + 7, SystemTime::UNIX_EPOCH), next + STRIDE, "a clock that went back");
        assert_eq!(next_revision(41, SystemTime::UNIX_EPOCH - Duration::from_secs(1)), STRIDE);
    }
}
