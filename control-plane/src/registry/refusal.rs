//! Why a registration or a message of a session has no effect.

use std::net::SocketAddr;

use super::WorkloadName;

/// Why a registration is refused in view of the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The id is another identity's.
    #[error("the id '{0}' belongs to another identity")]
    IdOwned(WorkloadName),
    /// A newer process has the id.
    #[error("the id '{name}' was taken over by epoch {current}; this one is {claimed}")]
    StaleEpoch {
        /// Which id.
        name: WorkloadName,
        /// The one that stands.
        current: u64,
        /// The one refused.
        claimed: u64,
    },
    /// The address is another identity's.
    #[error("the address {0} belongs to another identity")]
    AddressOwned(SocketAddr),
    /// A workload of the same identity is connected and listens there.
    #[error("the address {address} is in use by '{owner}', which is connected")]
    AddressInUse {
        /// Which address.
        address: SocketAddr,
        /// Whose it is.
        owner: WorkloadName,
    },
    /// The stream registered another id before.
    #[error("this session registered '{0}'; open another one for another workload")]
    OtherWorkload(WorkloadName),
    /// There are too many.
    #[error("the registry is full: {0}")]
    Full(&'static str),
    /// Each change is a commit, a push to every client and a record for ever.
    #[error("this identity changes its registrations too often; try again in a while")]
    TooOften,
}

impl Refusal {
    /// Stable, for metrics and the audit log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::IdOwned(_) => "id_owned",
            Self::StaleEpoch { .. } => "stale_epoch",
            Self::AddressOwned(_) => "address_owned",
            Self::AddressInUse { .. } => "address_in_use",
            Self::OtherWorkload(_) => "other_workload",
            Self::Full(_) => "registry_full",
            Self::TooOften => "too_often",
        }
    }
}

/// The session has no workload: it never registered, or another one took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has no workload any more; register again")]
pub struct SessionOver;
