//! What happens to the mesh while the load runs: one file each, with what it does, what it counts and what it promises.

mod canary;
mod drain;
mod failing;
mod hops;
mod identities;
mod kill;
mod outage;
mod rollback;
mod rotation;
mod slow;

pub(crate) use self::{
    canary::Canary, drain::Drain, failing::Failing, hops::Table, identities::identities, kill::Kill,
    outage::Outage, rollback::Rollback, rotation::Rotation, slow::Slow,
};
