//! Between the wire and the model: each message is decoded into a validated value, and encoded from one, side by side.
//!
//! Decoding is strict: an unknown enum value, an absent field that is needed, a number out of its range or a feature
//! that this version lacks is a [`Violation`] that names the field, never a silent default. The control plane decodes
//! what an operator sends and what it compiled, a proxy what it receives: both by the code of this module, so that
//! what a proxy would refuse is refused when it is written.

use crate::model::Violation;

mod filters;
mod findings;
mod limits;
mod matches;
pub mod policy;
mod resilience;
mod resource;
#[cfg(test)]
pub(crate) mod strategies;
#[cfg(test)]
mod tests;
pub mod time;

pub(crate) use findings::Findings;
pub(crate) use matches::cut;

/// [`crate::model::EndpointSet::resilience`] other than the default.
pub const RESILIENCE: &str = "resilience";

/// [`crate::model::Outgoing::revoked`] that is not empty.
pub const REVOKED_AUTHORITIES: &str = "revoked_authorities";

/// The features beyond the base of `v1alpha1` that this version runs: what a node names to the control plane, and what
/// a resource may name in `requires`. The base needs no name.
pub const FEATURES: &[&str] = &[RESILIENCE, REVOKED_AUTHORITIES];

/// The first of `violations`: a resource of the mesh is made by a machine, and one reason to refuse it is enough.
fn first<T>(decoded: Option<T>, findings: Findings) -> Result<T, Violation> {
    match (decoded, findings.into_violations().into_iter().next()) {
        (_, Some(violation)) => Err(violation),
        (Some(value), None) => Ok(value),
        (None, None) => Err(Violation::error("", "invalid", "the resource could not be decoded")),
    }
}
