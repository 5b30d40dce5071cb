//! Whole-mesh tests: the built binaries over real sockets, and the workspace's own rules.
#![cfg(test)]

mod mesh;
mod support;
mod workspace;
