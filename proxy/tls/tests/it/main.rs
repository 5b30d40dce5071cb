//! Every refusal of the mesh's identity rules, as a real handshake.

#![cfg(test)]
#![expect(clippy::large_futures, reason = "two ends of TLS in one future; the stacks of tests are large")]

mod credential;
mod grpc;
mod mesh;
mod support;
mod swap;
