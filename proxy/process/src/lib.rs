//! What every long-running binary of ours does the same way: settings in layers, logging, the health and metrics
//! endpoint and the reference of what it exposes, signals and drain, files that survive a crash. Knows nothing of the
//! mesh.

pub mod exit;
pub mod files;
pub mod health;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod settings;
pub mod shutdown;
