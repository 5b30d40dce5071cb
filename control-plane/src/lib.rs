//! Outrigger's control plane. The modules are listed in the order in which a change travels through them: from an
//! operator's call to the bytes that a proxy receives, and back as its status.

pub mod settings;

pub mod app;

pub mod mesh;

pub mod clock;

pub mod access;

pub mod api;

pub mod store;

pub mod audit;

pub mod backup;

pub mod authority;

pub mod rotation;

pub mod registry;

pub mod compile;

pub mod discovery;

mod reports;

pub mod status;

pub mod telemetry;
