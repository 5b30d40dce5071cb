//! Outrigger's data plane: the proxy beside each service. The modules follow a request's path, then what feeds it.

#![forbid(unsafe_code)]

pub mod accept;
pub mod endpoint;
pub mod headers;
pub mod http;
pub mod inbound;
pub mod outbound;
pub mod pool;
pub mod snapshot;
pub mod telemetry;
pub mod tunnel;
pub mod worker;

pub mod app;
mod backoff;
pub mod discovery;
pub mod identity;
mod reconnect;
pub mod registration;
pub mod report;
pub mod settings;
