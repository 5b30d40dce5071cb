//! Where a request's time goes: its phases, the histogram whose buckets keep their sums, and what a percentile was made
//! of.
//!
//! The outbound side stamps, [`hop::split`] turns stamps and the inbound's figures ([`timing`]) into [`PhaseTimes`],
//! [`Histogram`] keeps them, [`Sparse`] carries them to the control plane and is merged there, [`Makeup`] explains.

mod class;
mod edge;
mod endpoint;
mod histogram;
pub mod hop;
mod makeup;
mod phase;
mod sparse;
pub mod timing;
pub mod traces;

pub use class::Class;
pub use edge::{Edge, EdgeKey, MAX_EDGE_BYTES};
pub use endpoint::{EndpointFigures, EndpointHealth, MAX_ENDPOINTS, within_bound};
pub use histogram::Histogram;
pub use makeup::{AppMakeup, Makeup};
pub use phase::{PHASES, Phase, PhaseTimes};
pub use sparse::{
    AppSplit, Bucket, FIRST_BUCKET, LAST_BUCKET, Sparse, bucket_index, bucket_lower, bucket_upper,
};
