//! The certificate authority: a root, below it one intermediate for workloads and another for the control plane and its
//! operators, below those the leaves. That an operator's certificate is no workload's, and the reverse, is thus a matter
//! of its chain, not only of the name in it.
//!
//! The workload intermediate gets a new key at each renewal, and leaves carry their chain; the certificates that it
//! replaced are kept beside it for as long as they last, to be revoked with it. The operator intermediate
//! keeps its key: it is an anchor of its own on the policy port, and credentials signed before a renewal stay good. While
//! there are two roots, each of them signs it: the control plane is believed by whoever trusts one of the two.

mod csr;
pub mod join;
pub mod labels;
mod lines;
mod names;
mod pair;
mod profile;
mod upkeep;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use outrigger_core::{
    model::{Name, Outgoing, SpiffeId, TrustBundle, TrustDomain},
    rotation::{Authorities, Kind, LeafLife, Signer, Stage},
};
use outrigger_tls::{Key, Svid};
use parking_lot::Mutex;
use rcgen::{CertificateParams, PublicKeyData};
use rustls::pki_types::CertificateDer;

pub use csr::{Csr, CsrError};
pub use names::{InvalidPortName, MAX_PORT_NAMES, PortName, PortNames};
pub use pair::AuthorityError;
pub use profile::Validity;
pub use profile::{MAX_LEAF_LIFE, MIN_LEAF_LIFE, SVID_LIFE};
pub use upkeep::{OPERATORS, Upkeep, UpkeepError};

use crate::clock::Clock;
use lines::{Branch, Lines, Pairs, Shelf};
use pair::Pair;

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Leaf first, then the intermediate; never the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// From when to when.
    pub validity: Validity,
    /// When to ask for the next one: half of the life, give or take a tenth, so that those who joined together do not
    /// come back together.
    pub renew_after: SystemTime,
}

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Only workloads get certificates for their requests.
    #[error("{0} is reserved")]
    Reserved(SpiffeId),
    /// The name belongs to another mesh.
    #[error("{0} is of another trust domain")]
    TrustDomain(SpiffeId),
    /// The authority cannot sign.
    #[error("the authority cannot sign")]
    Sign(#[from] rcgen::Error),
}

/// What the store and the settings say of an authority.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    /// SHA-256 of the active root's public key; `None` at the first start.
    pub root: Option<&'a [u8]>,
    /// The stored state; `None` before the first rotation.
    pub state: Option<&'a [u8]>,
    /// How long workloads' certificates live, and lived.
    pub leaf_life: LeafLife,
}

impl Default for Known<'_> {
    fn default() -> Self {
        Self { root: None, state: None, leaf_life: LeafLife::first(SVID_LIFE) }
    }
}

/// The authority of one trust domain.
#[derive(Debug)]
pub struct Authority {
    shelf: Shelf,
    clock: Clock,
    leaf_life: LeafLife,
    lines: ArcSwap<Lines>,
    /// Whoever makes the next lines out of those there are.
    changing: Mutex<()>,
}

