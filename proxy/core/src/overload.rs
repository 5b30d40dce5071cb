//! More work than can be done: what is taken, and what is refused at once because it would only wait.
//!
//! Two things may be short, and each has a state machine of its own: the application ([`Concurrency`]: how many requests it may
//! have at a time), and the processor of the proxy itself ([`Pressure`]: how long what is ready to run waits for its turn).
//! Whoever is refused was not processed, and may be taken elsewhere, if somebody else has room ([`has_relief`]).

mod concurrency;
mod learning;
mod pressure;
mod refusals;

pub use concurrency::{Admission, Concurrency, Ended, LEAST};
pub use pressure::Pressure;
pub use refusals::{Other, Refusals, has_relief};

#[cfg(test)]
mod tests;
