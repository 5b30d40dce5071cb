//! Who is connected, kept in a file of the state directory: a control plane that was killed and starts again would
//! otherwise know nothing of proxies that are not registered, and say that everybody has applied what they have not.
//!
//! It is memory, no truth: without it, or when it cannot be used, a start is one that knows nobody.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outrigger_core::model::{Name, SpiffeId, TrustDomain};
use outrigger_process::files::{Format, ReadError, read_checked, write_checked};
use prost::Message as _;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::board::{Board, Known, MAX_KNOWN};
use crate::clock::Clock;

/// The file's name in the state directory.
pub const FILE: &str = "known-proxies";
/// Another schema is not read: a field whose meaning changes needs a new one.
const FORMAT: Format = Format { magic: *b"OUTRKNWN", schema: 1 };
/// Who comes or goes within so long is written at once.
const GATHER: Duration = Duration::from_millis(200);
/// After a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Of the whole payload. An id has at most 462 bytes: a trust domain, three names, and what is between them.
const MAX_PAYLOAD: usize = MAX_KNOWN * 512;

#[derive(Clone, PartialEq, prost::Message)]
struct Document {
    /// `<SPIFFE ID>#<instance>`.
    #[prost(string, repeated, tag = "1")]
    ids: Vec<String>,
}

/// Why the file is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// It is not whole, of another kind or schema, or cannot be read.
    #[error(transparent)]
    File(ReadError),
    /// The checksum is right, and the content is nothing that this version writes.
    #[error("its content is malformed: {0}")]
    Malformed(&'static str),
    /// Of another mesh.
    #[error("it is of the trust domain {0}")]
    Foreign(String),
    /// The process ends.
    #[error("the reading was cut off")]
    Interrupted,
}

/// Where it is kept, and of whom.
#[derive(Debug)]
pub struct Keeper {
    /// The file.
    pub path: PathBuf,
    /// The mesh's.
    pub trust_domain: TrustDomain,
    /// Who is connected.
    pub board: Arc<Board>,
    /// The time.
    pub clock: Clock,
    /// Leaves the file as it is from then on: that streams end is not that proxies go.
    pub stop: CancellationToken,
}

impl Keeper {
    /// Puts those on the board who were on it when the file was written, and keeps the file true from then on, in a task
    /// of its own.
    pub async fn start(self) {
        let (path, trust_domain) = (self.path.clone(), self.trust_domain.clone());
        let read = spawn_blocking(move || read(&path, &trust_domain)).await;
        let written = match read.unwrap_or(Err(Unusable::Interrupted)) {
            Ok(known) => {
                let ids = known.iter().map(|(id, _)| Arc::clone(id)).collect();
                self.board.recall(known, (Instant::now(), self.clock.now()));
                Some(ids)
            }
            Err(error) => {
                tracing::warn!(
                    path = %self.path.display(),
                    error = &error as &dyn Error,
                    "who was connected to the earlier process is not known: the file is not used"
                );
                None
            }
        };
        let changed = self.board.watch_known();
        tokio::spawn(self.run(changed, written));
    }

    /// `written` is what the file says; `None`: nothing that can be used.
    async fn run(self, mut changed: watch::Receiver<()>, mut written: Option<Vec<Arc<str>>>) {
        let mut failing = false;
        loop {
            changed.borrow_and_update();
            let Known { ids, until } = self.board.known(Instant::now());
            let mut next = until;
            if written.as_ref() != Some(&ids) {
                match self.write(ids.clone()).await {
                    Ok(()) => (written, failing) = (Some(ids), false),
                    Err(error) => {
                        if !failing {
                            tracing::warn!(
                                path = %self.path.display(),
                                %error,
                                "who is connected could not be written; it is tried again"
                            );
                        }
                        failing = true;
                        let retry = Instant::now() + RETRY;
                        next = Some(until.map_or(retry, |until| until.min(retry)));
                    }
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = changed.changed() => if changed.is_err() { return },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep(GATHER) => {}
            }
        }
    }

    async fn write(&self, ids: Vec<Arc<str>>) -> io::Result<()> {
        let path = self.path.clone();
        spawn_blocking(move || write(&path, &ids)).await.map_err(io::Error::other)?
    }
}

/// Writes who is known, atomically, 0600. Blocks.
fn write(path: &Path, ids: &[Arc<str>]) -> io::Result<()> {
    let document = Document { ids: ids.iter().map(ToString::to_string).collect() };
    write_checked(path, FORMAT, &document.encode_to_vec(), 0o600)
}

/// Reads who was known in the mesh of `trust_domain`; nobody, if there is no file. Blocks.
fn read(path: &Path, trust_domain: &TrustDomain) -> Result<Vec<(Arc<str>, SpiffeId)>, Unusable> {
    let payload = match read_checked(path, FORMAT, MAX_PAYLOAD) {
        Ok(payload) => payload,
        Err(ReadError::Missing) => return Ok(Vec::new()),
        Err(error) => return Err(Unusable::File(error)),
    };
    let document = Document::decode(payload.as_slice())
        .map_err(|_malformed| Unusable::Malformed("it is not a message of its kind"))?;
    if document.ids.len() > MAX_KNOWN {
        return Err(Unusable::Malformed("it names too many proxies"));
    }
    document.ids.into_iter().map(|id| known(id, trust_domain)).collect()
}

/// A proxy, with the identity that its id begins with.
fn known(id: String, trust_domain: &TrustDomain) -> Result<(Arc<str>, SpiffeId), Unusable> {
    let parsed = id.rsplit_once('#').and_then(|(identity, instance)| {
        let _instance: Name = instance.parse().ok()?;
        identity.parse::<SpiffeId>().ok()
    });
    let identity = parsed.ok_or(Unusable::Malformed("a name in it is none"))?;
    if identity.trust_domain() != trust_domain {
        return Err(Unusable::Foreign(identity.trust_domain().to_string()));
    }
    Ok((id.into(), identity))
}

#[cfg(test)]
mod tests;
