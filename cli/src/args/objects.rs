//! The commands on objects, and what the writing ones share.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::KindArg;
use crate::duration;

/// `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File of documents, or - for standard input; may be repeated
    #[arg(short, long, required = true, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

/// The set of objects that belong together.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SetArgs {
    /// Name of the set that these objects belong to from now on; objects of another set are refused
    #[arg(long, value_name = "NAME")]
    pub(crate) set: Option<String>,
    /// Delete what belongs to the set and is not in these files: they must be all of it, at most 64 objects
    #[arg(long, requires = "set")]
    pub(crate) prune: bool,
}

/// What the writing commands share.
#[derive(Debug, Clone, Args)]
pub(crate) struct WriteArgs {
    /// Return only when every proxy concerned has applied the change; 4 if one has not
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) wait: bool,
    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse, requires = "wait")]
    pub(crate) timeout: Duration,
    /// Check everything, store nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the history and the audit record
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) message: String,
}

/// `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Kind of object
    #[arg(value_enum, ignore_case = true)]
    pub(crate) kind: KindArg,
    /// Name, or NAMESPACE/NAME; without it, all of the kind
    pub(crate) name: Option<String>,
    /// Namespace [default: every one for a list, `default` for a name]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Show what there is, and then every change, until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// `delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kind of object
    #[arg(value_enum, ignore_case = true, required_unless_present = "file", requires = "name")]
    pub(crate) kind: Option<KindArg>,
    /// Names, or NAMESPACE/NAME
    pub(crate) name: Vec<String>,
    /// Delete what these documents name instead; - for standard input; may be repeated
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["kind", "name", "namespace"])]
    pub(crate) file: Vec<PathBuf>,
    /// Namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}
