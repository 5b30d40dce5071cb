//! The mesh's gRPC: how to dial the control plane, and how the control plane accepts. The server is always exactly
//! `spiffe://<trust domain>/outrigger/control-plane`; a client may come without a certificate (to join), as a workload
//! under the workloads' authority, or as an operator under the operators'.

mod channel;
mod incoming;
mod trust;

pub use channel::{ChannelError, channel, channel_lazy};
pub use incoming::{Connection, Limits, Peer, Refused, RefusedCause, incoming};
#[cfg(test)]
pub(crate) use trust::Caller;
pub use trust::{OperatorAuthorities, ServerTrust, server_config};
