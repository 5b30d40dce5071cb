//! The commands that look back, go back and keep safe.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Args;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    SetArgs, WriteArgs,
    objects::{Named, named},
};
use crate::duration;

/// `diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// File of documents, or - for standard input; may be repeated
    #[arg(short, long, required = true, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) set: SetArgs,
}

/// `history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Kind of object, or KIND/NAME; without it, all revisions of the store
    #[arg(value_parser = named(), ignore_case = true)]
    pub(crate) kind: Option<Named>,
    /// Name, or NAMESPACE/NAME
    pub(crate) name: Option<String>,
    /// Namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// At most so many, newest first
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) limit: u32,
}

/// `rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// One object: KIND/NAME or KIND/NAMESPACE/NAME, such as route/demo/price; without it, all objects
    #[arg(value_name = "KIND/NAME")]
    pub(crate) object: Option<String>,
    /// The revision to go back to; `outrigger history` shows them
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: u64,
    /// Namespace of the object
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// Refuse if something was changed after this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(crate) unchanged_since: u64,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

/// `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only what is younger: a duration such as 24h, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "verify")]
    pub(crate) since: Option<Moment>,
    /// Recompute the chain of hashes from the first record to the last, and say where it breaks; write the head down
    /// that this prints, elsewhere
    #[arg(long)]
    pub(crate) verify: bool,
    /// The head of an earlier --verify: it must be in the chain, else the record was written anew; NUMBER:HASH or HASH
    #[arg(long, value_name = "HEAD", requires = "verify")]
    pub(crate) head: Option<String>,
}

/// A point in time, from now or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(SystemTime),
}

impl Moment {
    /// When that is, seen from `now`.
    pub(crate) fn at(self, now: SystemTime) -> SystemTime {
        match self {
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::At(at) => at,
        }
    }
}

/// `backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// New file, readable by its owner only, or - for standard output. It holds the mesh's private keys, not encrypted
    pub(crate) file: PathBuf,
}

/// `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// What `backup` wrote, or - for standard input
    pub(crate) file: PathBuf,
    /// State directory for the control plane; empty, or not there
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Moment::At(at.into()));
    }
    duration::parse(text)
        .map(Moment::Ago)
        .map_err(|_neither| "write a duration such as 24h, or a time such as 2026-01-31T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Moment, moment};

    #[test]
    fn a_moment_is_a_time_or_an_age() {
        let at = moment("1970-01-01T00:01:00Z").unwrap();
        assert_eq!(at, Moment::At(SystemTime::UNIX_EPOCH + Duration::from_secs(60)));
        assert_eq!(moment("24h"), Ok(Moment::Ago(Duration::from_hours(24))));
        assert!(moment("yesterday").is_err());
    }
}
