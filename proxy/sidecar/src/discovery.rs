//! Configuration from the control plane: one delta ADS stream, of which the snapshot in force is built.
//!
//! Availability before freshness: without a stream everything that is known stays in force, and nobody waits for a
//! name that is not. A resource that this proxy cannot run whole is refused with its field, and what it replaces stays.
//! The one entry is [`start`].

mod catalog;
mod demand;
mod task;
mod validate;

use std::collections::BTreeMap;

use outrigger_tls::Identity;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{endpoint::States, snapshot};

pub use demand::Demand;

/// What discovery works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// To the control plane; connects by itself.
    pub channel: Channel,
    /// Who we are; receives the trust bundles.
    pub identity: Identity,
    /// This instance's name in its namespace.
    pub instance: String,
    /// Where snapshots are published.
    pub snapshot: snapshot::Handle,
    /// Of the endpoints that snapshots name.
    pub states: States,
}

/// Where discovery stands, after each change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// A stream is open.
    pub connected: bool,
    /// The proxy's own configuration and a trust bundle were received.
    pub configured: bool,
    /// Of the snapshot in force.
    pub generation: u64,
    /// Prefix of the nonces of the stream that `applied` is about; empty before its first response.
    pub stream: String,
    /// Newest nonce of each type whose content, and that of all before it, is in force.
    pub applied: BTreeMap<&'static str, String>,
    /// Received and valid, but not in force yet.
    pub pending: Vec<Pending>,
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

/// Discovery, running.
#[derive(Debug)]
pub struct Running {
    /// For requests: names on demand.
    pub demand: Demand,
    /// Where it stands.
    pub status: watch::Receiver<Status>,
    /// Ends after `stop`.
    pub task: JoinHandle<()>,
}

/// Starts discovery on the current runtime; it reconnects for itself until `stop`.
pub fn start(parts: Parts, stop: CancellationToken) -> Running {
    let (demand, questions, marks) = Demand::new(parts.snapshot.clone());
    let (sender, status) = watch::channel(Status::default());
    let task = task::Task::new(parts, questions, marks, sender);
    Running { demand, status, task: tokio::spawn(task.run(stop)) }
}
