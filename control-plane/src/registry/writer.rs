//! The registry's one writer: a task that owns the table, commits what changes and publishes what results.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outrigger_core::model::Health;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Claim, Limits, Malformed, Member, Plan, Refusal, Registration, SessionId, SessionOver, Snapshot, Table,
    Write, budget::Budgets,
};
use crate::{
    audit::Draft,
    clock::Clock,
    store::{Commit, CommitError, Key, Keyspace, Op, Store, StoreError},
};

/// Messages that wait for the writer; a session beyond waits to hand over its own.
const QUEUE: usize = 1024;
/// How long a session waits for the writer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How far a sweep may be put off by messages that keep coming.
const SWEEP_SLACK: Duration = Duration::from_secs(1);

/// The registry as its sessions and its readers see it. Cheap to clone; the writer ends with the last one.
#[derive(Debug, Clone)]
pub struct Registry {
    commands: mpsc::Sender<Command>,
    snapshots: watch::Receiver<Snapshot>,
    sessions: Arc<AtomicU64>,
}

/// The registry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store failed.
    #[error("the registry cannot be read")]
    Store(#[from] StoreError),
    /// The store holds something else.
    #[error("the registration '{key}' is malformed")]
    Malformed {
        /// Under which key.
        key: Key,
        /// What is wrong with it.
        source: Malformed,
    },
}

/// Why a message had no effect.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// In view of the other registrations.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The session has no workload.
    #[error(transparent)]
    Over(#[from] SessionOver),
    /// It could not be committed; it may be tried again.
    #[error("the registry cannot write")]
    Commit(#[source] CommitError),
    /// The writer is too busy or gone; it may be tried again.
    #[error("the registry does not answer")]
    Busy,
}

/// What holds after a message.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The revision that holds what was asked.
    pub revision: u64,
    /// The session's workload; `None` after a good-bye.
    pub member: Option<Arc<Member>>,
}

/// One stream's hold on the registry. Dropped, its workload stays for the rest of its lease.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    commands: mpsc::Sender<Command>,
    ended: CancellationToken,
}

#[derive(Debug)]
struct Command {
    session: SessionId,
    action: Action,
    answer: oneshot::Sender<Result<Answer, SessionError>>,
}

#[derive(Debug)]
enum Action {
    Register(Box<Registering>),
    Heartbeat,
    Health(Health),
    Withdraw { peer: String },
    Lost,
}

#[derive(Debug)]
struct Registering {
    claim: Claim,
    labels: BTreeMap<String, String>,
    peer: String,
    ended: CancellationToken,
}

impl Registry {
    /// Reads what is committed, gives every lease a fresh start, and starts the writer.
    ///
    /// # Errors
    /// The store failed or holds something else.
    pub async fn start(store: Store, clock: Clock, limits: Limits) -> Result<Self, LoadError> {
        let (revision, entries) = store.list(Keyspace::Workloads).await?;
        let mut registrations = Vec::with_capacity(entries.len());
        for entry in entries {
            let registration = Registration::decode(&entry.value)
                .map_err(|source| LoadError::Malformed { key: entry.key, source })?;
            registrations.push(registration);
        }
        let table = Table::load(limits, revision, registrations, Instant::now());
        let (commands, queue) = mpsc::channel(QUEUE);
        let (publish, snapshots) = watch::channel(table.snapshot());
        let writer =
            Writer { table, store, clock, publish, ended: BTreeMap::new(), budgets: Budgets::default() };
        tokio::spawn(writer.run(queue));
        Ok(Self { commands, snapshots, sessions: Arc::default() })
    }

    /// The members, as they change.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.snapshots.clone()
    }

    /// A new session, without a workload yet.
    pub fn session(&self) -> Session {
        Session {
            id: SessionId(self.sessions.fetch_add(1, Relaxed)),
            commands: self.commands.clone(),
            ended: CancellationToken::new(),
        }
    }
}

impl Session {
    /// Registers `claim`, sent from `peer`; its labels come from its join token.
    ///
    /// # Errors
    /// It is refused, or could not be committed.
    pub async fn register(
        &self,
        claim: Claim,
        labels: BTreeMap<String, String>,
        peer: String,
    ) -> Result<Answer, SessionError> {
        let ended = self.ended.clone();
        self.ask(Action::Register(Box::new(Registering { claim, labels, peer, ended }))).await
    }

    /// Gives a sign of life.
    ///
    /// # Errors
    /// The session has no workload.
    pub async fn heartbeat(&self) -> Result<Answer, SessionError> {
        self.ask(Action::Heartbeat).await
    }

    /// Says how the workload is.
    ///
    /// # Errors
    /// The session has no workload.
    pub async fn health(&self, health: Health) -> Result<Answer, SessionError> {
        self.ask(Action::Health(health)).await
    }

    /// Withdraws the workload.
    ///
    /// # Errors
    /// The session has none, or it could not be committed.
    pub async fn withdraw(&self, peer: String) -> Result<Answer, SessionError> {
        self.ask(Action::Withdraw { peer }).await
    }

