//! Rotation of the mesh's authorities: which step may be taken when. The steps are prepare, activate, taint and revoke;
//! each is refused until what the proxies applied proves that it takes nobody's peer away:
//!
//! * *activate* a new root only when every proxy applied the bundle that holds it, since certificates under it are issued
//!   from then on; one that broke off before counts until its certificate has expired, since it runs on until then;
//! * *revoke* the old root or intermediate only when no proxy shows a certificate under it, and when the last one that
//!   was issued has expired: it may be held by a proxy that is not connected, and comes back.
//!
//! One rotation at a time. Numbers name what the control plane keeps; a new one is larger than all before it.

mod leaf;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use leaf::LeafLife;

#[cfg(test)]
mod tests;

/// A root, and the intermediate below it that signs the workloads' certificates; by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The root.
    pub root: u32,
    /// The intermediate.
    pub intermediate: u32,
}

/// What is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The root, and with it the intermediate.
    Root,
    /// The intermediate alone; no bundle changes.
    Intermediate,
}

impl Kind {
    /// As text: `root`, `intermediate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        }
    }
}

/// How far the line beside the active one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// The new one, which signs nothing yet.
    Prepared,
    /// The old one, after the new one was activated.
    Retiring {
        /// When the last certificate expires that it signed.
        leaves_until: SystemTime,
    },
    /// The same, not to be relied on: certificates under it are replaced at once, and then the connections.
    Tainted {
        /// When the last certificate expires that it signed.
        leaves_until: SystemTime,
    },
}

/// The line beside the active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// Which.
    pub line: Line,
    /// How far it is.
    pub stage: Stage,
}

/// A root or an intermediate, as far as chains are judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub key: [u8; 32],
    /// When its certificate expires.
    pub until: SystemTime,
}

/// The state of a mesh's authorities. Kept as it is; a step makes the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorities {
    /// What signs.
    pub active: Line,
    /// What is on its way in or out.
    pub other: Option<Other>,
    /// Grows with every step: the sequence of the trust bundle.
    pub sequence: u64,
    /// Intermediates that no chain may lead through: those whose certificate had not expired at the last step.
    pub revoked: Vec<Signer>,
    /// The last revocation must not wait for connections to be closed bit by bit.
    pub at_once: bool,
}

impl Default for Authorities {
    fn default() -> Self {
        let active = Line { root: 0, intermediate: 0 };
        Self { active, other: None, sequence: 1, revoked: Vec::new(), at_once: false }
    }
}

/// A proxy, as far as it reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `<SPIFFE ID>#<instance>`.
    pub name: String,
    /// The sequence of the trust bundle in force there; 0 while it has not said so.
    pub bundle_sequence: u64,
    /// SHA-256 of the public keys of those who signed its certificate, up to the root; empty while it has not said so.
    pub authorities: Vec<[u8; 32]>,
}

/// A proxy that broke off without a good-bye. It may be running, on what it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// `<SPIFFE ID>#<instance>`.
    pub name: String,
    /// As in [`Proxy`], as far as it had come.
    pub bundle_sequence: u64,
    /// When its certificate expires, at the latest; it has to join again then.
    pub until: SystemTime,
}

/// What a step is judged by.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Now.
    pub now: SystemTime,
    /// From when on every proxy that runs and can connect has done so: some time after the control plane's start.
    pub complete_at: SystemTime,
    /// All proxies that are connected, were so a moment ago, or are registered.
    pub proxies: &'a [Proxy],
    /// Those that are none of these, and whose certificates may be valid.
    pub absent: &'a [Absent],
    /// Until then, proxies with a valid certificate may be running that nobody here knows of: those that were cut off
    /// before the control plane's start.
    pub unknown_until: Option<SystemTime>,
    /// What is on its way out: the old root; or the old intermediate, and those that it replaced when it was renewed.
    pub outgoing: &'a [Signer],
}

