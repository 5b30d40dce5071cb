//! Who this proxy is: how it joins the mesh, how it keeps its credential over a restart, how it renews it.
//!
//! A join token says by what the control plane is known (a hash of the root's key); from the first answer on the
//! control plane must be exactly `spiffe://<trust domain>/outrigger/control-plane` under the bundle in force.

mod issue;
mod join;
mod renewal;
mod token;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use outrigger_core::join_token::JoinToken;
use outrigger_tls::{
    credential::{self, Credential, CredentialError},
    spki_sha256,
};

pub use issue::IssueError;
pub use join::{JoinError, Joined, join};
pub use renewal::Renewal;
pub use token::{TokenError, read as read_token};

/// How a start gets its identity.
#[derive(Debug)]
pub enum Origin {
    /// From the credential that an earlier start kept.
    Kept(Credential),
    /// By a join token.
    Token(JoinToken),
}

/// Why a start gets none.
#[derive(Debug, thiserror::Error)]
pub enum NoIdentity {
    /// Nothing to begin with.
    #[error(
        "there is no credential in {} and no join token: make one with 'outrigger token create' and give it with \
         --join-token-file or in OUTRIGGER_JOIN_TOKEN", .0.display()
    )]
    Nothing(PathBuf),
    /// The credential is not kept, so each start needs a token.
    #[error(
        "there is no join token, which every start needs with --credential memory: make one with 'outrigger token \
         create' and give it with --join-token-file or in OUTRIGGER_JOIN_TOKEN"
    )]
    NotKept,
    /// It is too late to renew.
    #[error(
        "the credential of {id} has expired, and there is no join token: make one with 'outrigger token create' and \
         give it with --join-token-file or in OUTRIGGER_JOIN_TOKEN"
    )]
    Expired {
        /// Whose.
        id: String,
    },
    /// What was kept cannot be used.
    #[error(
        "the kept credential cannot be used; make a join token with 'outrigger token create' and give it with \
         --join-token-file or in OUTRIGGER_JOIN_TOKEN, and it is replaced"
    )]
    Unusable(#[source] CredentialError),
    /// The credential may have been read by others.
    #[error(transparent)]
    Exposed(CredentialError),
}

/// Decides how to start. `dir`: where the credential is kept, if it is. The kept credential goes before the token,
/// since a token may have been spent on it; unless it has expired, or the token is for another mesh. Blocks.
///
/// # Errors
/// With neither a credential that is good nor a token.
pub fn origin(
    dir: Option<&PathBuf>,
    token: Option<JoinToken>,
    now: SystemTime,
) -> Result<Origin, NoIdentity> {
    let Some(dir) = dir else {
        return token.map(Origin::Token).ok_or(NoIdentity::NotKept);
    };
    match (credential::load(dir), token) {
        (Ok(kept), None) if kept.svid.not_after() <= now => {
            Err(NoIdentity::Expired { id: kept.svid.id().to_string() })
        }
        (Ok(kept), None) => Ok(Origin::Kept(kept)),
        (Ok(kept), Some(token)) if kept.svid.not_after() > now && is_of(&kept, dir, &token) => {
            tracing::info!(id = %kept.svid.id(), "the kept credential is used; the join token is not needed");
            Ok(Origin::Kept(kept))
        }
        // Whoever made it open to others has to look into it: a token does not undo that.
        (Err(open @ CredentialError::Open { .. }), _) => Err(NoIdentity::Exposed(open)),
        (Err(CredentialError::Missing(dir)), None) => Err(NoIdentity::Nothing(dir)),
        (Err(error), None) => Err(NoIdentity::Unusable(error)),
        (Err(error), Some(token)) if !matches!(error, CredentialError::Missing(_)) => {
            // If the token is an old one, the control plane will refuse it: here is why it was asked.
            tracing::warn!(%error, "the kept credential cannot be used; the join token is to replace it");
            Ok(Origin::Token(token))
        }
        (_, Some(token)) => Ok(Origin::Token(token)),
    }
}

/// Whether the token is for the mesh whose credential was kept: this one came of it, or they agree on a root.
fn is_of(kept: &Credential, dir: &Path, token: &JoinToken) -> bool {
    if join::spent(dir) == Some(token.id) {
        return true;
    }
    let root = token.root_spki_sha256;
    kept.bundle.authorities().iter().any(|der| spki_sha256(der).is_ok_and(|hash| hash == root))
}

#[cfg(test)]
mod tests;
