//! The control plane, assembled: the only module that knows all the others. In the order of its start.

mod serve;
mod start;

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use outrigger_process::{exit::Exit, health::Health, logging, shutdown::Shutdown};
use serde::Serialize;
use tokio::task::JoinSet;

pub use start::{StartError, State, start};

/// Where the ports are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// The operators'.
    pub policy: SocketAddr,
    /// The proxies'.
    pub discovery: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
}

/// A control plane that runs.
#[derive(Debug)]
pub struct Running {
    /// Where.
    pub addresses: Addresses,
    addresses_file: PathBuf,
    health: Health,
    shutdown: Shutdown,
    /// Ends when a port does.
    servers: JoinSet<Result<(), tonic::transport::Error>>,
    /// Ends with the process.
    upkeep: JoinSet<()>,
    /// Held for tests to look at.
    pub state: Arc<State>,
}

impl Running {
    /// Serves until the shutdown, then finishes the calls under way.
    pub async fn wait(mut self) -> Exit {
        let failed = tokio::select! {
            // A port that stops because it was told to is no failure.
            biased;
            () = self.shutdown.draining().cancelled() => false,
            ended = self.servers.join_next() => {
                tracing::error!(target: logging::FATAL, ?ended, "a port has stopped serving");
                true
            }
        };
        self.health.set_not_ready("the control plane is stopping");
        if failed {
            self.shutdown.stop();
        }
        let servers = &mut self.servers;
        let exit = self.shutdown.drain(async { while servers.join_next().await.is_some() {} }).await;
        self.servers.shutdown().await;
        self.upkeep.shutdown().await;
        if let Err(error) = fs::remove_file(&self.addresses_file) {
            tracing::warn!(%error, "addresses.json could not be removed");
        }
        tracing::info!(?exit, "stopped");
        if failed { Exit::Failure } else { exit }
    }
}
