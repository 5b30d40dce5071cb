//! The two processes of `run`, to the end of both.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{
    process::Child,
    time::{sleep, timeout},
};

use super::signals::{Signals, asks_to_stop, typed};
use crate::{failure::Failure, output::Output, sibling::guarded};

/// For a sidecar that was told to stop and does not end by itself. Beyond its own deadlines' defaults (20 s); whoever
/// sets longer ones loses at most what is under way at their end.
const STOP: Duration = Duration::from_secs(60);
/// For a command whose sidecar is lost.
const ALONE: Duration = Duration::from_secs(10);

/// A sidecar that runs.
#[derive(Debug)]
pub(super) struct Sidecar {
    child: Child,
    /// It was told to stop: once more would cut short what is under way.
    asked: bool,
}

impl Sidecar {
    /// Starts it, in a process group of its own: what is typed at the terminal is not meant for it. It says in the file
    /// `addresses` where it listens.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(proxy: &Path, flags: &[OsString], addresses: &Path) -> Result<Self, Failure> {
        let mut command = guarded(proxy.as_os_str())?;
        command.args(flags).arg("--addresses-file").arg(addresses);
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        let child = command.spawn();
        child
            .map(|child| Self { child, asked: false })
            .map_err(|error| Failure::io(format!("cannot start {}", proxy.display()), error))
    }

    /// Waits for its end. Cancel safe.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        wait(&mut self.child).await
    }

    fn drain(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            send(&self.child, Signal::TERM);
        }
    }

    fn hurry(&self) {
        send(&self.child, Signal::TERM);
    }

    /// Asks it to stop, and waits; kills it when it takes too long.
    pub(super) async fn stop(mut self) {
        self.drain();
        if timeout(STOP, self.ended()).await.is_err() {
            send(&self.child, Signal::KILL);
            self.ended().await;
        }
    }
}

/// A sidecar and its command.
#[derive(Debug)]
pub(super) struct Pair {
    sidecar: Sidecar,
    command: Child,
    /// Others call the command through the sidecar.
    serves: bool,
}

/// How far the way out is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// The command was asked; the sidecar goes after it.
    Stopping,
    /// The sidecar takes nothing new; the command finishes what is under way and has not heard yet.
    Draining(Signal),
    /// The sidecar is gone, in order; the command knows.
    Last,
}

impl Pair {
    pub(super) fn new(sidecar: Sidecar, command: Child, serves: bool) -> Self {
        Self { sidecar, command, serves }
    }

    /// Runs both to the end of the command, whose exit code it returns: 128 and the signal's number if one ended it.
    ///
    /// # Errors
    /// If the sidecar ended by itself.
    pub(super) async fn run(mut self, signals: &mut Signals, output: &Output) -> Result<u8, Failure> {
        let mut stage = Stage::Running;
        loop {
            let sidecar_runs = stage != Stage::Last;
            tokio::select! {
                status = wait(&mut self.command) => {
                    if sidecar_runs {
                        self.finish(signals).await;
                    }
                    return Ok(code(status));
                }
                status = self.sidecar.ended(), if sidecar_runs => {
                    match stage {
                        Stage::Draining(signal) => send(&self.command, signal),
                        // It has been told to stop by somebody, such as one who signals every process of a unit.
                        Stage::Running if is_orderly(status) => send(&self.command, Signal::TERM),
                        Stage::Stopping => {}
                        Stage::Running | Stage::Last => return self.abandoned(status, output).await,
                    }
                    stage = Stage::Last;
                }
                signal = signals.next() => stage = self.signalled(signal, stage),
            }
        }
    }

    fn signalled(&mut self, signal: Signal, stage: Stage) -> Stage {
        match stage {
            Stage::Running if asks_to_stop(signal) && self.serves && !typed(signal) => {
                self.sidecar.drain();
                return Stage::Draining(signal);
            }
            // Once more: now.
            Stage::Draining(_) if asks_to_stop(signal) => self.sidecar.hurry(),
            _ => {}
        }
        if !typed(signal) {
            send(&self.command, signal);
        }
        if stage == Stage::Running && asks_to_stop(signal) { Stage::Stopping } else { stage }
    }

    /// The command has ended: nothing new comes, and what it began outside may finish. A signal cuts that short.
    async fn finish(self, signals: &mut Signals) {
        tokio::select! {
            () = self.sidecar.stop() => {}
            () = signals.stop() => {}
        }
    }

    /// Without its sidecar the command can neither call nor be called.
    async fn abandoned(mut self, status: ExitStatus, output: &Output) -> Result<u8, Failure> {
        output.warning(&format!("the sidecar ended by itself ({status}); the command is asked to stop"));
        send(&self.command, Signal::TERM);
        tokio::select! {
            _ = wait(&mut self.command) => {}
            () = sleep(ALONE) => {
                send(&self.command, Signal::KILL);
                wait(&mut self.command).await;
            }
        }
        Err(Failure::refused("the sidecar ended by itself", "its own words are above"))
    }
}

/// Waits for the end of a child of ours. Cancel safe.
async fn wait(child: &mut Child) -> ExitStatus {
    // Only a child that somebody else waited for has no status; nobody else does.
    child.wait().await.unwrap_or_else(|_lost| ExitStatus::from_raw(0xff00))
}

/// Sends a signal to a child that has not been waited for.
fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It can only have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a sidecar ended because it was asked to: with 0, or 3 if it cut something off.
fn is_orderly(status: ExitStatus) -> bool {
    matches!(status.code(), Some(0 | 3))
}

/// As a shell says it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::{ExitStatus, ExitStatusExt, code};

    #[test]
    fn the_exit_code_is_what_a_shell_would_say() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(15)), 143, "ended by SIGTERM");
    }
}
