//! Integration tests of the proxy over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in a test a panic is the report, also in what its cases share"
)]

mod accept_queue;
mod application;
mod bodies;
mod bounds;
mod broken;
mod calls;
mod control;
mod deadlines;
mod distrust;
mod fidelity;
mod floods;
mod forward;
mod hostile_http1;
mod hostile_http2;
mod idle;
mod mesh_leg;
mod overload;
mod peers;
mod refusals;
mod refused_http2;
mod retries;
mod routing;
mod services;
mod stalls;
mod stopping;
mod support;
mod truth;
mod tunnels;
mod unprocessed;
mod upgrades;
