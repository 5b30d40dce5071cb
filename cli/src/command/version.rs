//! `version`.

use crate::{failure::Failure, output::Output, view};

/// Prints the version, in the same words as the sibling binaries' `--version`.
pub(crate) fn run(output: &Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    output.result(&view::Version { version }, || format!("outrigger {version}"))
}
