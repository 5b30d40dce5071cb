//! Outrigger's meaning and decisions: what configuration means, and what to do with a request. Pure: no clock, no
//! socket, no spawn, no global randomness; `now` and random numbers are arguments.

pub mod audit;
pub mod balance;
pub mod deadline;
pub mod delta;
pub mod detect;
pub mod grpc;
pub mod join_token;
pub mod limit;
pub mod model;
pub mod names;
pub mod outlier;
pub mod overload;
pub mod policy;
pub mod reason;
pub mod retry;
pub mod rotation;
pub mod route;
pub mod telemetry;
pub mod wire;

mod window;
