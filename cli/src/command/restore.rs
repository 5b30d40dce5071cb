//! `restore`: a state directory from a backup, made by the control plane's own binary, which knows what is in it.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::{args::RestoreArgs, failure::Failure, output::Output, sibling::sibling};

/// How long it may take: most of it is the writing of a file.
const PATIENCE: Duration = Duration::from_mins(30);

/// Restores, and says how to go on.
pub(crate) async fn run(output: &Output, args: RestoreArgs) -> Result<(), Failure> {
    let program = sibling("outrigger-control-plane").await?;
    let mut command = Command::new(&program);
    command.arg("--restore").arg(&args.file).arg("--state-dir").arg(&args.state_dir);
    // The backup may come that way.
    command.stdin(Stdio::inherit());
    let run = timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let run = run.unwrap_or_else(|_elapsed| Err(std::io::ErrorKind::TimedOut.into()));
    let ended = run.map_err(|error| Failure::io(format!("cannot run {}", program.display()), error))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let said = said.trim();
        let said = said.strip_prefix("outrigger-control-plane: ").unwrap_or(said);
        return Err(Failure::refused(said.to_owned(), ""));
    }
    output.print(String::from_utf8_lossy(&ended.stdout).trim_end())?;
    output.note(&format!(
        "start it: outrigger-control-plane --state-dir {}\nproxies that run keep what they have for half a minute, and then \
         get what was restored; what was applied after the backup must be applied again",
        args.state_dir.display()
    ));
    Ok(())
}
