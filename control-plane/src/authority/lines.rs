//! What the authority keeps: a line is a root with the intermediates below it, each certificate with its key in a file of
//! its own. There is the active line, and during a rotation another one beside it; the number of each is in the file's
//! name, and which of them are in force is in the store alone ([`Authorities`]). So a step is one write of the store,
//! whenever the process is killed: files that the store does not name are left over, and are removed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use outrigger_core::{
    model::TrustDomain,
    rotation::{Authorities, Kind, Line, Signer},
};
use rcgen::KeyPair;

use super::{
    AuthorityError, hash,
    pair::{self, Pair},
    profile::{self, Validity},
};

/// Whose intermediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branch {
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
}

/// One line's certificates and keys. The operators' intermediate has one key for all roots: what it signed is as good
/// under the next root as it is under this one.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    pub(super) root: Arc<Pair>,
    pub(super) workload: Arc<Pair>,
    pub(super) operator: Arc<Pair>,
}

/// Everything in force at one moment. Immutable; swapped whole.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    pub(super) state: Authorities,
    pub(super) active: Pairs,
    /// Of `state.other`.
    pub(super) other: Option<Pairs>,
}

impl Lines {
    /// SHA-256 of the public key of what is on its way out, or in: a root or an intermediate, as the rotation has it.
    pub(super) fn other_key(&self) -> Option<[u8; 32]> {
        Some(hash(&self.other_pair()?.spki()))
    }

    /// The same, and the intermediates that it replaced if it is one.
    pub(super) fn other_signers(&self) -> Vec<Signer> {
        let Some(other) = self.other_pair() else { return Vec::new() };
        std::iter::once(other.signer()).chain(other.replaced()).collect()
    }

    /// The root or the intermediate beside the active one.
    pub(super) fn other_pair(&self) -> Option<&Pair> {
        let other = self.other.as_ref()?;
        self.state.kind().map(|kind| match kind {
            Kind::Root => &*other.root,
            Kind::Intermediate => &*other.workload,
        })
    }
}

/// Where the files are, and whose.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) directory: PathBuf,
    pub(super) trust_domain: TrustDomain,
}

/// `root.pem`, `root-1.pem`, ...
fn file(name: &str, number: u32) -> String {
    match number {
        0 => format!("{name}.pem"),
        number => format!("{name}-{number}.pem"),
    }
}

fn names(line: Line) -> [String; 3] {
    [file("root", line.root), file("workload", line.intermediate), file("operator", line.root)]
}

impl Shelf {
    fn path(&self, name: &str, number: u32) -> PathBuf {
        self.directory.join(file(name, number))
    }

    pub(super) fn branch_path(&self, branch: Branch, line: Line) -> PathBuf {
        match branch {
            Branch::Workload => self.path(branch.name(), line.intermediate),
            Branch::Operator => self.path(branch.name(), line.root),
        }
    }

    /// Opens what `state` names; makes what is missing below a root, and the very first root. Renews the
    /// active intermediates past half of their lives. Blocks.
    pub(super) fn open(
        &self,
        state: Authorities,
        known_root: Option<&[u8]>,
        now: SystemTime,
    ) -> Result<Lines, AuthorityError> {
        if known_root.is_none() {
            self.refuse_other_roots(state.active)?;
        }
        let root = self.active_root(state.active, known_root, now)?;
        let other = match state.other {
            None => None,
            Some(other) => {
                let root = if other.line.root == state.active.root {
                    Arc::clone(&root)
                } else {
                    let path = self.path("root", other.line.root);
                    Arc::new(Pair::load(&path, None)?.ok_or(AuthorityError::Missing { path })?)
                };
                let path = self.branch_path(Branch::Workload, other.line);
                let workload = Pair::load(&path, Some(&root))?.ok_or(AuthorityError::Missing { path })?;
                Some((other.line, root, Arc::new(workload)))
            }
        };
        let workload = self.branch(Branch::Workload, state.active, &root, None, now)?;
        let mut key = Pair::load(&self.branch_path(Branch::Operator, state.active), Some(&root))?;
        if let (None, Some((line, root, _))) = (&key, &other) {
            key = Pair::load(&self.branch_path(Branch::Operator, *line), Some(root))?;
        }
        let operator = self.branch(Branch::Operator, state.active, &root, key.as_ref(), now)?;
        let active = Pairs { root, workload, operator };
        let other = match other {
            None => None,
            Some((line, root, workload)) => {
                let operator = if line.root == state.active.root {
                    Arc::clone(&active.operator)
                } else {
                    self.branch(Branch::Operator, line, &root, Some(&active.operator), now)?
                };
                Some(Pairs { root, workload, operator })
            }
        };
        if known_root.is_some() {
            self.tidy(&state);
        }
        Ok(Lines { state, active, other })
    }

    /// A store that knows no root beside the root of a rotation is not the one that these keys were made with: it cannot
    /// say which of them is in force, and must take none of them for a leftover.
    fn refuse_other_roots(&self, active: Line) -> Result<(), AuthorityError> {
        let directory = &self.directory;
        let entries = fs::read_dir(directory)
            .map_err(|source| AuthorityError::Io { path: directory.clone(), source })?;
        let active = file("root", active.root);
        let found = entries.flatten().find(|entry| {
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            name != active && name.starts_with("root") && is_ours(name)
        });
        match found {
            Some(entry) => Err(AuthorityError::AnotherRoot { path: entry.path() }),
            None => Ok(()),
        }
    }

