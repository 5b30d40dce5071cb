//! Backups: a copy of the store at one revision and of the authority's keys, taken while the control plane runs, and
//! restored into a fresh state directory while it does not. The format is that of `backup.proto`: self-describing,
//! versioned, and checked by a hash over all of it before anything is written.

mod archive;
mod restore;
mod spool;
mod take;

#[cfg(test)]
mod tests;

pub use archive::ReadError;
pub use restore::{INCOMPLETE, RestoreError, Restored, restore};
pub use take::{Snapshot, TakeError};
