//! Outrigger's meaning and decisions: what configuration means, and what to do with a request. Pure: no clock, no
//! socket, no spawn, no global randomness; `now` and random numbers are arguments.

pub mod model;
