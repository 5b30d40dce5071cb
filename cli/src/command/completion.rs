//! `completion`.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::{
    args::{Arguments, CompletionArgs},
    failure::Failure,
};

/// Prints the script for one shell.
pub(crate) fn run(args: &CompletionArgs) -> Result<(), Failure> {
    // clap_complete panics when its writer fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "outrigger", &mut script);
    match io::stdout().lock().write_all(&script) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Closed),
        Err(error) => Err(Failure::io("cannot write the output", error)),
        Ok(()) => Ok(()),
    }
}
