//! The demo's processes: started under a guard, watched, and stopped; none outlives the demo, however it ends.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::failure::Failure;

/// How long a process may take until it serves.
const START: Duration = Duration::from_secs(15);
/// How long a process may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(8);
/// How often a file or an answer is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Lines of a log that are shown when its process failed.
const TAIL: usize = 15;

/// What to start.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// For messages and the log's file.
    pub(crate) name: &'static str,
    /// The program.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Its settings; the demo's own `OUTRIGGER_*` are not handed on.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// Whether its standard output is read; else it goes to the log.
    pub(crate) announces: bool,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    log: PathBuf,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    signals: mpsc::Sender<Signal>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// The address that an application of the demo announces as its first line.
    pub(crate) async fn announced(&mut self) -> Result<SocketAddr, Failure> {
        let line = match self.stdout.take() {
            Some(stdout) => timeout(START, BufReader::new(stdout).lines().next_line()).await,
            None => Ok(Ok(None)),
        };
        match line {
            Ok(Ok(Some(line))) => {
                line.trim().parse().map_err(|_not_an_address| self.trouble("announced no address"))
            }
            _ => Err(self.trouble("announced no address")),
        }
    }

    /// Writes a line to its standard input.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let Some(stdin) = &mut self.stdin else {
            return Err(self.trouble("does not listen"));
        };
        let told = async {
            stdin.write_all(line.as_bytes()).await?;
            stdin.write_all(b"\n").await?;
            stdin.flush().await
        };
        match timeout(START, told).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.trouble("does not listen")),
        }
    }

    /// Asks `found` again and again until it has a value.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut found: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + START;
        loop {
            match timeout_at(deadline, found()).await {
                Ok(Some(value)) => return Ok(value),
                Ok(None) if Instant::now() < deadline && self.ended.borrow().is_none() => sleep(POLL).await,
                _ => return Err(self.trouble(what)),
            }
        }
    }

    /// Sends it a signal; from then on its end is no surprise.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        self.signals.try_send(signal).map_err(|_ended| self.trouble("has ended already"))
    }

    /// Waits for its end, of which it was told.
    pub(crate) async fn gone(&mut self) -> Result<ExitStatus, Failure> {
        match timeout(START, self.ended.wait_for(Option::is_some))
            .await
            .map(|ended| ended.map(|status| *status))
        {
            Ok(Ok(Some(status))) => Ok(status),
            _ => Err(self.trouble("did not end")),
        }
    }

    /// Waits for the addresses that a binary of ours writes to its state directory.
    pub(crate) async fn addresses<T: DeserializeOwned>(&self, state: &Path) -> Result<T, Failure> {
        let file = state.join("addresses.json");
        self.until("did not say where it listens", async || {
            let text = std::fs::read(&file).ok()?;
            serde_json::from_slice(&text).ok()
        })
        .await
    }

    /// A failure that shows the end of the process's log.
    pub(crate) fn trouble(&self, what: &str) -> Failure {
        trouble(self.name, &self.log, what)
    }
}

fn trouble(name: &str, log: &Path, what: &str) -> Failure {
    let text = tail(log).unwrap_or_default();
    let shown =
        if text.is_empty() { "its log is empty".to_owned() } else { format!("the end of its log:\n{text}") };
    Failure::refused(format!("{name} {what}; {shown}"), "")
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(16 * 1024)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL);
    Ok(lines.get(from..).unwrap_or_default().join("\n"))
}

