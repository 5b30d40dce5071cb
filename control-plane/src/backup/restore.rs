//! Restoring a backup into a fresh state directory, for the next start.
//!
//! What was written after the backup is lost, and its revisions must never be given to anything else: the store goes on
//! well beyond them. Proxies keep what they have until they are told otherwise; the first start after this waits for one
//! lease before it tells them, so that every workload that runs is registered again.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::SystemTime,
};

use outrigger_core::wire;
use outrigger_process::files::{self, DirectoryError};
use outrigger_proto::backup::v1alpha1::{File, Header, record::Kind};

use super::archive::{self, ReadError, Reader};
use crate::{
    audit::Draft,
    store::{Load, LoadFailure, Revision},
};

/// In a state directory whose restoring did not come to its end: nothing starts on it.
pub const INCOMPLETE: &str = "restore.incomplete";

/// Revisions are given out anew from the next multiple of this.
const STRIDE: u64 = 1_000_000;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup.
    #[error("the backup {path} cannot be used")]
    Read {
        /// Which.
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

/// Restores the backup `file` into `directory`, which is empty or does not exist. Blocks.
///
/// # Errors
/// What is in the way. The backup is checked as a whole before anything is written.
pub fn restore(file: &Path, directory: &Path, now: SystemTime) -> Result<Restored, RestoreError> {
    let unreadable = |source: ReadError| RestoreError::Read { path: file.to_owned(), source };
    let open = || fs::File::open(file).map(io::BufReader::new).map_err(|error| unreadable(error.into()));
    let header = archive::check(open()?).map_err(unreadable)?;
    if header.schema != crate::store::SCHEMA {
        return Err(RestoreError::Schema {
            found: header.schema,
            known: crate::store::SCHEMA,
            version: header.version,
        });
    }
    files::private_dir(directory)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Write { path, source }
    };
    if fs::read_dir(directory).map_err(failed(directory))?.next().is_some() {
        return Err(RestoreError::NotEmpty(directory.to_owned()));
    }
    let marker = directory.join(INCOMPLETE);
    files::write_atomic(&marker, b"", 0o600).map_err(failed(&marker))?;
    files::private_dir(&directory.join("authority"))?;
    let restored = plan(&header, now);
    let mut reader = Reader::new(open()?).map_err(unreadable)?;
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
    reader: &mut Reader<impl io::Read>,
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
        next: next_revision(header.revision, taken, now),
        taken,
        trust_domain: header.trust_domain.clone(),
    }
}

/// Where a store goes on that was restored at `now` from a backup of `revision`: beyond all that it can have written since
/// `taken`, at less than a million writes a minute, and beyond what an earlier restore of the same backup gave out.
fn next_revision(revision: Revision, taken: SystemTime, now: SystemTime) -> Revision {
    let minutes = now.duration_since(taken).unwrap_or_default().as_secs() / 60;
    (revision / STRIDE).saturating_add(1).saturating_add(minutes).saturating_mul(STRIDE)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{STRIDE, next_revision};

    #[test]
    fn no_revision_is_given_out_twice() {
        let taken = SystemTime::UNIX_EPOCH + Duration::from_hours(1000);
        assert_eq!(next_revision(41, taken, taken), STRIDE);
        assert_eq!(next_revision(STRIDE, taken, taken), 2 * STRIDE);
        let hour = next_revision(41, taken, taken + Duration::from_hours(1));
        assert_eq!(hour, 61 * STRIDE);
        assert_eq!(
            next_revision(41, taken, taken - Duration::from_hours(1)),
            STRIDE,
            "a clock that went back"
        );
    }
}
