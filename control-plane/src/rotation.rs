//! Rotation of the authorities, put in force: what [`outrigger_core::rotation`] decides is written down in one revision of
//! the store, with who did it, and told to everybody. Keys are on disk before the store names them, and removed after it
//! has stopped to: a process that is killed between any two of these starts on the step before or on the one after.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_core::rotation::{Authorities, Facts, Kind, Proxy, Refusal, Unsafe};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
};

use crate::{
    audit::Draft,
    authority::{Authority, AuthorityError, Prepared, Upkeep},
    clock::Clock,
    discovery::Trust,
    mesh::Mesh,
    status::REMEMBERED,
    store::{Commit, CommitError, Expect, Key, Op, Store, StoreError},
};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Makes a new one beside the active one.
    Prepare,
    /// The new one signs; whether or not that is safe.
    Activate {
        /// Although proxies lag.
        force: bool,
    },
    /// The old one is not relied on.
    Taint,
    /// The old one is gone; whether or not that is safe.
    Revoke {
        /// Although certificates under it are in use.
        force: bool,
    },
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// By the rules.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The keys.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The end of the process.
    #[error("the step was cut off")]
    Interrupted,
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Commit(error.into())
    }
}

/// What a rotation works with.
#[derive(Debug)]
pub struct Parts {
    /// Who signs.
    pub authority: Arc<Authority>,
    /// The credentials that the control plane keeps.
    pub upkeep: Upkeep,
    /// Where the state is.
    pub store: Store,
    /// Who has to keep up.
    pub mesh: Mesh,
    /// Told of every change.
    pub trust: watch::Sender<Trust>,
    /// The time.
    pub clock: Clock,
    /// Whether proxies may have been connected to an earlier process, and have to come back first.
    pub resumed: bool,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rotation(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: Parts,
    complete_at: SystemTime,
    /// One step at a time.
    turn: Semaphore,
}

/// How things are.
#[derive(Debug, Clone)]
pub struct View {
    /// The state.
    pub state: Authorities,
    /// What is in the way of the next step.
    pub found: Unsafe,
}

/// What the authority of `authority` trusts, as of `revision`.
pub fn trust(authority: &Authority, revision: u64) -> Trust {
    Trust { bundle: Arc::new(authority.bundle()), revision }
}

impl Rotation {
    /// Of a control plane that starts now.
    pub fn new(parts: Parts) -> Self {
        let settled = if parts.resumed { REMEMBERED } else { Duration::ZERO };
        let complete_at = parts.clock.now() + settled;
        Self(Arc::new(Shared { parts, complete_at, turn: Semaphore::new(1) }))
    }

    /// How far a rotation is, and what is in the way of its next step.
    pub fn view(&self) -> View {
        let proxies = self.0.parts.mesh.proxies();
        let state = self.0.parts.authority.state();
        let found = state.found(&self.facts(&proxies));
        View { state, found }
    }

    fn facts<'a>(&self, proxies: &'a [Proxy]) -> Facts<'a> {
        let Parts { authority, clock, .. } = &self.0.parts;
        let outgoing = authority.other_key();
        Facts { now: clock.now(), complete_at: self.0.complete_at, proxies, outgoing }
    }

    /// Takes a step; `audit` is its record. Returns when it is in force, in the credentials on disk, too.
    ///
    /// Cancel safety: to be run in a task of its own, which is not cancelled.
    ///
    /// # Errors
    /// It is refused, or cannot be written; nothing has changed then.
    pub async fn take(&self, kind: Kind, step: Step, audit: Draft) -> Result<Authorities, StepError> {
        let Shared { parts, turn, .. } = &*self.0;
        let Parts { authority, store, trust: told, .. } = parts;
        let _turn = turn.acquire().await.map_err(|_closed| StepError::Interrupted)?;
        let before = authority.state();
        let next = self.decide(kind, step, &before)?;
        if next == before {
            return Ok(before);
        }
        let prepared = match step {
            Step::Prepare => Some(self.prepare(kind).await?),
            Step::Activate { .. } | Step::Taint | Step::Revoke { .. } => None,
        };
        // Nothing may be signed by the old one once its end is written down; until then the new one is as good.
        let activates = next.active != before.active;
        if activates {
            authority.install(next.clone(), None);
        }
        let revision = match write(authority, store, &next, audit).await {
            Ok(revision) => revision,
            Err(error) => {
                if activates {
                    authority.install(before, None);
                }
                return Err(error);
            }
        };
        if !activates {
            authority.install(next.clone(), prepared);
        }
        // The own ports first: whoever hears of the change may come at once.
        self.settle().await;
        told.send_replace(trust(authority, revision));
        tracing::info!(kind = kind.as_str(), ?step, sequence = next.sequence, "the authorities have changed");
        Ok(next)
    }

    fn decide(&self, kind: Kind, step: Step, before: &Authorities) -> Result<Authorities, Refusal> {
        let Parts { authority, mesh, clock, .. } = &self.0.parts;
        let proxies = mesh.proxies();
        let facts = self.facts(&proxies);
        match step {
            Step::Prepare => before.prepare(kind, clock.now()),
            Step::Activate { force } => before.activate(kind, &facts, authority.leaf_life(), force),
            Step::Taint => before.taint(kind, clock.now()),
            Step::Revoke { force } => {
                let until = authority.other_validity().map_or(facts.now, |(_, validity)| validity.not_after);
                before.revoke(kind, &facts, until, force)
            }
        }
    }

    async fn prepare(&self, kind: Kind) -> Result<Prepared, StepError> {
        let authority = Arc::clone(&self.0.parts.authority);
        let prepared = spawn_blocking(move || authority.prepare(kind)).await;
        Ok(prepared.map_err(|_cut_off| StepError::Interrupted)??)
    }

    /// The control plane's own credentials, and the files.
    async fn settle(&self) {
        let (authority, upkeep) = (Arc::clone(&self.0.parts.authority), self.0.parts.upkeep.clone());
        let settled = spawn_blocking(move || {
            authority.tidy();
            upkeep.step()
        });
        match settled.await {
            Ok(Ok(())) => {}
            // The step is in force; what could not be written is tried again like every renewal.
            Ok(Err(error)) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "a credential could not be renewed after a rotation; it is tried again soon"
            ),
            Err(error) => tracing::error!(%error, "the renewal of credentials was cut off"),
        }
    }
}

/// Writes the state down, with the root that join tokens and restarts go by.
async fn write(
    authority: &Authority,
    store: &Store,
    next: &Authorities,
    audit: Draft,
) -> Result<u64, StepError> {
    let (rotation, root) = (Key::authority("rotation"), Key::authority("root"));
    let kept = store.get(&rotation).await?;
    let expect = kept.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
    // Serialising plain data to memory cannot fail.
    let value = serde_json::to_vec(next).unwrap_or_default();
    let commit = Commit {
        expect: vec![(rotation.clone(), expect)],
        ops: vec![
            Op::Put { key: rotation, value },
            Op::Put { key: root, value: authority.root_hash().to_vec() },
        ],
        audit,
    };
    Ok(store.commit(commit).await?)
}
