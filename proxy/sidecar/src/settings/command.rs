//! What the binary does beside being a proxy.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use outrigger_process::settings::{SettingsError, duration};

use super::{Flags, Settings};

const ABOUT_DRAIN: &str = "\
Asks the proxy of this machine, or of this container, to leave the mesh: as SIGTERM does, for hooks that come before it \
(preStop). The workload is withdrawn, its callers hear of it, what is under way is finished, and the proxy ends. A SIGTERM \
that comes meanwhile goes on with the same drain; a second one cuts it short.

The proxy is found by its state directory: set as for the proxy itself (--state-dir, OUTRIGGER_STATE_DIR, settings file).

Exit codes: 0 asked for, or with --wait drained; 1 no such proxy, or not drained in time; 2 wrong settings; 3 drained, but \
something had to be cut off.";

/// See each.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Asks a running proxy to drain and end, for hooks.
    #[command(long_about = ABOUT_DRAIN)]
    Drain(DrainFlags),
}

/// The flags of `outrigger-proxy drain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct DrainFlags {
    /// The proxy's settings file (TOML).
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_SETTINGS")]
    pub settings: Option<PathBuf>,
    /// The proxy's own directory.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Returns when the proxy has drained, not at once.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most [default: as long as the proxy may take].
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
}

impl DrainFlags {
    /// The settings of the proxy that is meant.
    ///
    /// # Errors
    /// As for the proxy itself.
    pub fn load(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Settings, SettingsError> {
        let (settings, state_dir) = (self.settings.clone(), self.state_dir.clone());
        Flags { settings, state_dir, ..Flags::default() }.load(environment)
    }
}
