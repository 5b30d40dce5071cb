//! `authority`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::EXIT_CODES;
use crate::duration;

/// `authority`.
#[derive(Debug, Args)]
pub(crate) struct AuthorityArgs {
    #[command(subcommand)]
    pub(crate) command: AuthorityCommand,
}

/// `authority ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityCommand {
    /// Show what signs, how far a rotation is, and whether its next step is safe
    #[command(after_help = EXIT_CODES)]
    Status,
    /// Make a new root or intermediate beside the active one; every proxy is told to trust a new root
    #[command(after_help = EXIT_CODES)]
    Prepare(WhichArgs),
    /// Let the prepared one sign; refused while a proxy does not trust it yet
    #[command(after_help = EXIT_CODES)]
    Activate(ForceArgs),
    /// Replace certificates under the old one at once, and then the connections that were opened with them
    #[command(after_help = EXIT_CODES)]
    Taint(WhichArgs),
    /// Accept nothing under the old one any more; refused while a certificate under it may be in use
    #[command(after_help = EXIT_CODES)]
    Revoke(ForceArgs),
    /// Take all steps, each when it is safe; goes on with a rotation that was begun
    #[command(after_help = EXIT_CODES)]
    Rotate(RotateArgs),
}

/// Which authority.
#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WhichArgs {
    /// The root, and with it the intermediate
    #[arg(long)]
    pub(crate) root: bool,
    /// The intermediate that signs the workloads' certificates
    #[arg(long)]
    pub(crate) intermediate: bool,
}

/// A step that may be refused.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ForceArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Although it is not safe: proxies that lag lose their peers, and may have to join again
    #[arg(long)]
    pub(crate) force: bool,
}

/// `authority rotate`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct RotateArgs {
    /// The root, and with it the intermediate
    #[arg(long, conflicts_with = "intermediate")]
    pub(crate) root: bool,
    /// The intermediate that signs the workloads' certificates (the default)
    #[arg(long)]
    pub(crate) intermediate: bool,
    /// Do not wait until all certificates under the old one have expired (a day): taint it, and revoke it as soon as no
    /// proxy that is known shows one. A proxy that was away meanwhile has to join again
    #[arg(long)]
    pub(crate) force: bool,
    /// How long to wait until all steps are safe
    #[arg(long, value_name = "DURATION", default_value = "48h", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
}
