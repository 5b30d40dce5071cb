//! The certificate authority: a root, below it one intermediate for workloads and another for the control plane and its
//! operators, below those the leaves. That an operator's certificate is no workload's, and the reverse, is thus a matter
//! of its chain, not only of the name in it.
//!
//! The workload intermediate gets a new key at each renewal, and leaves carry their chain. The operator intermediate
//! keeps its key: it is an anchor of its own on the policy port, and credentials signed before a renewal stay good.

mod csr;
pub mod join;
pub mod labels;
mod pair;
mod profile;
mod upkeep;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use outrigger_core::model::{Name, SpiffeId, TrustBundle, TrustDomain};
use outrigger_tls::{Key, Svid};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;

pub use csr::{Csr, CsrError};
pub use pair::AuthorityError;
pub use profile::Validity;
pub use upkeep::{OPERATORS, Upkeep, UpkeepError};

use crate::clock::Clock;
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

/// Whose intermediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    Workload,
    Operator,
}

impl Branch {
    fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Operator => "operator",
        }
    }

    fn file(self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.pem", self.name()))
    }
}

/// The authority of one trust domain.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    directory: PathBuf,
    clock: Clock,
    root: Pair,
    workload: ArcSwap<Pair>,
    operator: ArcSwap<Pair>,
}

impl Authority {
    /// Opens the authority kept in `directory`, which exists and is private; makes what is missing, and renews the
    /// intermediates past half of their lives. `known_root` is the root that the store remembers. Blocks: for the start
    /// of a process.
    ///
    /// # Errors
    /// A file is unreadable, damaged, or that of another authority.
    pub fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
        known_root: Option<&[u8]>,
        clock: Clock,
    ) -> Result<Self, AuthorityError> {
        let path = directory.join("root.pem");
        let now = clock.now();
        let root = match Pair::load(&path)? {
            Some(root) => root,
            // The store's proxies trust a root that is gone: a new one would lock them out.
            None if known_root.is_some() => return Err(AuthorityError::AnotherRoot { path }),
            None => {
                let validity = Validity::starting(now, profile::ROOT_LIFE, None);
                let root = Pair::self_signed(&profile::root(trust_domain, validity)?, validity)?;
                root.save(&path)?;
                root
            }
        };
        if known_root.is_some_and(|known| known != hash(&root.spki())) {
            return Err(AuthorityError::AnotherRoot { path });
        }
        let found = pair::uri_of(&root.certificate).unwrap_or_default();
        if found != format!("spiffe://{trust_domain}") {
            return Err(AuthorityError::TrustDomain { path, found, wanted: trust_domain.to_string() });
        }
        if root.validity.not_after <= now {
            return Err(AuthorityError::Expired { path });
        }
        let workload = Self::branch(directory, trust_domain, &root, Branch::Workload, now)?;
        let operator = Self::branch(directory, trust_domain, &root, Branch::Operator, now)?;
        Ok(Self {
            trust_domain: trust_domain.clone(),
            directory: directory.to_owned(),
            clock,
            root,
            workload: ArcSwap::from_pointee(workload),
            operator: ArcSwap::from_pointee(operator),
        })
    }

    fn branch(
        directory: &Path,
        trust_domain: &TrustDomain,
        root: &Pair,
        branch: Branch,
        now: SystemTime,
    ) -> Result<Pair, AuthorityError> {
        let path = branch.file(directory);
        match Pair::load(&path)? {
            Some(pair) if pair.validity.past_half(now) => {
                Self::renewed(trust_domain, root, branch, Some(&pair), now)
                    .and_then(|pair| pair.save(&path).map(|()| pair))
            }
            Some(pair) => Ok(pair),
            None => Self::renewed(trust_domain, root, branch, None, now)
                .and_then(|pair| pair.save(&path).map(|()| pair)),
        }
    }

    fn renewed(
        trust_domain: &TrustDomain,
        root: &Pair,
        branch: Branch,
        previous: Option<&Pair>,
        now: SystemTime,
    ) -> Result<Pair, AuthorityError> {
        let validity = Validity::starting(now, profile::INTERMEDIATE_LIFE, Some(root.validity));
        let params = profile::intermediate(trust_domain, branch.name(), validity)?;
        let key = match (branch, previous) {
            (Branch::Operator, Some(previous)) => previous.copy_key()?,
            (Branch::Operator, None) | (Branch::Workload, _) => KeyPair::generate()?,
        };
        Ok(Pair::signed_by(root, &params, validity, key)?)
    }

    /// Renews the intermediates that are past half of their lives. Blocks for the writing of a file.
    ///
    /// # Errors
    /// A certificate cannot be made or kept; the one in use stays.
    pub fn renew(&self) -> Result<(), AuthorityError> {
        let now = self.clock.now();
        for (branch, current) in [(Branch::Workload, &self.workload), (Branch::Operator, &self.operator)] {
            let previous = current.load();
            if previous.validity.past_half(now) {
                let pair = Self::renewed(&self.trust_domain, &self.root, branch, Some(&previous), now)?;
                pair.save(&branch.file(&self.directory))?;
                current.store(Arc::new(pair));
            }
        }
        Ok(())
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
        if id.trust_domain() != &self.trust_domain {
            return Err(IssueError::TrustDomain(id.clone()));
        }
        let profile = profile::leaf(id, labels)?;
        Ok(self.leaf(&self.workload.load(), profile, profile::SVID_LIFE, csr.key())?)
    }

    /// Makes the control plane's own SVID.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn control_plane(&self) -> Result<Svid, AuthorityError> {
        self.svid(&SpiffeId::control_plane(self.trust_domain.clone()), profile::SVID_LIFE)
    }

    /// Makes an operator's credential. What it may do is the store's matter.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn operator(&self, name: &Name) -> Result<Svid, AuthorityError> {
        self.svid(&SpiffeId::operator(self.trust_domain.clone(), name.clone()), profile::OPERATOR_LIFE)
    }

    fn svid(&self, id: &SpiffeId, life: Duration) -> Result<Svid, AuthorityError> {
        let key = Key::generate()?;
        let profile = profile::leaf(id, &BTreeMap::new())?;
        let issued = self.leaf(&self.operator.load(), profile, life, key.pair())?;
        let chain = issued.chain.iter().map(|certificate| certificate.to_vec()).collect();
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

    /// What workloads and operators are verified against: the roots.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle {
            trust_domain: self.trust_domain.clone(),
            x509_authorities: vec![self.root.certificate.to_vec()],
            // One root for life until there is a rotation.
            sequence: 1,
        }
    }

    /// The intermediate under which operators are, and workloads are not.
    pub fn operator_authority(&self) -> CertificateDer<'static> {
        self.operator.load().certificate.clone()
    }

    /// How long each of the authorities lives, by name.
    pub fn validities(&self) -> [(&'static str, Validity); 3] {
        [
            ("root", self.root.validity),
            ("workload", self.workload.load().validity),
            ("operator", self.operator.load().validity),
        ]
    }

    /// The trust domain that this authority is for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// sha256 of the root's public key: what a join token pins.
    pub fn root_hash(&self) -> [u8; 32] {
        hash(&self.root.spki())
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
