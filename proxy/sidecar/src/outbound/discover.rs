//! What the outbound side asks of discovery: a name that the snapshot in force does not know yet.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use outrigger_core::model::ServiceName;

use crate::snapshot::Snapshot;

/// Why a name could not be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// The control plane says that there is no such service.
    #[error("no such service")]
    NotFound,
    /// It did not answer in time.
    #[error("the control plane did not answer in time")]
    Timeout,
    /// There is no stream to it, and its last answers do not hold the name.
    #[error("the control plane is not connected")]
    Disconnected,
}

/// The future of [`Discover::resolve`].
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Arc<Snapshot>, DiscoverError>> + Send + 'a>>;

/// Fetches destinations on demand. Implemented by `discovery`, and by tests that have everything in memory.
pub trait Discover: fmt::Debug + Send + Sync {
    /// Waits at most `timeout` for a snapshot that holds `service`, or for the answer that there is none. Cancel safe.
    fn resolve<'a>(&'a self, service: &'a ServiceName, timeout: Duration) -> Resolving<'a>;

    /// Notes that `service` is in use, so that its subscription is kept. Cheap: called by every request.
    fn touch(&self, service: &ServiceName);
}
