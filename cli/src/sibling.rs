//! The other binaries of this workspace: found, held to this version, and started so that they end with their parent.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use rustix::{
    fs::{Access, access},
    process::{Pid, Signal},
};
use tokio::{process::Command, time::timeout};

use crate::failure::{Failure, NOT_RUN};

/// How long a binary may take to say its version.
const START: Duration = Duration::from_secs(15);

/// Becomes `command`, and dies with `parent`: the kernel sends the signal whatever happened to the parent.
///
/// The death signal outlives `exec`, and is set here because the fork's other side is no place for our code.
pub(crate) fn guard(parent: i32, command: &[OsString]) -> Failure {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::io("cannot tie the process to its parent", error.into());
    }
    // It may have died before the signal was set.
    if rustix::process::getppid() != Pid::from_raw(parent) {
        return Failure::refused("the process that asked for this is gone", "");
    }
    let Some((program, arguments)) = command.split_first() else {
        return Failure::Usage("there is no command to run".to_owned());
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    // It was found before: what is missing is the interpreter that its first line names, or a library's loader.
    let missing = if error.kind() == io::ErrorKind::NotFound { "; is its interpreter there?" } else { "" };
    Failure::NotRun { what: format!("cannot run {}: {error}{missing}", program.display()), code: NOT_RUN }
}

/// `program`, to be run under the guard: tied to the life of the thread that starts it, which must be the main one.
///
/// # Errors
/// If this command cannot find its own file.
pub(crate) fn guarded(program: &OsStr) -> Result<Command, Failure> {
    let own =
        std::env::current_exe().map_err(|error| Failure::io("cannot find this command's own file", error))?;
    let mut command = Command::new(own);
    command
        .args(["demo-app", "guard", "--parent"])
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(program);
    Ok(command)
}

/// A file called `name` in a directory of PATH: the first that can be run, else the first that there is.
pub(crate) fn on_path(name: &OsStr) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&path).map(|directory| directory.join(name));
    let files: Vec<_> = candidates.filter(|candidate| candidate.is_file()).collect();
    let runs = |file: &&PathBuf| access(*file, Access::EXEC_OK).is_ok();
    files.iter().find(runs).or_else(|| files.first()).cloned()
}

/// Finds a sibling binary beside this one, else on PATH, and refuses another version of it.
pub(crate) async fn sibling(name: &str) -> Result<PathBuf, Failure> {
    let own =
        std::env::current_exe().map_err(|error| Failure::io("cannot find this command's own file", error))?;
    let beside = own.parent().map(|directory| directory.join(name));
    let found =
        beside.filter(|beside| beside.is_file()).or_else(|| on_path(OsStr::new(name))).ok_or_else(|| {
            Failure::refused(
                format!("{name} is neither beside {} nor on PATH", own.display()),
                "build all binaries: cargo build --release --workspace --bins",
            )
        })?;
    let run = Command::new(&found).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let answer = match timeout(START, run).await {
        Ok(Ok(answer)) => String::from_utf8_lossy(&answer.stdout).trim().to_owned(),
        Ok(Err(error)) => return Err(Failure::io(format!("cannot run {}", found.display()), error)),
        Err(_elapsed) => String::new(),
    };
    let wanted = format!("{name} {}", env!("CARGO_PKG_VERSION"));
    if answer == wanted {
        Ok(found)
    } else {
        Err(Failure::refused(
            format!("{} says \"{answer}\", this command needs \"{wanted}\"", found.display()),
            "build all binaries together: cargo build --release --workspace --bins",
        ))
    }
}
