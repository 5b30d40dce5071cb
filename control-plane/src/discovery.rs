//! From a change to the proxies' streams: the world as one immutable picture, rebuilt on change by one task, and one
//! task for each stream that reads it. Streams hold names and versions, never content; a slow one falls behind alone.

mod cache;
mod compiler;
mod debounce;
pub mod service;
mod shelf;
mod stream;
mod world;

pub use compiler::{Inputs, Trust, start};
pub use world::{Lookup, Resource, ResourceName, Type, World};
