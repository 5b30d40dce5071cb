//! Files that are whole or not there: written beside and renamed, and checked when read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};

/// Magic, schema, length, SHA-256 of all that and the payload.
const HEADER: usize = 8 + 4 + 8 + 32;
/// Where the checksum starts.
const CHECKSUM: usize = 8 + 4 + 8;

/// Why a private directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system says no.
    #[error("the directory {} cannot be used", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else is there.
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// Another user's.
    #[error("the directory {} belongs to user {owner}: choose another, or run as that user", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// Others may look inside.
    #[error("the directory {} is open to other users: chmod 700 it", .0.display())]
    Open(PathBuf),
}

/// Makes sure that `path` is a directory for our eyes only: makes it (0700, parents included), or checks that it is
/// ours and closed to others. Blocks.
///
/// # Errors
/// If it cannot be made, is not a directory, belongs to somebody else, or is open to others.
pub fn private_dir(path: &Path) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Io { path: path.to_owned(), source };
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            return Err(DirectoryError::NotDirectory(path.to_owned()));
        }
        outcome => outcome.map_err(failed)?,
    }
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(DirectoryError::Foreign { path: path.to_owned(), owner: metadata.uid() });
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(DirectoryError::Open(path.to_owned()));
    }
    Ok(())
}

/// Replaces the file at `path` by `bytes`, with `mode`: a reader, or a crash, finds the old content or the new, on disk
/// when this returns. Blocks. One writer at a time.
///
/// # Errors
/// If the file cannot be written, flushed or renamed; the old one is untouched then.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
        .to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // A leftover of a crash may have been made with another mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// What a checked file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What kind of file it is.
    pub magic: [u8; 8],
    /// The version of its content.
    pub schema: u32,
}

/// Why a checked file cannot be used. In every case but `Missing` it should be set aside, not repaired.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("there is no such file")]
    Missing,
    /// The file system says no.
    #[error("the file cannot be read")]
    Io(#[source] io::Error),
    /// Larger than it may be.
    #[error("the file is larger than {0} bytes")]
    TooLarge(usize),
    /// Another kind of file.
    #[error("the file is of another kind")]
    Magic,
    /// Written by another version.
    #[error("the file has schema {0}, which this version does not know")]
    Schema(u32),
    /// It ends too early.
    #[error("the file is cut off")]
    Truncated,
    /// Its checksum does not match.
    #[error("the file is corrupted")]
    Corrupted,
}

/// Writes `payload` with a header that [`read_checked`] holds it to, as [`write_atomic`] does.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_checked(path: &Path, format: Format, payload: &[u8], mode: u32) -> io::Result<()> {
    let length = u64::try_from(payload.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&format.magic);
    bytes.extend_from_slice(&format.schema.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    let checksum = checksum(&bytes, payload);
    bytes.extend_from_slice(&checksum);
    bytes.extend_from_slice(payload);
    write_atomic(path, &bytes, mode)
}

/// Reads what [`write_checked`] wrote, at most `max_bytes` of payload. Nothing of a defective file is returned. Blocks.
///
/// # Errors
/// If the file is not there, cannot be read, is too large, of another kind or schema, cut off or changed.
pub fn read_checked(path: &Path, format: Format, max_bytes: usize) -> Result<Vec<u8>, ReadError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Missing,
        _ => ReadError::Io(error),
    })?;
    let limit = u64::try_from(max_bytes.saturating_add(HEADER)).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() > max_bytes.saturating_add(HEADER) {
        return Err(ReadError::TooLarge(max_bytes));
    }
    parse(&bytes, format).map(<[u8]>::to_vec)
}

fn parse(bytes: &[u8], format: Format) -> Result<&[u8], ReadError> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(ReadError::Truncated)?;
    if *magic != format.magic {
        return Err(ReadError::Magic);
    }
    let (schema, rest) = rest.split_first_chunk::<4>().ok_or(ReadError::Truncated)?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or(ReadError::Truncated)?;
    let (expected, payload) = rest.split_first_chunk::<32>().ok_or(ReadError::Truncated)?;
    // The schema decides before the checksum: another version may compute it over something else.
    let schema = u32::from_be_bytes(*schema);
    if schema != format.schema {
        return Err(ReadError::Schema(schema));
    }
    let length = u64::from_be_bytes(*length);
    match u64::try_from(payload.len()) {
        Ok(found) if found < length => return Err(ReadError::Truncated),
        Ok(found) if found == length => {}
        Ok(_) | Err(_) => return Err(ReadError::Corrupted),
    }
    let header = bytes.get(..CHECKSUM).ok_or(ReadError::Truncated)?;
    if checksum(header, payload).as_slice() != expected {
        return Err(ReadError::Corrupted);
    }
    Ok(payload)
}

fn checksum(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(header.len() + payload.len());
    all.extend_from_slice(header);
    all.extend_from_slice(payload);
    digest(&SHA256, &all).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const FORMAT: Format = Format { magic: *b"OUTRTEST", schema: 3 };

    #[test]
    fn a_written_file_has_its_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(dir.path().join("file.new"), "left over").unwrap();
        write_atomic(&path, b"one", 0o644).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_checked_file_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(matches!(read_checked(&path, FORMAT, 10), Err(ReadError::Missing)));
        for payload in [&b""[..], b"payload"] {
            write_checked(&path, FORMAT, payload, 0o600).unwrap();
            assert_eq!(read_checked(&path, FORMAT, 7).unwrap(), payload);
        }
        assert!(matches!(read_checked(&path, FORMAT, 6), Err(ReadError::TooLarge(6))));
        let newer = Format { schema: 4, ..FORMAT };
        assert!(matches!(read_checked(&path, newer, 7), Err(ReadError::Schema(3))));
        let other = Format { magic: *b"OUTROTHR", ..FORMAT };
        assert!(matches!(read_checked(&path, other, 7), Err(ReadError::Magic)));
    }

    #[test]
    fn a_file_cut_anywhere_or_changed_in_any_bit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_checked(&path, FORMAT, b"payload", 0o600).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            assert!(matches!(parse(&whole[..length], FORMAT), Err(ReadError::Truncated)), "{length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&changed, FORMAT).is_err(), "{bit}");
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert!(matches!(parse(&longer, FORMAT), Err(ReadError::Corrupted)));
    }

    #[test]
    fn a_private_directory_is_made_closed_and_an_open_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        private_dir(&path).unwrap();
        private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(private_dir(&path), Err(DirectoryError::Open(_))));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(private_dir(&file), Err(DirectoryError::NotDirectory(_))));
    }
}