    /// Returns when the workload was taken over or lapsed.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    async fn ask(&self, action: Action) -> Result<Answer, SessionError> {
        let (answer, reply) = oneshot::channel();
        let asked = async {
            let command = Command { session: self.id, action, answer };
            self.commands.send(command).await.map_err(|_writer_gone| SessionError::Busy)?;
            reply.await.map_err(|_writer_gone| SessionError::Busy)?
        };
        timeout(PATIENCE, asked).await.unwrap_or(Err(SessionError::Busy))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (answer, _nobody_waits) = oneshot::channel();
        let lost = Command { session: self.id, action: Action::Lost, answer };
        // With a full queue it goes unsaid, and the lease counts from the last sign of life instead of from now.
        let _unsaid = self.commands.try_send(lost).is_err();
    }
}

struct Writer {
    table: Table,
    store: Store,
    clock: Clock,
    publish: watch::Sender<Snapshot>,
    /// How to end the sessions that have a workload.
    ended: BTreeMap<SessionId, CancellationToken>,
    budgets: Budgets,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut due = self.table.next_due();
        loop {
            if due.is_some_and(|due| due + SWEEP_SLACK <= Instant::now()) {
                self.hear_out(&mut queue).await;
                due = self.sweep().await;
            } else {
                tokio::select! {
                    biased;
                    command = queue.recv() => {
                        let Some(command) = command else { return };
                        self.serve(command).await;
                        // Signs of life only move what is due further away.
                        due = due.or_else(|| self.table.next_due());
                    }
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                        due = self.sweep().await;
                    }
                }
            }
            self.publish.send_if_modified(|published| {
                let next = self.table.snapshot();
                let news = !next.same(published);
                if news {
                    *published = next;
                }
                news
            });
        }
    }

    /// Serves what waits now, and nothing that comes later. After a disk that stood still, these are the signs of life
    /// that a sweep would miss.
    async fn hear_out(&mut self, queue: &mut mpsc::Receiver<Command>) {
        for _ in 0..queue.len() {
            let Ok(command) = queue.try_recv() else { return };
            self.serve(command).await;
        }
    }

    async fn serve(&mut self, command: Command) {
        let session = command.session;
        let now = Instant::now();
        let outcome = match command.action {
            Action::Register(registering) => self.register(session, *registering).await,
            Action::Heartbeat => self.table.heartbeat(now, session).map_err(SessionError::Over),
            Action::Health(health) => {
                self.table.set_health(now, session, health).map(|_news| ()).map_err(SessionError::Over)
            }
            Action::Withdraw { peer } => self.withdraw(session, peer).await,
            Action::Lost => {
                self.ended.remove(&session);
                self.table.lose(now, session);
                return;
            }
        };
        let answer = outcome.map(|()| Answer {
            revision: self.table.snapshot().revision,
            member: self.table.member(session).cloned(),
        });
        // Who asked may have gone.
        let _gone = command.answer.send(answer).is_err();
    }

    async fn register(&mut self, session: SessionId, wanted: Registering) -> Result<(), SessionError> {
        let claim = &wanted.claim;
        let plan = self.table.register(session, claim, &wanted.labels)?;
        // Who comes back as it was changes nothing.
        if !plan.writes.is_empty() && !self.budgets.take(&claim.identity, Instant::now()) {
            return Err(Refusal::TooOften.into());
        }
        let mut record = self.record(claim.identity.as_str(), format!("registered {}", claim.name));
        record.peer = wanted.peer;
        self.execute(plan, record).await?;
        self.ended.insert(session, wanted.ended);
        Ok(())
    }

    async fn withdraw(&mut self, session: SessionId, peer: String) -> Result<(), SessionError> {
        let plan = self.table.withdraw(session)?;
        let claim = self.table.member(session).map(|member| member.registration.claim.clone());
        let (identity, name) =
            claim.map_or_else(Default::default, |claim| (claim.identity.to_string(), claim.name.to_string()));
        let mut record = self.record(&identity, format!("withdrew {name}"));
        record.peer = peer;
        self.execute(plan, record).await?;
        self.ended.remove(&session);
        Ok(())
    }

    /// Does what is due; returns when to look again.
    async fn sweep(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(plan) = self.table.sweep(now) {
            let count = plan.writes.len();
            let record = self.record("control-plane", format!("{count} leases ran out"));
            if let Err(error) = self.execute(plan, record).await {
                tracing::error!(error = &error as &dyn std::error::Error, "leases that ran out stay");
                return Some(now + SWEEP_SLACK);
            }
        }
        self.table.next_due()
    }

    async fn execute(&mut self, plan: Plan, audit: Draft) -> Result<(), SessionError> {
        let ops: Vec<Op> = plan.writes.iter().map(op).collect();
        let revision = if ops.is_empty() {
            None
        } else {
            let commit = Commit { expect: Vec::new(), ops, audit };
            Some(self.store.commit(commit).await.map_err(SessionError::Commit)?)
        };
        // The lease runs from the answer, not from before a slow commit.
        let outcome = self.table.apply(Instant::now(), plan, revision);
        for session in outcome.ended {
            if let Some(ended) = self.ended.remove(&session) {
                ended.cancel();
            }
        }
        Ok(())
    }

    fn record(&self, principal: &str, message: String) -> Draft {
        Draft::own(self.clock.now(), principal, "registry.Session", message)
    }
}

fn op(write: &Write) -> Op {
    match write {
        Write::Put(registration) => {
            let name = &registration.claim.name;
            Op::Put { key: Key::workload(&name.namespace, &name.id), value: registration.encode() }
        }
        Write::Delete(name) => Op::Delete { key: Key::workload(&name.namespace, &name.id) },
    }
}

#[cfg(test)]
mod tests;
