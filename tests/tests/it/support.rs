//! A mesh of real processes on this machine, driven by a test: control plane, proxies, applications, the command.

pub(crate) mod application;
mod client;
pub(crate) mod load;
mod mesh;
pub(crate) mod network;
pub(crate) mod pod;
pub(crate) mod process;

pub(crate) use application::Application;
pub(crate) use client::Client;
pub(crate) use mesh::{Mesh, Proxy};
pub(crate) use process::{Finished, program};
