//! A credential on disk: a directory (0700) with `tls.crt` (the chain), `tls.key` (0600) and `ca.crt` (the roots, and
//! which authorities are revoked), all PEM. An operator's command and a restarted proxy come back with it.

mod roots;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{Bundle, Identity, InvalidBundle, InvalidKey, InvalidSvid, Key, Svid, pem};

const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";
/// The names of its files.
pub const FILES: [&str; 3] = [CHAIN, KEY, ROOTS];
/// No file of a credential is larger.
const MAX_BYTES: u64 = 256 * 1024;

/// An SVID and the bundle it came with.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Who we are.
    pub svid: Svid,
    /// Whom we trust: the roots of the SVID's trust domain, and nobody who is revoked.
    pub bundle: Bundle,
}

impl Credential {
    /// As the handle that every handshake reads.
    pub fn into_identity(self) -> Identity {
        Identity::new(self.svid, self.bundle)
    }
}

/// Why a credential could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// There is none.
    #[error("there is no credential in {}", .0.display())]
    Missing(PathBuf),
    /// The file system says no.
    #[error("{} cannot be used", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read what only we should.
    #[error("{} is open to other users: chmod {remedy} it, and replace the credential if they may have read it", path.display())]
    Open {
        /// Which file or directory.
        path: PathBuf,
        /// The mode it should have.
        remedy: &'static str,
    },
    /// Too large, or not certificates in PEM.
    #[error("{} is not a list of certificates in PEM", .0.display())]
    NotPem(PathBuf),
    /// The key.
    #[error("{} cannot be used", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: InvalidKey,
    },
    /// Chain and key.
    #[error("the certificate in {} cannot be used", path.display())]
    Svid {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: InvalidSvid,
    },
    /// The roots.
    #[error("the authorities in {} cannot be used", path.display())]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: InvalidBundle,
    },
    /// A root is not what it was when it was written.
    #[error("certificate {number} in {} is damaged: it is not what its own key signed", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which of the certificates in it, from 1.
        number: usize,
    },
}

/// Reads the credential in `dir`. A credential that has expired is read all the same. Blocks.
///
/// # Errors
/// If there is none, it cannot be read, is open to others, or does not fit together.
pub fn load(dir: &Path) -> Result<Credential, CredentialError> {
    let key_path = dir.join(KEY);
    let pem = read(dir, KEY)?;
    refuse_open(dir, "700")?;
    refuse_open(&key_path, "600")?;
    let key = Key::from_pem(&pem).map_err(|source| CredentialError::Key { path: key_path, source })?;
    let svid = match chain(dir, CHAIN, &key) {
        // Written by `save` and interrupted between two renames: the chain of this key is still under its temporary
        // name.
        Err(mismatch) if is_mismatch(&mismatch) => {
            let svid = chain(dir, &temporary(CHAIN), &key).map_err(|_absent| mismatch)?;
            rename(dir, CHAIN)?;
            svid
        }
        outcome => outcome?,
    };
    let bundle =
        roots::read(&read(dir, ROOTS)?, svid.id().trust_domain().clone()).map_err(|error| match error {
            roots::Invalid::Text => CredentialError::NotPem(dir.join(ROOTS)),
            roots::Invalid::Bundle(source) => CredentialError::Bundle { path: dir.join(ROOTS), source },
            roots::Invalid::Root(number) => CredentialError::Damaged { path: dir.join(ROOTS), number },
        })?;
    Ok(Credential { svid, bundle })
}

/// Writes a credential into `dir`, which is made if it is not there. Whenever this is interrupted, [`load`] finds the
/// old credential or the new one. Blocks. One writer at a time.
///
/// # Errors
/// If the directory is open to others, or a file cannot be written.
pub fn save(dir: &Path, svid: &Svid, bundle: &Bundle) -> Result<(), CredentialError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| failed(dir, source))?;
    refuse_open(dir, "700")?;
    write(dir, ROOTS, &roots::write(bundle))?;
    write(dir, CHAIN, &pem::encode(svid.chain()))?;
    write(dir, KEY, &svid.key().to_pem())?;
    sync(dir)?;
    // The order matters to `load`: once the key is new, the new chain is there under one of its two names.
    for name in [ROOTS, KEY, CHAIN] {
        rename(dir, name)?;
    }
    sync(dir)
}

fn is_mismatch(error: &CredentialError) -> bool {
    matches!(
        error,
        CredentialError::Missing(_) | CredentialError::Svid { source: InvalidSvid::KeyMismatch, .. }
    )
}

fn chain(dir: &Path, name: &str, key: &Key) -> Result<Svid, CredentialError> {
    Svid::from_parts(certificates(dir, name)?, key.clone())
        .map_err(|source| CredentialError::Svid { path: dir.to_owned(), source })
}

fn certificates(dir: &Path, name: &str) -> Result<Vec<Vec<u8>>, CredentialError> {
    pem::decode(&read(dir, name)?).map_err(|_invalid| CredentialError::NotPem(dir.join(name)))
}

fn read(dir: &Path, name: &str) -> Result<String, CredentialError> {
    let path = dir.join(name);
    let file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CredentialError::Missing(dir.to_owned()),
        _ => failed(&path, source),
    })?;
    let mut text = String::new();
    let taken = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    match taken {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= MAX_BYTES) => Ok(text),
        Ok(_) => Err(CredentialError::NotPem(path)),
        Err(source) => Err(failed(&path, source)),
    }
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), CredentialError> {
    let path = dir.join(temporary(name));
    // A leftover of an interrupted write may have been made with another mode.
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(&path, source)),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(&path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|source| failed(&path, source))
}

fn rename(dir: &Path, name: &str) -> Result<(), CredentialError> {
    let path = dir.join(name);
    fs::rename(dir.join(temporary(name)), &path).map_err(|source| failed(&path, source))
}

fn sync(dir: &Path) -> Result<(), CredentialError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| failed(dir, source))
}

fn refuse_open(path: &Path, remedy: &'static str) -> Result<(), CredentialError> {
    let mode = fs::metadata(path).map_err(|source| failed(path, source))?.mode();
    if mode & 0o077 == 0 { Ok(()) } else { Err(CredentialError::Open { path: path.to_owned(), remedy }) }
}

fn temporary(name: &str) -> String {
    format!("{name}.new")
}

fn failed(path: &Path, source: io::Error) -> CredentialError {
    CredentialError::Io { path: path.to_owned(), source }
}
