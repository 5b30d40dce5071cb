//! The registered workloads as everybody but the table sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use outrigger_core::model::{Health, Name};
use tokio::time::Instant;

use super::{Registration, WorkloadName};

/// Whether a workload can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its lease runs.
    Live,
    /// Its lease ran out then, less than a further lease ago.
    Lapsed(Instant),
    /// Its lease ran out then, and the grace of a lapsed one as well.
    Overdue(Instant),
}

/// One registered workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who and where, as committed.
    pub registration: Arc<Registration>,
    /// As it says of itself.
    pub health: Health,
    /// Whether it can be counted on.
    pub standing: Standing,
    /// Whether its session is open.
    pub connected: bool,
}

/// All members at one moment; cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Every commit of the registry up to this revision is in it.
    pub revision: u64,
    /// The length of a lease.
    pub lease: Duration,
    /// By name.
    pub members: Arc<BTreeMap<WorkloadName, Arc<Member>>>,
    pub(super) accounts: Arc<Accounts>,
}

/// Who runs under a service account, given by namespace and name.
pub(super) type Accounts = BTreeMap<(Name, Name), BTreeSet<WorkloadName>>;

impl Snapshot {
    /// Whether `other` was taken before anything changed.
    pub fn same(&self, other: &Self) -> bool {
        self.revision == other.revision && Arc::ptr_eq(&self.members, &other.members)
    }

    /// The members that run under a service account, by name.
    pub fn of_account(&self, namespace: &Name, account: &Name) -> impl Iterator<Item = &Arc<Member>> {
        let names = self.accounts.get(&(namespace.clone(), account.clone()));
        names.into_iter().flatten().filter_map(|name| self.members.get(name))
    }
}
