//! `outrigger-proxy`: the proxy beside a workload.

mod allocator;

use std::{error::Error, io::Write as _, process::ExitCode};

use clap::Parser as _;
use outrigger_process::{exit::Exit, logging, settings, shutdown::Shutdown};
use outrigger_proxy::{
    admin,
    app::{self, App, FAREWELL, shutdown_deadline},
    http,
    settings::{Command, DrainFlags, Flags, JOIN_TOKEN_VARIABLE, Settings},
};

/// A request is some 60 allocations; this allocator's cost a tenth of its instructions less than glibc's (docs/adr/0012-allocator.md).
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    let environment = settings::environment();
    let token =
        environment.iter().find(|(name, _)| name == JOIN_TOKEN_VARIABLE).map(|(_, text)| text.clone());
    let flags = Flags::parse();
    if let Some(Command::Drain(asked)) = &flags.command {
        return drain(asked, environment);
    }
    let settings = match flags.load(environment) {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    let _flush = match logging::init(&(&settings.log).into(), Some(http::refusals())) {
        Ok(flush) => flush,
        Err(error) => return refuse(&error),
    };
    // The control thread. Traffic has threads of its own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let exit = runtime.block_on(run(settings, token));
    // Does not wait for what blocks.
    runtime.shutdown_background();
    exit
}

async fn run(settings: Settings, token: Option<String>) -> ExitCode {
    let shutdown = Shutdown::new(shutdown_deadline(&settings));
    if let Err(error) = shutdown.on_signals(FAREWELL) {
        return fail(&error);
    }
    let app = match App::start(settings, token.as_deref(), shutdown).await {
        Ok(app) => app,
        Err(error) => return fail(&error),
    };
    match Box::pin(app.run()).await {
        Ok(exit) => exit.into(),
        Err(error) => fail(&error),
    }
}

/// Asks another process, the proxy, to stop. A person or a hook reads what is said, not a log.
fn drain(asked: &DrainFlags, environment: Vec<(String, String)>) -> ExitCode {
    let settings = match asked.load(environment) {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    let state_dir = match app::place(settings.state_dir.as_deref()) {
        Ok(state_dir) => state_dir,
        Err(error) => return complain(&error, Exit::Failure),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, Exit::Failure),
    };
    let report = match runtime.block_on(admin::drain(&state_dir, asked.wait, asked.timeout)) {
        Ok(report) => report,
        Err(error) => return complain(&error, Exit::Failure),
    };
    let (said, exit) = match report {
        admin::Report { phase: admin::Phase::Drained, cut: 0, .. } => ("drained".to_owned(), Exit::Success),
        admin::Report { phase: admin::Phase::Drained, cut, .. } => {
            (format!("drained; {cut} connections were cut off"), Exit::Forced)
        }
        report => (format!("draining; {} connections are open", report.connections), Exit::Success),
    };
    let _unread = writeln!(std::io::stdout(), "{said}").is_err();
    exit.into()
}

fn fail(error: &dyn Error) -> ExitCode {
    tracing::error!(target: logging::FATAL, error = chain(error), "cannot go on");
    Exit::Failure.into()
}

/// There is no log yet.
fn refuse(error: &dyn Error) -> ExitCode {
    complain(error, Exit::Settings)
}

fn complain(error: &dyn Error, exit: Exit) -> ExitCode {
    // If nobody reads it, the exit code has to do.
    let _written = writeln!(std::io::stderr(), "outrigger-proxy: {}", chain(error)).is_ok();
    exit.into()
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
