//! The Unix socket in the proxy's own directory, for hooks and for whoever may use that directory: HTTP/1.1 with JSON.
//!
//! ```text
//! GET  /drain     how far it is                                       -> Report
//! POST /drain     begins the drain, or joins it                       -> Report
//! POST /drained   the same, and answers when nothing is carried more  -> Report
//! ```

mod client;
mod server;

use std::path::{Path, PathBuf};

use outrigger_process::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use client::{ClientError, drain};
pub(crate) use server::{Bound, Served};

use crate::data_path::OpenConnections;

const DRAIN: &str = "/drain";
const DRAINED: &str = "/drained";
/// More than a report has, and less than anybody would be glad to hold.
const MAX_REPORT: usize = 4096;

/// How far a stop is: in this order and never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nobody asked for it.
    Running,
    /// The workload leaves the registry; until its callers know, everything is served as ever.
    Withdrawing,
    /// No connection takes another request; what is under way may finish.
    Draining,
    /// Nothing is carried any more; the process is about to end.
    Drained,
}

/// How far a stop is, and what is still under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How far.
    pub phase: Phase,
    /// Accepted connections that are open.
    pub connections: usize,
    /// Of those, what was not finished in time and cut off.
    pub cut: usize,
    /// How long all of a stop may take, seconds.
    pub limit_seconds: u64,
}

/// What is known of the stop, and the way to ask for it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) shutdown: Shutdown,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) open: OpenConnections,
}

/// As told by whoever stops the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) phase: Phase,
    pub(crate) cut: usize,
}

impl Progress {
    pub(crate) const RUNNING: Self = Self { phase: Phase::Running, cut: 0 };

    pub(crate) fn of(phase: Phase) -> Self {
        Self { phase, cut: 0 }
    }
}

impl Stop {
    fn report(&self) -> Report {
        let Progress { phase, cut } = *self.progress.borrow();
        Report {
            phase,
            connections: self.open.count(),
            cut,
            limit_seconds: self.shutdown.deadline().as_secs(),
        }
    }
}

/// Where the socket of a proxy is.
pub(crate) fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("admin.sock")
}
