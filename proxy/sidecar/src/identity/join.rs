//! Joining: a token and a new key for a first credential.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use outrigger_core::join_token::{JoinToken, TokenId};
use outrigger_process::files::write_atomic;
use outrigger_proto::identity::v1alpha1::IssueRequest;
use outrigger_tls::{
    InvalidKey, Key, PeerRejected,
    credential::{self, Credential, CredentialError},
    grpc::{ChannelError, ServerTrust, channel},
    reject_reason, spki_sha256,
};
use tokio::{task::spawn_blocking, time::sleep};

use super::issue::{IssueError, Issued, issue};
use crate::backoff::Backoff;

/// The key of a join under way: an answer that was lost, or a crash before it was kept, must not cost the token, which
/// is bound to the first key that it is redeemed with.
const KEY_FILE: &str = "join.key";
/// Beside the credential, the id of the token that it came of (which is no secret): the mesh may have another root by the time
/// of the next start, and the token is spent.
const SPENT_FILE: &str = "joined-by";

/// Why a join failed for good.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Whoever answers is not the control plane of the token's mesh.
    #[error("whoever answers at {address} is not the control plane that the join token is for ({reason})")]
    Impostor {
        /// Where.
        address: String,
        /// In what it fails.
        reason: PeerRejected,
    },
    /// The address is none.
    #[error(transparent)]
    Address(ChannelError),
    /// The control plane refuses.
    #[error("the join was refused")]
    Refused(#[source] IssueError),
    /// Its answer is not of the mesh that the token is for.
    #[error("the control plane's authorities do not include the one that the join token names")]
    AnotherRoot,
    /// No key.
    #[error("there is no key to join with")]
    Key(#[from] InvalidKey),
    /// The key of the join cannot be kept.
    #[error("{} cannot be used", path.display())]
    KeyFile {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The credential cannot be kept.
    #[error("the credential cannot be kept")]
    Keep(#[from] CredentialError),
    /// The runtime is going down.
    #[error("the process is ending")]
    Ending,
}

/// A credential, and when the control plane wants it renewed.
pub type Joined = (Credential, Option<SystemTime>);

/// Joins by `token` at `address`, and keeps the credential in `dir`, if there is one. Waits for a control plane that
/// is away, without end; `waiting` is told why. Cancel safe: the same key is used again.
///
/// # Errors
/// If trying again cannot help.
pub async fn join(
    address: &str,
    token: &JoinToken,
    dir: Option<&Path>,
    waiting: impl Fn(&str),
) -> Result<Joined, JoinError> {
    let key = key(token, dir).await?;
    let mut backoff = Backoff::CONTROL_PLANE;
    let issued = loop {
        match attempt(address, token, &key).await {
            Ok(issued) => break issued,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(reason)) => {
                let wait = backoff.next(rand::random());
                tracing::warn!(reason, retry_in = ?wait, "cannot join yet");
                waiting(&reason);
                sleep(wait).await;
            }
        }
    };
    let pinned = |der: &&_| spki_sha256(der).is_ok_and(|hash| hash == token.root_spki_sha256);
    if issued.credential.bundle.authorities().iter().find(|der| pinned(&der.as_ref())).is_none() {
        return Err(JoinError::AnotherRoot);
    }
    if let Some(dir) = dir {
        keep(dir, &issued.credential, token.id).await?;
    }
    Ok((issued.credential, issued.renew_after))
}

/// Writes the credential; the key of the join is part of it now.
async fn keep(dir: &Path, kept: &Credential, token: TokenId) -> Result<(), JoinError> {
    let (dir, kept) = (dir.to_owned(), kept.clone());
    spawn_blocking(move || {
        credential::save(&dir, &kept.svid, &kept.bundle)?;
        let spent = dir.join(SPENT_FILE);
        if let Err(source) = write_atomic(&spent, token.to_string().as_bytes(), 0o600) {
            return Err(JoinError::KeyFile { path: spent, source });
        }
        match fs::remove_file(dir.join(KEY_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = KEY_FILE, "a file that is no longer needed cannot be removed");
            }
            Ok(()) | Err(_) => {}
        }
        Ok(())
    })
    .await
    .map_err(|_ending| JoinError::Ending)?
}

/// The token that the credential in `dir` came of; `None`: not known. Blocks.
pub(super) fn spent(dir: &Path) -> Option<TokenId> {
    fs::read_to_string(dir.join(SPENT_FILE)).ok()?.trim().parse().ok()
}

enum Failure {
    Final(JoinError),
    Passing(String),
}

async fn attempt(address: &str, token: &JoinToken, key: &Key) -> Result<Issued, Failure> {
    let trust = ServerTrust::Pinned(token.root_spki_sha256);
    let channel =
        channel(address, trust, None).await.map_err(|error| match (&error, reject_reason(&error)) {
            (_, Some(reason)) => Failure::Final(JoinError::Impostor { address: address.to_owned(), reason }),
            (ChannelError::Address(_), _) => Failure::Final(JoinError::Address(error)),
            (ChannelError::Connect(_), None) => Failure::Passing(format!(
                "the control plane at {address} cannot be reached: {}",
                root(&error)
            )),
        })?;
    let csr_der = key.anonymous_csr_der().map_err(|error| Failure::Final(error.into()))?;
    let request = IssueRequest { csr_der, join_token: token.reveal(), spiffe_id: String::new() };
    issue(channel, request, key.clone()).await.map_err(|error| {
        if error.is_final() {
            Failure::Final(JoinError::Refused(error))
        } else {
            Failure::Passing(error.to_string())
        }
    })
}

/// The innermost cause, which says what happened; those around it only that something did.
fn root(error: &ChannelError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The key for this token: the one of an interrupted join, else a new one.
async fn key(token: &JoinToken, dir: Option<&Path>) -> Result<Key, JoinError> {
    let Some(dir) = dir else { return Ok(Key::generate()?) };
    let (path, id) = (dir.join(KEY_FILE), token.id.to_string());
    let dir = dir.to_owned();
    spawn_blocking(move || {
        let failed = |source| JoinError::KeyFile { path: path.clone(), source };
        outrigger_process::files::private_dir(&dir).map_err(|error| failed(io::Error::other(error)))?;
        // The first line says which token it is for.
        if let Ok(text) = fs::read_to_string(&path)
            && let Some((first, pem)) = text.split_once('\n')
            && first == id
            && let Ok(key) = Key::from_pem(pem)
        {
            return Ok(key);
        }
        let key = Key::generate()?;
        write_atomic(&path, format!("{id}\n{}", key.to_pem()).as_bytes(), 0o600).map_err(failed)?;
        Ok(key)
    })
    .await
    .map_err(|_ending| JoinError::Ending)?
}
