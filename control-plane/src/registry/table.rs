//! The registry's state machine: who is registered, until when, and who may take what from whom. Plans first (what to
//! commit), applies after the commit; `now` is an argument.
//!
//! ```text
//!              register                 no sign of life for a lease
//!   (absent) -----------> Live ------------------------------------> Lapsed
//!      ^                  ^  |                                         | one lease
//!      |     half-close   |  |               register                  v
//!      +------------------|--+------------------<------------------ Overdue
//!      |                  +--------------------------------------------+
//!      +-------------------------------<----------- one lease ---------+
//! ```
//! A lapsed workload backs nothing any more, unless all workloads of a set lapsed together (see
//! [`crate::compile`]): a partition of the control plane must not empty the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use outrigger_core::model::Health;
use tokio::time::Instant;

use super::{
    Claim, Member, Refusal, Registration, SessionOver, Snapshot, Standing, WorkloadName, member::Accounts,
};

/// Tells the registry's streams apart, over the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// How much, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A workload without a sign of life for so long lapses.
    pub lease: Duration,
    /// Workloads altogether.
    pub workloads: usize,
    /// Workloads of one identity: nobody can fill the table alone.
    pub workloads_per_identity: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lease: Duration::from_secs(30), workloads: 100_000, workloads_per_identity: 4_096 }
    }
}

/// One change to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a registration.
    Put(Arc<Registration>),
    /// Removes one.
    Delete(WorkloadName),
}

/// What to commit, and then to [`Table::apply`]. Lost with the process, it changed nothing.
#[derive(Debug, Clone)]
pub struct Plan {
    /// To be committed together; may be empty.
    pub writes: Vec<Write>,
    effect: Effect,
}

#[derive(Debug, Clone)]
enum Effect {
    Seat { registration: Arc<Registration>, session: SessionId, evicted: Vec<WorkloadName> },
    Withdraw(WorkloadName),
    Sweep { lapse: Vec<WorkloadName>, overdue: Vec<WorkloadName>, forget: Vec<WorkloadName> },
}

/// What came of a plan.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Streams that lost their workload, to be ended.
    pub ended: Vec<SessionId>,
}

#[derive(Debug)]
struct Lease {
    session: Option<SessionId>,
    /// When the standing changes, unless there is a sign of life before.
    due: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    revision: u64,
    members: Arc<BTreeMap<WorkloadName, Arc<Member>>>,
    leases: BTreeMap<WorkloadName, Lease>,
    sessions: BTreeMap<SessionId, WorkloadName>,
    addresses: BTreeMap<SocketAddr, WorkloadName>,
    accounts: Arc<Accounts>,
}

impl Table {
    /// What was committed up to `revision`, each with a fresh lease: nobody could send a heartbeat while there was no
    /// control plane.
    pub fn load(
        limits: Limits,
        revision: u64,
        registrations: impl IntoIterator<Item = Registration>,
        now: Instant,
    ) -> Self {
        let mut table = Self {
            limits,
            revision,
            members: Arc::default(),
            leases: BTreeMap::new(),
            sessions: BTreeMap::new(),
            addresses: BTreeMap::new(),
            accounts: Arc::default(),
        };
        for registration in registrations {
            let standing = if registration.lapsed { Standing::Lapsed(now) } else { Standing::Live };
            table.insert(
                Arc::new(registration),
                Health::Healthy,
                standing,
                Lease { session: None, due: now + limits.lease },
            );
        }
        table
    }

