//! Makes one decision of a request's path many times, for a program that counts its instructions.

use std::{
    hint::black_box,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use outrigger_bench::decisions;

/// Makes a decision many times; without a name, lists them.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which.
    name: Option<String>,
    /// How often.
    #[arg(default_value_t = 1)]
    times: u32,
}

fn main() -> io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let Some(name) = arguments.name else {
        for decision in decisions::ALL {
            writeln!(io::stdout(), "{}", decision.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(decision) = decisions::ALL.iter().find(|decision| decision.name == name) else {
        writeln!(io::stderr(), "there is no decision '{name}'")?;
        return Ok(ExitCode::from(2));
    };
    let mut decide = (decision.prepare)();
    let right = (0..arguments.times).all(|_| black_box(decide()));
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
