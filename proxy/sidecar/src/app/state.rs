//! The proxy's own directory: the credential, the instance's name, the bound addresses. One proxy each.

use std::{
    env,
    fs::{self, File, TryLockError},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use outrigger_core::model::{InvalidName, Name};
use outrigger_process::files::{DirectoryError, private_dir, write_atomic};
use serde::Serialize;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no place for it.
    #[error("there is no home directory to keep state in: set state_dir (--state-dir)")]
    NoPlace,
    /// It is not private.
    #[error("state_dir")]
    Directory(#[from] DirectoryError),
    /// Two proxies must not have one credential.
    #[error("another proxy uses {}: give each its own state_dir (--state-dir)", .0.display())]
    InUse(PathBuf),
    /// A file in it.
    #[error("{} cannot be used", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The instance's name.
    #[error("the instance's name")]
    Instance(#[from] InvalidName),
}

/// Where the proxy listens: what was asked for, with real ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// The forward proxy.
    pub outbound: SocketAddr,
    /// Those that lead to one service each, in the order of the settings.
    pub services: Vec<SocketAddr>,
    /// In the order of the settings.
    pub inbound: Vec<SocketAddr>,
    /// `/live`, `/ready`, `/metrics`.
    pub health: SocketAddr,
}

/// The directory, ours alone until dropped.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes or checks it, and locks it.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, StateError> {
        let path = place(path)?;
        private_dir(&path)?;
        let file = path.join("lock");
        let lock = File::create(&file).map_err(|source| StateError::File { path: file.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(path)),
            Err(TryLockError::Error(source)) => Err(StateError::File { path: file, source }),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the credential is kept.
    pub(super) fn credential(&self) -> PathBuf {
        self.path.join("credential")
    }

    /// Name of this instance: `asked`, else the one of an earlier start, else a new one from the host's. A name that
    /// stays lets a restarted proxy take its registration over instead of waiting for the old one's lease to end.
    pub(super) fn instance(&self, asked: Option<&str>) -> Result<Name, StateError> {
        if let Some(asked) = asked {
            return Ok(asked.parse()?);
        }
        let path = self.path.join("instance");
        if let Some(kept) = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok(kept);
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = new_name(&host, rand::random())?;
        write_atomic(&path, name.as_str().as_bytes(), 0o600)
            .map_err(|source| StateError::File { path, source })?;
        Ok(name)
    }

    /// Says where the proxy listens, for whoever asked for port 0; in the file `copy`, too.
    pub(super) fn write_addresses(
        &self,
        addresses: &Addresses,
        copy: Option<&Path>,
    ) -> Result<(), StateError> {
        let own = self.path.join("addresses.json");
        for path in std::iter::once(own.as_path()).chain(copy) {
            let failed = |source| StateError::File { path: path.to_owned(), source };
            let text = serde_json::to_vec_pretty(addresses).map_err(|error| failed(error.into()))?;
            write_atomic(path, &text, 0o600).map_err(failed)?;
        }
        Ok(())
    }
}

/// The host's name as a DNS label, and five random digits: several proxies may share a host.
fn new_name(host: &str, random: u32) -> Result<Name, InvalidName> {
    let label: String = host
        .trim()
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|letter| letter.to_ascii_lowercase())
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(50)
        .collect();
    let label = label.trim_matches('-');
    let label = if label.is_empty() { "proxy" } else { label };
    format!("{label}-{:05x}", random & 0xf_ffff).parse()
}

/// Where the proxy of these settings has its directory: `asked`, or by default.
///
/// # Errors
/// If there is no home directory to keep it in.
pub fn place(asked: Option<&Path>) -> Result<PathBuf, StateError> {
    asked.map(Path::to_owned).or_else(default_path).ok_or(StateError::NoPlace)
}

fn default_path() -> Option<PathBuf> {
    let home = || env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let state = env::var_os("XDG_STATE_HOME").filter(|state| !state.is_empty()).map(PathBuf::from);
    if is_root() {
        return Some(PathBuf::from("/var/lib/outrigger/proxy"));
    }
    Some(state.or_else(|| Some(home()?.join(".local/state")))?.join("outrigger/proxy"))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of one's own entry is the effective user.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_proxy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::open(Some(&path)).unwrap();
        assert!(matches!(StateDir::open(Some(&path)), Err(StateError::InUse(_))));
        drop(first);
        assert!(StateDir::open(Some(&path)).is_ok());
    }

    #[test]
    fn the_name_of_an_instance_stays_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let name = StateDir::open(Some(&path)).unwrap().instance(None).unwrap();
        assert_eq!(StateDir::open(Some(&path)).unwrap().instance(None).unwrap(), name);
        let asked = StateDir::open(Some(&path)).unwrap().instance(Some("price-1")).unwrap();
        assert_eq!(asked.as_str(), "price-1");
    }

    #[test]
    fn any_host_gives_a_name() {
        for (host, expected) in [
            ("Web_1.example.org\n", "web-1-0002a"),
            ("", "proxy-0002a"),
            ("---", "proxy-0002a"),
            (&"x".repeat(80), &format!("{}-0002a", "x".repeat(50))),
        ] {
            assert_eq!(new_name(host, 42).unwrap().as_str(), expected);
        }
    }
}
