//! The command as scripts see it: the built binary against a control plane of the test's own, over real TLS.

#![expect(clippy::expect_used, reason = "in a test a panic is the report")]

mod demo;
mod fake;
mod figures;
mod operate;
mod read;
mod write;
