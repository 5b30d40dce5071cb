//! The control plane over its ports: real sockets, real TLS, a state directory of its own for each test.

#![cfg(test)]

mod access;
mod golden;
mod identity;
mod known;
mod mesh;
mod names;
mod policy;
mod process;
mod rotation;
mod running;
mod support;
mod telemetry;
mod traffic_policy;
mod verbs;