    /// The members as they are now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            revision: self.revision,
            lease: self.limits.lease,
            members: Arc::clone(&self.members),
            accounts: Arc::clone(&self.accounts),
        }
    }

    /// What to commit so that `claim`, sent over `session`, stands.
    ///
    /// # Errors
    /// It would take an id, an epoch or an address from somebody else, or there are too many.
    pub fn register(
        &self,
        session: SessionId,
        claim: &Claim,
        labels: &BTreeMap<String, String>,
    ) -> Result<Plan, Refusal> {
        if let Some(other) = self.sessions.get(&session).filter(|name| **name != claim.name) {
            return Err(Refusal::OtherWorkload(other.clone()));
        }
        self.check_id(claim)?;
        let evicted = self.check_addresses(claim)?;
        let registration =
            Arc::new(Registration { claim: claim.clone(), labels: labels.clone(), lapsed: false });
        let mut writes: Vec<Write> = evicted.iter().cloned().map(Write::Delete).collect();
        if self.members.get(&claim.name).is_none_or(|member| member.registration != registration) {
            writes.push(Write::Put(Arc::clone(&registration)));
        }
        Ok(Plan { writes, effect: Effect::Seat { registration, session, evicted } })
    }

    fn check_id(&self, claim: &Claim) -> Result<(), Refusal> {
        let Some(member) = self.members.get(&claim.name) else {
            let own = self.accounts.get(&claim.account).map_or(0, BTreeSet::len);
            return if self.members.len() >= self.limits.workloads {
                Err(Refusal::Full("too many workloads"))
            } else if own >= self.limits.workloads_per_identity {
                Err(Refusal::Full("too many workloads of this identity"))
            } else {
                Ok(())
            };
        };
        let holder = &member.registration.claim;
        if holder.identity != claim.identity {
            Err(Refusal::IdOwned(claim.name.clone()))
        } else if holder.epoch > claim.epoch {
            Err(Refusal::StaleEpoch { name: claim.name.clone(), current: holder.epoch, claimed: claim.epoch })
        } else {
            Ok(())
        }
    }

    /// The members that give way to `claim`: the lapsed (an address outlives its machine and is given to the next
    /// one), and predecessors under another id whose session is gone (a restart with a new id).
    fn check_addresses(&self, claim: &Claim) -> Result<Vec<WorkloadName>, Refusal> {
        let mut evicted = Vec::new();
        for pair in &claim.pairs {
            let Some(owner) = self.addresses.get(&pair.address).filter(|owner| **owner != claim.name) else {
                continue;
            };
            let Some(member) = self.members.get(owner) else { continue };
            if member.standing == Standing::Live {
                if member.registration.claim.identity != claim.identity {
                    return Err(Refusal::AddressOwned(pair.address));
                }
                if member.connected {
                    return Err(Refusal::AddressInUse { address: pair.address, owner: owner.clone() });
                }
            }
            if !evicted.contains(owner) {
                evicted.push(owner.clone());
            }
        }
        Ok(evicted)
    }

    /// What to commit when `session` says good-bye: its workload is withdrawn.
    ///
    /// # Errors
    /// It has none.
    pub fn withdraw(&self, session: SessionId) -> Result<Plan, SessionOver> {
        let name = self.sessions.get(&session).ok_or(SessionOver)?;
        Ok(Plan { writes: vec![Write::Delete(name.clone())], effect: Effect::Withdraw(name.clone()) })
    }

    /// What to commit because time has passed; `None` when nothing is due.
    pub fn sweep(&self, now: Instant) -> Option<Plan> {
        let (mut writes, mut lapse, mut overdue, mut forget) = (vec![], vec![], vec![], vec![]);
        for (name, _) in self.leases.iter().filter(|(_, lease)| lease.due <= now) {
            let Some(member) = self.members.get(name) else { continue };
            match member.standing {
                Standing::Live => {
                    let registration = Registration { lapsed: true, ..(*member.registration).clone() };
                    writes.push(Write::Put(Arc::new(registration)));
                    lapse.push(name.clone());
                }
                Standing::Lapsed(_) => overdue.push(name.clone()),
                Standing::Overdue(_) => {
                    writes.push(Write::Delete(name.clone()));
                    forget.push(name.clone());
                }
            }
        }
        let idle = lapse.is_empty() && overdue.is_empty() && forget.is_empty();
        (!idle).then_some(Plan { writes, effect: Effect::Sweep { lapse, overdue, forget } })
    }

    /// When [`Self::sweep`] may have something to do. Signs of life only move it on.
    pub fn next_due(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.due).min()
    }

    /// Makes `plan` true, after its writes were committed as `revision` (`None`: there were none). Between the two
    /// calls the table must not have changed.
    pub fn apply(&mut self, now: Instant, plan: Plan, revision: Option<u64>) -> Outcome {
        self.revision = revision.unwrap_or(self.revision);
        let mut ended = Vec::new();
        match plan.effect {
            Effect::Seat { registration, session, evicted } => {
                for name in evicted {
                    ended.extend(self.remove(&name));
                }
                ended.extend(self.seat(now, registration, session));
            }
            Effect::Withdraw(name) => {
                self.remove(&name);
            }
            Effect::Sweep { lapse, overdue, forget } => {
                for name in lapse {
                    ended.extend(self.lapse(now, &name));
                }
                for name in overdue {
                    self.set_overdue(now, &name);
                }
                for name in forget {
                    ended.extend(self.remove(&name));
                }
            }
        }
        Outcome { ended }
    }

    /// A sign of life.
    ///
    /// # Errors
    /// The session has no workload.
    pub fn heartbeat(&mut self, now: Instant, session: SessionId) -> Result<(), SessionOver> {
        let name = self.sessions.get(&session).ok_or(SessionOver)?;
        let lease = self.leases.get_mut(name).ok_or(SessionOver)?;
        lease.due = now + self.limits.lease;
        Ok(())
    }

    /// What the workload of `session` says of itself, which is a sign of life too. Returns whether it is news.
    ///
    /// # Errors
    /// The session has no workload.
    pub fn set_health(
        &mut self,
        now: Instant,
        session: SessionId,
        health: Health,
    ) -> Result<bool, SessionOver> {
        self.heartbeat(now, session)?;
        let name = self.sessions.get(&session).ok_or(SessionOver)?.clone();
        Ok(self.update(&name, |member| member.health = health))
    }

    /// The stream of `session` broke: its workload stays for the rest of its lease, counted from now.
    pub fn lose(&mut self, now: Instant, session: SessionId) {
        let Some(name) = self.sessions.remove(&session) else { return };
        if let Some(lease) = self.leases.get_mut(&name) {
            lease.session = None;
            lease.due = now + self.limits.lease;
        }
        self.update(&name, |member| member.connected = false);
    }

    /// The workload of `session`.
    pub fn member(&self, session: SessionId) -> Option<&Arc<Member>> {
        self.members.get(self.sessions.get(&session)?)
    }

    fn seat(
        &mut self,
        now: Instant,
        registration: Arc<Registration>,
        session: SessionId,
    ) -> Option<SessionId> {
        let name = registration.claim.name.clone();
        let before = self.members.get(&name).cloned();
        // The same process after a broken stream is as healthy as it said; a new one says so itself.
        let health = before
            .filter(|member| member.registration.claim.epoch == registration.claim.epoch)
            .map_or(Health::Healthy, |member| member.health);
        let superseded = self.remove(&name).filter(|other| *other != session);
        self.sessions.insert(session, name);
        let lease = Lease { session: Some(session), due: now + self.limits.lease };
        self.insert(registration, health, Standing::Live, lease);
        superseded
    }

    fn insert(&mut self, registration: Arc<Registration>, health: Health, standing: Standing, lease: Lease) {
        let claim = &registration.claim;
        for pair in &claim.pairs {
            self.addresses.insert(pair.address, claim.name.clone());
        }
        let accounts = Arc::make_mut(&mut self.accounts);
        accounts.entry(claim.account.clone()).or_default().insert(claim.name.clone());
        let connected = lease.session.is_some();
        self.leases.insert(claim.name.clone(), lease);
        let name = claim.name.clone();
        let member = Arc::new(Member { registration, health, standing, connected });
        Arc::make_mut(&mut self.members).insert(name, member);
    }

    /// Forgets a workload; returns its session.
    fn remove(&mut self, name: &WorkloadName) -> Option<SessionId> {
        let member = Arc::make_mut(&mut self.members).remove(name)?;
        let claim = &member.registration.claim;
        for pair in &claim.pairs {
            self.addresses.remove(&pair.address);
        }
        let accounts = Arc::make_mut(&mut self.accounts);
        if let Some(names) = accounts.get_mut(&claim.account) {
            names.remove(name);
            if names.is_empty() {
                accounts.remove(&claim.account);
            }
        }
        let session = self.leases.remove(name)?.session?;
        self.sessions.remove(&session);
        Some(session)
    }

    fn lapse(&mut self, now: Instant, name: &WorkloadName) -> Option<SessionId> {
        self.update(name, |member| {
            member.registration = Arc::new(Registration { lapsed: true, ..(*member.registration).clone() });
            member.standing = Standing::Lapsed(now);
            member.connected = false;
        });
        let lease = self.leases.get_mut(name)?;
        lease.due = now + self.limits.lease;
        let session = lease.session.take()?;
        self.sessions.remove(&session);
        Some(session)
    }

    fn set_overdue(&mut self, now: Instant, name: &WorkloadName) {
        self.update(name, |member| {
            if let Standing::Lapsed(since) = member.standing {
                member.standing = Standing::Overdue(since);
            }
        });
        if let Some(lease) = self.leases.get_mut(name) {
            lease.due = now + self.limits.lease;
        }
    }

    /// Edits a member; returns whether that changed it.
    fn update(&mut self, name: &WorkloadName, edit: impl FnOnce(&mut Member)) -> bool {
        let Some(before) = self.members.get(name) else { return false };
        let mut after = Member::clone(before);
        edit(&mut after);
        let changed = after != **before;
        if changed {
            Arc::make_mut(&mut self.members).insert(name.clone(), Arc::new(after));
        }
        changed
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
