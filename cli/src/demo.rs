//! `demo`: a whole mesh on this machine, as real processes, held to its promises under load.

mod acts;
mod app;
mod books;
pub(crate) mod client;
mod load;
mod mesh;
mod process;
mod scenario;
mod split;
mod stage;
mod verdict;

use std::time::Duration;

use tokio::{signal::unix::SignalKind, sync::mpsc};

use self::{
    process::{Death, Stack},
    scenario::Scenario,
};
use crate::{
    args::{DemoAppArgs, DemoArgs, DemoRole, Format},
    failure::Failure,
    interrupts::{self, Interrupts},
    output::Output,
    sibling,
};

/// Runs a process of the demo: an application, or the guard in front of another program.
pub(crate) fn app_main(args: DemoAppArgs) -> Result<(), Failure> {
    if let DemoRole::Guard { parent, command } = &args.role {
        return Err(sibling::guard(*parent, command));
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the runtime", error))?
        .block_on(async {
            let mut terminate = interrupts::listen(SignalKind::terminate())?;
            tokio::select! {
                outcome = app::run(args.role) => outcome,
                _ = terminate.recv() => Ok(()),
            }
        })
}

/// Runs the demo: to a verdict with `--exit`, else on with a live table until it is interrupted. However it ends, it
/// stops what it started.
pub(crate) async fn run(output: &Output, args: DemoArgs) -> Result<(), Failure> {
    if output.format() != Format::Table {
        return Err(Failure::Usage("the demo prints for people: leave out -o".to_owned()));
    }
    let mut interrupts = Interrupts::new()?;
    let (mut stack, mut deaths) = Stack::new()?;
    let mut scenario = Scenario::new(output);
    let outcome = tokio::select! {
        outcome = scenario.run(&mut stack, !args.exit) => outcome,
        Some(death) = died(&mut deaths) => Err(stack.explain(death)),
        () = interrupts.next() => Err(Failure::Interrupted),
    };
    // A second signal kills: dropping the stack leaves nothing either.
    let stopped = tokio::select! {
        defects = stack.stop() => defects,
        () = interrupts.next() => return Err(Failure::Interrupted),
    };
    match outcome {
        // An interrupt is how the live table ends.
        Err(Failure::Interrupted) if scenario.is_live() => {
            output.print("")?;
            scenario.stopped(&stopped)
        }
        Ok(()) => scenario.stopped(&stopped),
        Err(failure) => Err(failure),
    }
}

async fn died(deaths: &mut mpsc::Receiver<Death>) -> Option<Death> {
    let death = deaths.recv().await;
    // What it wrote last may still be on its way to the log.
    tokio::time::sleep(Duration::from_millis(100)).await;
    death
}
