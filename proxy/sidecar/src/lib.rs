//! Outrigger's data plane: the proxy beside each service. The modules follow a request's path, then what feeds it.

#![forbid(unsafe_code)]

mod accept;
mod carry;
pub mod data_path;
mod detect;
pub mod endpoint;
mod headers;
pub mod http;
mod inbound;
mod io;
pub mod outbound;
mod overload;
mod signal;
pub mod snapshot;
mod tcp;
pub mod telemetry;
mod trust;
mod tunnel;
mod upstream;
mod worker;

pub mod admin;
pub mod app;
mod backoff;
pub mod discovery;
pub mod identity;
mod reconnect;
pub mod registration;
pub mod report;
pub mod settings;
