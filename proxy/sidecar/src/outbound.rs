//! Outbound: from the own workload into the mesh.

mod discover;

pub use discover::{Discover, DiscoverError, Resolving};
