//! The gRPC surface: who calls is settled by [`guard`] before a service sees the request, what is refused goes to
//! [`refusals`].

pub mod authority;
pub mod backup;
pub mod diagnostics;
pub mod guard;
pub mod identity;
pub mod policy;
pub mod refusals;
pub mod token;

mod compiled;
mod conditions;
mod plan;
mod references;

pub use conditions::{Applied, Progress};