impl Authority {
    /// Opens the authority kept in `directory`, which exists and is private; makes what is missing, and renews the
    /// intermediates past half of their lives. Blocks: for the start of a process.
    ///
    /// # Errors
    /// A file is unreadable, damaged, or that of another authority.
    pub fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
        known: &Known<'_>,
        clock: Clock,
    ) -> Result<Self, AuthorityError> {
        let state = match known.state {
            Some(kept) => serde_json::from_slice(kept).map_err(AuthorityError::State)?,
            None => Authorities::default(),
        };
        let shelf = Shelf { directory: directory.to_owned(), trust_domain: trust_domain.clone() };
        let lines = shelf.open(state, known.root, clock.now())?;
        let lines = ArcSwap::from_pointee(lines);
        Ok(Self { shelf, clock, leaf_life: known.leaf_life, lines, changing: Mutex::default() })
    }

    /// Renews the intermediates that are past half of their lives. Blocks for the writing of a file.
    ///
    /// # Errors
    /// A certificate cannot be made or kept; the one in use stays.
    pub fn renew(&self) -> Result<(), AuthorityError> {
        let now = self.clock.now();
        let _turn = self.changing.lock();
        let mut lines = Lines::clone(&self.lines.load());
        let before = lines.clone();
        let due = |pair: &Pair| pair.validity.past_half(now);
        let line = lines.state.active;
        let active = &mut lines.active;
        if due(&active.workload) {
            let previous = Arc::clone(&active.workload);
            active.workload = self.shelf.make(Branch::Workload, line, &active.root, Some(&previous), now)?;
        }
        if due(&active.operator) {
            let previous = Arc::clone(&active.operator);
            active.operator = self.shelf.make(Branch::Operator, line, &active.root, Some(&previous), now)?;
        }
        if let (Some(pairs), Some(other)) = (&mut lines.other, lines.state.other) {
            if other.line.root == line.root {
                pairs.operator = Arc::clone(&lines.active.operator);
            } else if due(&pairs.operator) {
                let previous = Arc::clone(&pairs.operator);
                let root = Arc::clone(&pairs.root);
                pairs.operator =
                    self.shelf.make(Branch::Operator, other.line, &root, Some(&previous), now)?;
            }
        }
        let same = |one: &Pairs, other: &Pairs| {
            Arc::ptr_eq(&one.workload, &other.workload) && Arc::ptr_eq(&one.operator, &other.operator)
        };
        if !same(&before.active, &lines.active)
            || before.other.iter().zip(&lines.other).any(|(before, now)| !same(before, now))
        {
            self.lines.store(Arc::new(lines));
        }
        Ok(())
    }

    /// The state of a rotation.
    pub fn state(&self) -> Authorities {
        self.lines.load().state.clone()
    }

    /// How long workloads' certificates live, and lived.
    pub fn leaf_life(&self) -> LeafLife {
        self.leaf_life
    }

    /// SHA-256 of the public key of the root or intermediate beside the active one.
    pub fn other_key(&self) -> Option<[u8; 32]> {
        self.lines.load().other_key()
    }

    /// The root beside the active one; or the intermediate, and those that it replaced.
    pub fn other_signers(&self) -> Vec<Signer> {
        self.lines.load().other_signers()
    }

    /// Makes what the next step, [`Authorities::prepare`], will name. Blocks.
    ///
    /// # Errors
    /// It cannot be made or kept; nothing has changed then.
    pub fn prepare(&self, kind: Kind) -> Result<Prepared, AuthorityError> {
        let _turn = self.changing.lock();
        self.shelf.prepare(&self.lines.load(), kind, self.clock.now()).map(Prepared)
    }

    /// Puts a step in force in this process: `next` is the state after it, `prepared` what [`Self::prepare`] made for it.
    /// Everything is issued and told by that from now on.
    pub fn install(&self, next: Authorities, prepared: Option<Prepared>) {
        let _turn = self.changing.lock();
        let Lines { state, active, other } = Lines::clone(&self.lines.load());
        let (active, other) = if next.active == state.active {
            (active, prepared.map(|Prepared(pairs)| pairs).or(other))
        } else {
            // Activated, or taken back because it could not be stored: they change places.
            match other {
                Some(other) => (other, Some(active)),
                None => (active, None),
            }
        };
        let other = other.filter(|_| next.other.is_some());
        self.lines.store(Arc::new(Lines { state: next, active, other }));
    }

    /// Removes the keys that are in no rotation any more. Blocks.
    pub fn tidy(&self) {
        let _turn = self.changing.lock();
        self.shelf.tidy(&self.lines.load().state);
    }

    /// Issues `id`, a workload of this trust domain that carries `labels`, for the key of `csr`.
    ///
    /// # Errors
    /// The name is reserved or foreign, or the signing failed.
    pub fn issue(
        &self,
        id: &SpiffeId,
        labels: &BTreeMap<String, String>,
        csr: &Csr,
    ) -> Result<Issued, IssueError> {
        if id.as_workload().is_none() {
            return Err(IssueError::Reserved(id.clone()));
        }
        if id.trust_domain() != self.trust_domain() {
            return Err(IssueError::TrustDomain(id.clone()));
        }
        let profile = profile::leaf(id, labels)?;
        Ok(self.leaf(&self.lines.load().active.workload, profile, self.leaf_life.life, csr.key())?)
    }

    /// Makes the control plane's own SVID, with `names` beside its identity.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn control_plane(&self, names: &PortNames) -> Result<Svid, AuthorityError> {
        let id = SpiffeId::control_plane(self.trust_domain().clone());
        self.svid(profile::control_plane(&id, names)?, SVID_LIFE)
    }

    /// Makes an operator's credential. What it may do is the store's matter.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn operator(&self, name: &Name) -> Result<Svid, AuthorityError> {
        let id = SpiffeId::operator(self.trust_domain().clone(), name.clone());
        self.svid(profile::leaf(&id, &BTreeMap::new())?, profile::OPERATOR_LIFE)
    }

    /// Its chain leads to every root of the bundle: whoever trusts one of them is convinced.
    fn svid(&self, profile: CertificateParams, life: Duration) -> Result<Svid, AuthorityError> {
        let key = Key::generate()?;
        let lines = self.lines.load();
        let issued = self.leaf(&lines.active.operator, profile, life, key.pair())?;
        let leaf = issued.chain.into_iter().take(1);
        let chain = leaf.chain(operators(&lines)).map(|certificate| certificate.to_vec()).collect();
        Ok(Svid::from_parts(chain, key)?)
    }

    fn leaf(
        &self,
        issuer: &Pair,
        mut params: CertificateParams,
        life: Duration,
        key: &impl PublicKeyData,
    ) -> Result<Issued, rcgen::Error> {
        let now = self.clock.now();
        let validity = Validity::starting(now, life, Some(issuer.validity));
        params.not_before = validity.not_before.into();
        params.not_after = validity.not_after.into();
        let leaf = issuer.sign(&params, key)?;
        let left = validity.not_after.duration_since(now).unwrap_or_default();
        Ok(Issued {
            chain: vec![leaf, issuer.certificate.clone()],
            validity,
            renew_after: now + left.mul_f64(rand::random_range(0.45..0.55)),
        })
    }

    /// What workloads and operators are verified against: the roots, the active one first.
    pub fn bundle(&self) -> TrustBundle {
        let lines = self.lines.load();
        let mut roots = vec![lines.active.root.certificate.to_vec()];
        let other = lines.other.iter().map(|other| other.root.certificate.to_vec());
        roots.extend(other.filter(|root| *root != *lines.active.root.certificate));
        let mut outgoing = Outgoing {
            revoked: lines.state.revoked.iter().map(|revoked| revoked.key).collect(),
            at_once: lines.state.at_once,
            ..Outgoing::default()
        };
        let other = lines.other_signers().into_iter().map(|signer| signer.key);
        match lines.state.other.map(|other| other.stage) {
            Some(Stage::Retiring { .. }) => outgoing.retiring.extend(other),
            Some(Stage::Tainted { .. }) => outgoing.tainted.extend(other),
            Some(Stage::Prepared) | None => {}
        }
        TrustBundle {
            trust_domain: self.trust_domain().clone(),
            x509_authorities: roots,
            sequence: lines.state.sequence,
            outgoing,
        }
    }

    /// The intermediate under which operators are, and workloads are not.
    pub fn operator_authority(&self) -> CertificateDer<'static> {
        self.lines.load().active.operator.certificate.clone()
    }

    /// The same under every root of the bundle: one key, the active certificate first.
    pub fn operator_authorities(&self) -> Vec<CertificateDer<'static>> {
        operators(&self.lines.load())
    }

    /// How long each of the active authorities lives, by name.
    pub fn validities(&self) -> [(&'static str, Validity); 3] {
        let Pairs { root, workload, operator } = &self.lines.load().active;
        [("root", root.validity), ("workload", workload.validity), ("operator", operator.validity)]
    }

    /// How long the root or intermediate beside the active one lives, by name.
    pub fn other_validity(&self) -> Option<(&'static str, Validity)> {
        let lines = self.lines.load();
        let name = match lines.state.kind()? {
            Kind::Root => "other_root",
            Kind::Intermediate => "other_workload",
        };
        Some((name, lines.other_pair()?.validity))
    }

    /// SHA-256 of the public keys of the active root and of the active intermediate of workloads.
    pub fn active_keys(&self) -> [[u8; 32]; 2] {
        let lines = self.lines.load();
        [hash(&lines.active.root.spki()), hash(&lines.active.workload.spki())]
    }

    /// The trust domain that this authority is for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.shelf.trust_domain
    }

    /// sha256 of the active root's public key: what a join token pins.
    pub fn root_hash(&self) -> [u8; 32] {
        hash(&self.lines.load().active.root.spki())
    }

    /// Whether a join token pins one of the roots in force: one of the old is good for as long as that is trusted.
    pub fn is_root(&self, pinned: &[u8; 32]) -> bool {
        let lines = self.lines.load();
        let roots = std::iter::once(&lines.active).chain(&lines.other).map(|pairs| hash(&pairs.root.spki()));
        roots.into_iter().any(|root| root == *pinned)
    }
}

/// What [`Authority::prepare`] made.
#[derive(Debug, Clone)]
pub struct Prepared(Pairs);

fn operators(lines: &Lines) -> Vec<CertificateDer<'static>> {
    let mut certificates = vec![lines.active.operator.certificate.clone()];
    let other = lines.other.iter().map(|other| other.operator.certificate.clone());
    certificates.extend(other.filter(|other| *other != lines.active.operator.certificate));
    certificates
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
