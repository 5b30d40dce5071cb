//! Configuration from the control plane: one delta ADS stream, of which the snapshot in force is built.
//!
//! Availability before freshness: without a stream everything that is known stays in force, and nobody waits for a
//! name that is not. A resource that this proxy cannot run whole is refused with its field, and what it replaces stays.
//! The one entry is [`Discovery`].

mod catalog;
mod demand;
pub mod last_known_good;
mod task;
mod validate;

use std::{collections::BTreeMap, sync::Arc};

use outrigger_core::model::Name;
use outrigger_tls::Identity;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{endpoint::States, snapshot};

pub use demand::Demand;

use demand::Question;
use last_known_good::{Contents, LastKnownGood, Origin};
use task::Task;

/// The way to the control plane.
#[derive(Debug, Clone)]
pub struct Link {
    /// To the control plane; connects by itself.
    pub channel: Channel,
    /// Who we are; receives the trust bundles.
    pub identity: Identity,
    /// This instance's name in its namespace.
    pub instance: Name,
}

/// Where discovery stands, after each change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// A stream is open.
    pub connected: bool,
    /// There is a configuration of the proxy's own and a trust bundle: received, or restored.
    pub configured: bool,
    /// What is in force was restored, and the control plane has not confirmed or replaced all of it yet.
    pub last_known_good: Option<Origin>,
    /// Of the snapshot in force.
    pub generation: u64,
    /// Prefix of the nonces of the stream that `applied` is about; empty before its first response.
    pub stream: String,
    /// Newest nonce of each type whose content, and that of all before it, is in force.
    pub applied: BTreeMap<&'static str, String>,
    /// Received and valid, but not in force yet.
    pub pending: Vec<Pending>,
    /// Resources refused so far.
    pub refused: u64,
}

/// A resource that is not in force yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its type.
    pub type_url: &'static str,
    /// Its name.
    pub name: String,
    /// "waiting for EndpointSet demo/price:80".
    pub cause: String,
}

/// Discovery, before it has anybody to ask: until then questions wait.
#[derive(Debug)]
pub struct Discovery {
    snapshot: snapshot::Handle,
    states: States,
    demand: Demand,
    questions: mpsc::Receiver<Question>,
    status: watch::Sender<Status>,
    restored: Option<LastKnownGood>,
    contents: watch::Sender<Option<Arc<Contents>>>,
}

impl Discovery {
    /// Publishes to `snapshot`, with the endpoints' `states`.
    pub fn new(snapshot: snapshot::Handle, states: States) -> Self {
        let (demand, questions) = Demand::new(snapshot.clone());
        let (status, contents) = (watch::Sender::default(), watch::Sender::default());
        Self { snapshot, states, demand, questions, status, restored: None, contents }
    }

    /// For requests: names on demand.
    pub fn demand(&self) -> Demand {
        self.demand.clone()
    }

    /// Where it stands.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// What is worth keeping on disk, after each change that the control plane confirmed.
    pub fn contents(&self) -> watch::Receiver<Option<Arc<Contents>>> {
        self.contents.subscribe()
    }

    /// Begins with what an earlier start kept, instead of with nothing.
    pub fn restore(&mut self, kept: LastKnownGood) {
        self.restored = Some(kept);
    }

    /// Keeps a stream over `link`, opened again whenever it ends, until `stop`.
    pub async fn run(self, link: Link, stop: CancellationToken) {
        Box::pin(Task::new(self, link).run(stop)).await;
    }
}
