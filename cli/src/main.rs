//! `outrigger`: the operator's command. It speaks to the control plane's policy port and nothing else; `demo` and
//! `run` also start the sibling binaries.

mod args;
mod command;
mod connect;
mod demo;
mod document;
mod duration;
mod failure;
mod interrupts;
mod output;
mod sibling;
mod view;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command, DEMO_APP, DemoAppArgs, RUN, RunArguments};
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.peek().is_some_and(|word| word == DEMO_APP) {
        return match DemoAppArgs::try_parse_from(words) {
            Ok(args) => end(&Output::plain(), demo::app_main(args)),
            Err(error) => misread(&error),
        };
    }
    if words.peek().is_some_and(|word| word == RUN) {
        return match RunArguments::read(words) {
            Ok(args) => {
                let output = Output::plain();
                end(&output, block_on(command::run::run(&output, args)))
            }
            Err(error) => misread(&error),
        };
    }
    match Arguments::try_parse() {
        Ok(arguments) => {
            let output = Output::new(&arguments.global);
            let outcome = run(arguments, &output);
            end(&output, outcome)
        }
        Err(error) => misread(&error),
    }
}

/// clap prints to the right stream and knows its code: 0 for help, 2 for a wrong command line.
fn misread(error: &clap::Error) -> ExitCode {
    match (error.print(), error.exit_code()) {
        (Ok(()), 0) => ExitCode::SUCCESS,
        _ => failure::Exit::Usage.into(),
    }
}

fn end(output: &Output, outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit()
        }
    }
}

fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    block_on(async {
        match command {
            Command::Apply(args) => command::apply::run(&global, output, args).await,
            Command::Get(args) => command::get::run(&global, output, args).await,
            Command::Delete(args) => command::delete::run(&global, output, args).await,
            Command::Diff(args) => command::diff::run(&global, output, args).await,
            Command::History(args) => command::history::run(&global, output, args).await,
            Command::Rollback(args) => command::rollback::run(&global, output, args).await,
            Command::Audit(args) => command::audit::run(&global, output, args).await,
            Command::Backup(args) => command::backup::run(&global, output, args).await,
            Command::Restore(args) => command::restore::run(output, args).await,
            Command::Status(args) => command::status::run(&global, output, args).await,
            Command::Hops(args) => command::hops::run(&global, output, args).await,
            Command::Token(args) => command::token::run(&global, output, args).await,
            Command::Authority(args) => Box::pin(command::authority::run(&global, output, args)).await,
            Command::Demo(args) => Box::pin(demo::run(output, args)).await,
            Command::Run(_) => Err(Failure::Usage("write it first: outrigger run ...".to_owned())),
            Command::Version => command::version::run(output),
            Command::Completion(args) => command::completion::run(&args),
        }
    })
}

/// On one thread, the main one: the children of `demo` and `run` are tied to the life of the thread that starts them.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the runtime", error))?
        .block_on(work)
}
