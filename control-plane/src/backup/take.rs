//! Taking a backup: the authority's files and one read transaction of the store.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use outrigger_core::model::TrustDomain;
use outrigger_proto::backup::v1alpha1::{File, Header, Row, record::Kind};

use super::archive::Writer;
use crate::store::{Dump, Store, StoreError};

/// Files of an authority at most; more is none of ours.
const MAX_FILES: usize = 256;
/// Longest file of an authority, bytes.
const MAX_FILE: u64 = 1 << 20;
/// How often the authority's files are read again because they changed.
const TRIES: usize = 5;

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority's files.
    #[error("{path} cannot be read")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// They are not what they should be.
    #[error("{path} is not a file of an authority")]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// They change all the time.
    #[error("the authority's files are being changed; try again")]
    Busy,
    /// Nobody takes the pieces any more.
    #[error("the backup was given up")]
    GivenUp,
}

/// Everything that must not be lost, at one moment.
pub struct Snapshot {
    header: Header,
    files: Vec<File>,
    dump: Dump,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Takes it. Blocks.
    ///
    /// # Errors
    /// The store or the files cannot be read, or the files do not stand still.
    pub fn take(
        store: &Store,
        authority: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, TakeError> {
        let mut files = read(authority)?;
        for _ in 0..TRIES {
            let dump = store.dump()?;
            // The store says which authority is right: both must be of one moment.
            let again = read(authority)?;
            if again == files {
                let header = Header {
                    schema: dump.schema(),
                    revision: dump.revision(),
                    trust_domain: trust_domain.to_string(),
                    taken: Some(now.into()),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                return Ok(Self { header, files, dump });
            }
            files = again;
        }
        Err(TakeError::Busy)
    }

    /// The revision that it is of.
    pub fn revision(&self) -> u64 {
        self.header.revision
    }

    /// Gives the backup to `send` piece by piece, as long as it takes them. Blocks.
    ///
    /// # Errors
    /// The store cannot be read, or `send` said no.
    pub fn write(self, mut send: impl FnMut(Vec<u8>) -> bool) -> Result<(), TakeError> {
        let mut writer = Writer::new();
        let mut add = |writer: &mut Writer, kind| {
            let taken = writer.add(kind).is_none_or(&mut send);
            if taken { Ok(()) } else { Err(TakeError::GivenUp) }
        };
        add(&mut writer, Kind::Header(self.header))?;
        for file in self.files {
            add(&mut writer, Kind::File(file))?;
        }
        self.dump.rows(|table, key, value| {
            let row = Row { table: table.to_owned(), key: key.to_vec(), value: value.to_vec() };
            add(&mut writer, Kind::Row(row))
        })?;
        if send(writer.finish()) { Ok(()) } else { Err(TakeError::GivenUp) }
    }
}

/// The files of an authority by name, without what a write under way leaves.
fn read(directory: &Path) -> Result<Vec<File>, TakeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TakeError::Io { path, source }
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            continue;
        }
        let metadata = fs::symlink_metadata(&path).map_err(failed(&path))?;
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        match name {
            Some(name) if metadata.is_file() && metadata.len() <= MAX_FILE && files.len() < MAX_FILES => {
                let content = fs::read(&path).map_err(failed(&path))?;
                files.push(File { name, content });
            }
            _ => return Err(TakeError::Foreign { path }),
        }
    }
    files.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(files)
}