/// Why a step is not safe yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsafe {
    /// The proxies that lag, by name.
    pub lagging: Vec<String>,
    /// Proxies may be missing: some that ran before the control plane started have until then to come back.
    pub incomplete_until: Option<SystemTime>,
    /// The proxies that broke off, did not apply the bundle with the new root, and may be running with a valid certificate;
    /// by name.
    pub absent: Vec<String>,
    /// Until then, somebody who is not connected may hold a certificate that is in the way: under the old one, or for lack
    /// of a bundle with the new one.
    pub leaves_until: Option<SystemTime>,
}

impl Unsafe {
    /// Whether nothing is in the way.
    pub fn is_safe(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing is that `force` does not pass over.
    pub fn yields_to(&self, force: Force) -> bool {
        match force {
            Force::No => self.is_safe(),
            Force::Absent => self.lagging.is_empty() && self.incomplete_until.is_none(),
            Force::All => true,
        }
    }
}

/// What a step is taken in spite of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Force {
    /// Of nothing.
    #[default]
    No,
    /// That somebody who is away may hold a certificate. Whoever is known has to be safe.
    Absent,
    /// Of everything.
    All,
}

/// Why a step is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One at a time.
    #[error("a rotation of the {} is under way; finish it first", .0.as_str())]
    UnderWay(Kind),
    /// The step before is missing.
    #[error("no new {} is prepared; prepare one first", .0.as_str())]
    NotPrepared(Kind),
    /// The step before is missing.
    #[error("no old {} is on its way out; prepare and activate a new one first", .0.as_str())]
    NotActivated(Kind),
    /// It would take somebody's peer away.
    #[error("it is not safe yet")]
    Unsafe(Unsafe),
}

impl Authorities {
    /// What the rotation under way is of.
    pub fn kind(&self) -> Option<Kind> {
        let other = self.other?;
        Some(if other.line.root == self.active.root { Kind::Intermediate } else { Kind::Root })
    }

    /// The line that [`Self::prepare`] makes.
    pub fn next_line(&self, kind: Kind) -> Line {
        let Line { root, intermediate } = self.active;
        let root = match kind {
            Kind::Root => root.saturating_add(1),
            Kind::Intermediate => root,
        };
        Line { root, intermediate: intermediate.saturating_add(1) }
    }

    /// A new root or intermediate comes in beside the active one.
    ///
    /// # Errors
    /// [`Refusal::UnderWay`].
    pub fn prepare(&self, kind: Kind, now: SystemTime) -> Result<Self, Refusal> {
        if let Some(other) = self.kind() {
            return Err(Refusal::UnderWay(other));
        }
        let other = Other { line: self.next_line(kind), stage: Stage::Prepared };
        Ok(Self { other: Some(other), at_once: false, ..self.next(now) })
    }

    /// The new one signs from now on. `leaf_life` is that of the certificates that the old one signed.
    ///
    /// # Errors
    /// [`Refusal::NotPrepared`], or [`Refusal::Unsafe`] unless `force` passes over it.
    pub fn activate(
        &self,
        kind: Kind,
        facts: &Facts<'_>,
        leaf_life: LeafLife,
        force: Force,
    ) -> Result<Self, Refusal> {
        let other = self.of(kind).filter(|other| other.stage == Stage::Prepared);
        let Some(other) = other else { return Err(Refusal::NotPrepared(kind)) };
        let found = self.found(facts);
        if !found.yields_to(force) {
            return Err(Refusal::Unsafe(found));
        }
        let stage = Stage::Retiring { leaves_until: leaf_life.until(facts.now) };
        let old = Other { line: self.active, stage };
        Ok(Self { active: other.line, other: Some(old), ..self.next(facts.now) })
    }

