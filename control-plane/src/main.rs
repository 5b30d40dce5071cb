//! The control plane's process: flags, settings, logging, signals; everything else is the library's.

use std::{
    error::Error,
    fmt::Write as _,
    io::Write as _,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Parser;
use outrigger_control_plane::{
    app::{self, StartError},
    backup,
    clock::Clock,
    settings::{Flags, Settings},
};
use outrigger_process::{exit::Exit, logging, settings::environment, shutdown::Shutdown};

/// How long the process may be there after it was forced to end: a commit that is under way may finish.
const FAREWELL: Duration = Duration::from_secs(4);

fn main() -> ExitCode {
    let flags = Flags::parse();
    let settings = match flags.load(environment()) {
        Ok(settings) => settings,
        Err(error) => return fail(Exit::Settings, &error),
    };
    let _flush = match logging::init(&settings.log, None) {
        Ok(flush) => flush,
        Err(error) => return fail(Exit::Settings, &error),
    };
    if let Some(backup) = &flags.restore {
        return restore(backup, &settings);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(Exit::Failure, &error),
    };
    runtime.block_on(run(&settings))
}

/// Makes a state directory of a backup, and says where it goes on.
fn restore(backup: &Path, settings: &Settings) -> ExitCode {
    let Some(directory) = settings.state_directory() else {
        return fail(Exit::Settings, &StartError::NoDirectory);
    };
    match backup::restore(backup, &directory, SystemTime::now()) {
        Ok(restored) => {
            // The work is done, whoever reads this.
            let _closed = writeln!(std::io::stdout(), "{}", restored.sentence(&directory));
            Exit::Success.into()
        }
        Err(error) => fail(Exit::Failure, &error),
    }
}

async fn run(settings: &Settings) -> ExitCode {
    let shutdown = Shutdown::new(settings.drain.timeout);
    if let Err(error) = shutdown.on_signals(FAREWELL) {
        return fail(Exit::Failure, &error);
    }
    match app::start(settings, Clock::system(), shutdown).await {
        Ok(running) => running.wait().await.into(),
        Err(error) => fail(Exit::Failure, &error),
    }
}

/// Says what is wrong on standard error, causes included: whoever starts it by hand reads this, not the log.
fn fail(exit: Exit, error: &dyn Error) -> ExitCode {
    let mut text = format!("outrigger-control-plane: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _infallible = write!(text, ": {error}");
        cause = error.source();
    }
    logging::say(&text);
    exit.into()
}