/// A process that ended without being asked, and how.
pub(crate) type Death = (&'static str, Option<ExitStatus>);

/// All processes of the demo, and their directory. Dropped, it kills them and removes it.
#[derive(Debug)]
pub(crate) struct Stack {
    // Before the directory: fields are dropped in this order.
    processes: Vec<Process>,
    directory: TempDir,
    deaths: mpsc::Sender<Death>,
    own: PathBuf,
}

impl Stack {
    /// An empty stack, and where the unexpected end of a process is told.
    pub(crate) fn new() -> Result<(Self, mpsc::Receiver<Death>), Failure> {
        let directory = tempfile::Builder::new()
            .prefix("outrigger-demo-")
            .tempdir()
            .map_err(|error| Failure::io("cannot make a temporary directory", error))?;
        let own = std::env::current_exe()
            .map_err(|error| Failure::io("cannot find this command's own file", error))?;
        let (deaths, told) = mpsc::channel(16);
        Ok((Self { processes: Vec::new(), directory, deaths, own }, told))
    }

    /// The demo's directory; only its owner may look into it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// This command's own file: the demo's applications are in it.
    pub(crate) fn own(&self) -> PathBuf {
        self.own.clone()
    }

    /// Starts a process, its log in the demo's directory.
    pub(crate) fn start(&self, start: Start<'_>) -> Result<Process, Failure> {
        let log = self.directory().join(format!("{}.log", start.name));
        let cannot = |error| Failure::io(format!("cannot start {}", start.program.display()), error);
        // A process that was there before has the same log.
        let file = OpenOptions::new().append(true).create(true).open(&log).map_err(cannot)?;
        let stdout = if start.announces { Stdio::piped() } else { file.try_clone().map_err(cannot)?.into() };
        let mut command = self.guarded(start.program);
        command
            .args(start.arguments)
            .envs(start.environment)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(file);
        let mut child = command.spawn().map_err(cannot)?;
        let (signals, received) = mpsc::channel(4);
        let (end, ended) = watch::channel(None);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        tokio::spawn(watch_over(child, start.name, received, end, self.deaths.clone()));
        Ok(Process { name: start.name, log, stdin, stdout, signals, ended })
    }

    /// A program under the guard, in a process group of its own (Ctrl-C is ours to pass on), without the demo's own
    /// settings.
    fn guarded(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.own);
        command
            .args(["demo-app", "guard", "--parent"])
            .arg(std::process::id().to_string())
            .arg("--")
            .arg(program)
            .current_dir(self.directory())
            .process_group(0)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command
    }

    /// Runs this command as an operator would, and returns what it printed; `Err`: what it said when it failed.
    pub(crate) async fn outrigger(
        &self,
        words: &[&str],
        environment: [(&str, OsString); 2],
        limit: Duration,
    ) -> Result<String, String> {
        let run = self.guarded(&self.own).args(words).envs(environment).stdin(Stdio::null()).output();
        match timeout(limit, run).await {
            Ok(Ok(ended)) if ended.status.success() => {
                Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
            }
            Ok(Ok(ended)) => {
                let text = String::from_utf8_lossy(&ended.stderr);
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                Err(format!("{}: {}", ended.status, lines.join("; ")))
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("it took longer than {} s", limit.as_secs())),
        }
    }

    /// Keeps a process until the end; those kept last are stopped first. One that comes again takes its old place.
    pub(crate) fn keep(&mut self, process: Process) {
        match self.processes.iter_mut().find(|kept| kept.name == process.name) {
            Some(kept) => *kept = process,
            None => self.processes.push(process),
        }
    }

    /// The process of that name.
    pub(crate) fn process(&mut self, name: &str) -> Result<&mut Process, Failure> {
        let found = self.processes.iter_mut().find(|kept| kept.name == name);
        found.ok_or_else(|| Failure::refused(format!("{name} was never started"), ""))
    }

    /// What became of a process that ended without being asked, with the end of its log.
    pub(crate) fn explain(&self, (name, status): Death) -> Failure {
        let how = status.map_or_else(|| "in an unknown way".to_owned(), |status| status.to_string());
        trouble(name, &self.directory().join(format!("{name}.log")), &format!("ended by itself ({how})"))
    }

    /// Stops all: in the reverse order of their start, each asked first and killed if it takes too long. What did not
    /// go as it should is the result. The directory is removed.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        let mut defects = Vec::new();
        while let Some(mut process) = self.processes.pop() {
            // An application ends with its standard input.
            drop(process.stdin.take());
            let _ = process.signals.try_send(Signal::TERM);
            let ended = timeout(STOP, process.ended.wait_for(Option::is_some))
                .await
                .map(|ended| ended.map(|status| *status));
            match ended {
                Ok(Ok(Some(status))) if status.success() => {}
                Ok(Ok(Some(status))) => defects.push(format!("{} ended with {status}", process.name)),
                Ok(_) => defects.push(format!("{} was lost", process.name)),
                Err(_elapsed) => {
                    defects.push(format!(
                        "{} did not stop within {} s and was killed",
                        process.name,
                        STOP.as_secs()
                    ));
                    let _ = process.signals.try_send(Signal::KILL);
                    drop(timeout(STOP, process.ended.wait_for(Option::is_some)).await);
                }
            }
        }
        let directory = self.directory.path().to_owned();
        if let Err(error) = self.directory.close() {
            defects.push(format!("{} is left behind: {error}", directory.display()));
        }
        defects
    }
}

/// Owns a child: passes signals on as long as it lives (its id is not another's before it is waited for), and tells of
/// its end. Dropped with the runtime, it kills the child.
async fn watch_over(
    mut child: Child,
    name: &'static str,
    mut signals: mpsc::Receiver<Signal>,
    end: watch::Sender<Option<ExitStatus>>,
    deaths: mpsc::Sender<Death>,
) {
    let mut asked = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(signal) = signals.recv() => {
                asked = true;
                let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                if let Some(pid) = pid {
                    // It can only have ended by itself, which the next turn sees.
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
        }
    };
    let status = status.ok();
    if !asked {
        // Full only when more died than there are: the first one ends the demo.
        let _ = deaths.try_send((name, status));
    }
    end.send_replace(status);
}

fn is_ours(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"OUTRIGGER_")
}

#[cfg(test)]
mod tests {
    use super::{OsStr, is_ours, tail};

    #[test]
    fn the_demos_own_settings_are_not_handed_on() {
        assert!(is_ours(OsStr::new("OUTRIGGER_SERVER")));
        assert!(!is_ours(OsStr::new("PATH")));
    }

    #[test]
    fn the_end_of_a_log_is_its_last_lines() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let lines: Vec<String> = (0..5_000).map(|line| format!("line {line}")).collect();
        std::fs::write(&log, lines.join("\n")).expect("written");
        let end = tail(&log).expect("read");
        assert_eq!(end.lines().count(), super::TAIL);
        assert!(end.ends_with("line 4999"));
    }
}