    fn active_root(
        &self,
        line: Line,
        known_root: Option<&[u8]>,
        now: SystemTime,
    ) -> Result<Arc<Pair>, AuthorityError> {
        let path = self.path("root", line.root);
        let root = match Pair::load(&path, None)? {
            Some(root) => root,
            // The store's proxies trust a root that is gone: a new one would lock them out.
            None if known_root.is_some() || line.root > 0 => {
                return Err(AuthorityError::AnotherRoot { path });
            }
            None => {
                let root = self.new_root(now)?;
                root.save(&path)?;
                root
            }
        };
        if known_root.is_some_and(|known| known != hash(&root.spki())) {
            return Err(AuthorityError::AnotherRoot { path });
        }
        let found = pair::uri_of(&root.certificate).unwrap_or_default();
        if found != format!("spiffe://{}", self.trust_domain) {
            let wanted = self.trust_domain.to_string();
            return Err(AuthorityError::TrustDomain { path, found, wanted });
        }
        if root.validity.not_after <= now {
            return Err(AuthorityError::Expired { path });
        }
        Ok(Arc::new(root))
    }

    fn new_root(&self, now: SystemTime) -> Result<Pair, AuthorityError> {
        let validity = Validity::starting(now, profile::ROOT_LIFE, None);
        Ok(Pair::self_signed(&profile::root(&self.trust_domain, validity)?, validity)?)
    }

    /// The intermediate of `line`: the one that is kept, unless it is past half of its life or missing; then a new one
    /// is kept, of the key of `previous` if it is the operators', and with the certificates that it replaces if it is the
    /// workloads'.
    fn branch(
        &self,
        branch: Branch,
        line: Line,
        root: &Pair,
        previous: Option<&Pair>,
        now: SystemTime,
    ) -> Result<Arc<Pair>, AuthorityError> {
        let path = self.branch_path(branch, line);
        match Pair::load(&path, Some(root))? {
            Some(pair) if !pair.validity.past_half(now) => Ok(Arc::new(pair)),
            Some(pair) if branch == Branch::Workload => self.make(branch, line, root, Some(&pair), now),
            _ => self.make(branch, line, root, previous, now),
        }
    }

    /// Makes and keeps the intermediate of `line`. The operators' keeps the key of `previous`, the workloads' its certificate.
    pub(super) fn make(
        &self,
        branch: Branch,
        line: Line,
        root: &Pair,
        previous: Option<&Pair>,
        now: SystemTime,
    ) -> Result<Arc<Pair>, AuthorityError> {
        let validity = Validity::starting(now, profile::INTERMEDIATE_LIFE, Some(root.validity));
        let params = profile::intermediate(&self.trust_domain, branch.name(), validity)?;
        let key = match (branch, previous) {
            (Branch::Operator, Some(previous)) => previous.copy_key()?,
            (Branch::Operator, None) | (Branch::Workload, _) => KeyPair::generate()?,
        };
        let mut pair = Pair::signed_by(root, &params, validity, key)?;
        if let (Branch::Workload, Some(previous)) = (branch, previous) {
            pair.replace(previous, now);
        }
        pair.save(&self.branch_path(branch, line))?;
        Ok(Arc::new(pair))
    }

    /// Makes and keeps a new line beside the active one. Nothing is in force by that. Blocks.
    pub(super) fn prepare(
        &self,
        lines: &Lines,
        kind: Kind,
        now: SystemTime,
    ) -> Result<Pairs, AuthorityError> {
        let line = lines.state.next_line(kind);
        let active = &lines.active;
        let (root, operator) = match kind {
            Kind::Intermediate => (Arc::clone(&active.root), Arc::clone(&active.operator)),
            Kind::Root => {
                let root = self.new_root(now)?;
                root.save(&self.path("root", line.root))?;
                let operator = self.make(Branch::Operator, line, &root, Some(&active.operator), now)?;
                (Arc::new(root), operator)
            }
        };
        let workload = self.make(Branch::Workload, line, &root, None, now)?;
        Ok(Pairs { root, workload, operator })
    }

    /// Removes the keys that `state` does not name: those that were revoked, and those of a step that never was.
    pub(super) fn tidy(&self, state: &Authorities) {
        let lines = [Some(state.active), state.other.map(|other| other.line)];
        let kept: Vec<String> = lines.into_iter().flatten().flat_map(names).collect();
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if is_ours(name)
                && !kept.iter().any(|kept| kept == name)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "a key that is not used any more cannot be removed");
            }
        }
    }
}

/// Whether a file's name is one of those made here.
fn is_ours(name: &str) -> bool {
    let Some(stem) = Path::new(name).file_stem().and_then(|stem| stem.to_str()) else { return false };
    let (name_of, number) = stem.split_once('-').unwrap_or((stem, "0"));
    ["root", "workload", "operator"].contains(&name_of)
        && number.parse::<u32>().is_ok_and(|number| file(name_of, number) == name)
}
