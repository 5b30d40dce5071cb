//! A mesh of real processes on this machine, driven by a test: control plane, proxies, applications, the command.

mod application;
mod client;
pub(crate) mod process;

pub(crate) use application::Application;
pub(crate) use client::Client;
pub(crate) use process::{Finished, Mesh, Proxy, program};