    /// The old one is not to be relied on any more. Takes nobody's peer away.
    ///
    /// # Errors
    /// [`Refusal::NotActivated`].
    pub fn taint(&self, kind: Kind, now: SystemTime) -> Result<Self, Refusal> {
        match self.of(kind) {
            Some(Other { line, stage: Stage::Retiring { leaves_until } }) => {
                let other = Other { line, stage: Stage::Tainted { leaves_until } };
                Ok(Self { other: Some(other), ..self.next(now) })
            }
            Some(Other { stage: Stage::Tainted { .. }, .. }) => Ok(self.clone()),
            _ => Err(Refusal::NotActivated(kind)),
        }
    }

    /// The old one is gone: nothing that hangs on it is accepted any more.
    ///
    /// # Errors
    /// [`Refusal::NotActivated`], or [`Refusal::Unsafe`] unless `force` passes over it.
    pub fn revoke(&self, kind: Kind, facts: &Facts<'_>, force: Force) -> Result<Self, Refusal> {
        let tainted = match self.of(kind).map(|other| other.stage) {
            Some(Stage::Retiring { .. }) => false,
            Some(Stage::Tainted { .. }) => true,
            Some(Stage::Prepared) | None => return Err(Refusal::NotActivated(kind)),
        };
        let found = self.found(facts);
        if !found.yields_to(force) {
            return Err(Refusal::Unsafe(found));
        }
        let mut next = Self { other: None, at_once: force != Force::No || tainted, ..self.next(facts.now) };
        // A root that is in no bundle vouches for nobody; an intermediate has to be named.
        if kind == Kind::Intermediate {
            next.revoked.extend(facts.outgoing.iter().filter(|signer| signer.until >= facts.now));
        }
        Ok(next)
    }

    /// What is in the way of the next step of the rotation under way.
    pub fn found(&self, facts: &Facts<'_>) -> Unsafe {
        let Some(other) = self.other else { return Unsafe::default() };
        let incomplete_until = Some(facts.complete_at).filter(|at| facts.now < *at);
        let hangs_on = |proxy: &Proxy| facts.outgoing.iter().any(|old| proxy.authorities.contains(&old.key));
        let lags = |proxy: &&Proxy| match other.stage {
            Stage::Prepared => proxy.bundle_sequence < self.sequence,
            _ => facts.outgoing.is_empty() || proxy.authorities.is_empty() || hangs_on(proxy),
        };
        let lagging = || facts.proxies.iter().filter(lags).map(|proxy| proxy.name.clone()).collect();
        match other.stage {
            // It is below a root that everybody trusts, and travels with the certificates that it signs.
            Stage::Prepared if self.kind() == Some(Kind::Intermediate) => Unsafe::default(),
            Stage::Prepared => {
                let absent = || self.absent(facts);
                let until = absent().map(|absent| absent.until).chain(facts.unknown_until).max();
                Unsafe {
                    lagging: lagging(),
                    incomplete_until,
                    absent: absent().map(|absent| absent.name.clone()).collect(),
                    leaves_until: until.filter(|until| facts.now <= *until),
                }
            }
            Stage::Retiring { leaves_until } | Stage::Tainted { leaves_until } => Unsafe {
                lagging: lagging(),
                incomplete_until,
                absent: Vec::new(),
                leaves_until: Some(leaves_until).filter(|until| facts.now <= *until),
            },
        }
    }

    /// Those who run on, and do not trust what is prepared.
    fn absent<'a>(&self, facts: &Facts<'a>) -> impl Iterator<Item = &'a Absent> {
        let (now, sequence) = (facts.now, self.sequence);
        facts.absent.iter().filter(move |absent| now <= absent.until && absent.bundle_sequence < sequence)
    }

    fn of(&self, kind: Kind) -> Option<Other> {
        self.other.filter(|_| self.kind() == Some(kind))
    }

    fn next(&self, now: SystemTime) -> Self {
        let mut next = Self { sequence: self.sequence.saturating_add(1), ..self.clone() };
        next.revoked.retain(|revoked| revoked.until >= now);
        next
    }
}
