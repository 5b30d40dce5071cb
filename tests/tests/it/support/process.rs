//! Programs as child processes: this workspace's binaries, and those of the system. Each is killed when its handle is
//! dropped; its log is shown when a test fails while waiting for it.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// How long anything may take that a person would call "at once".
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// For a stock program's whole run.
const RUN: Duration = Duration::from_secs(60);

/// A binary of this workspace, beside the test's own.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

/// A program from a package of the system; its absence is a failure that names the package.
pub(crate) fn system_program(name: &str, package: &str) -> PathBuf {
    let everybodys = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"].map(PathBuf::from);
    // Debian keeps PostgreSQL's own commands apart, by version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    everybodys
        .into_iter()
        .chain(versions.into_iter().rev())
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: install the package {package}, or run `make setup`"))
}

/// One of the tests' own programs (`tests/programs`), in the Python environment that `tests/setup.sh` made.
pub(crate) fn python(script: &str) -> Command {
    let mut command = python_itself();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(script));
    command
}

/// The interpreter of that environment, without arguments.
pub(crate) fn python_itself() -> Command {
    let test = std::env::current_exe().unwrap();
    let python = test.ancestors().nth(3).unwrap().join("python/bin/python");
    assert!(python.is_file(), "{} is missing: run `make setup`", python.display());
    let mut command = Command::new(python);
    command.env_clear();
    command
}

/// Runs a stock program to its end, with `input` on its standard input.
pub(crate) async fn run(command: &mut Command, input: &[u8]) -> Finished {
    // A file, so that nothing has to be written while its output is read.
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
    let output = command.stdin(file).kill_on_drop(true).output();
    match tokio::time::timeout(RUN, output).await {
        Ok(output) => output.unwrap().into(),
        Err(_) => panic!("{command:?} did not end within {RUN:?}"),
    }
}

/// An address of this machine on which nobody listens, for a program that cannot choose one by itself. Below the ports
/// that the kernel gives away, so that nobody is given it before the program takes it.
pub(crate) fn free_address() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(101);
    loop {
        let offset = begin.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(20_000 + offset).unwrap()));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits until a program that was started listens at `address`.
pub(crate) async fn listening(program: &mut Running, address: SocketAddr) {
    let connected = tokio::time::timeout(PATIENCE, async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(!program.is_over(), "it ended; its log:\n{}", program.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if connected.await.is_err() {
        panic!("nobody listens at {address}; the log:\n{}", program.log());
    }
}

/// Waits for an event by asking for it, up to [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(found) => found,
        Err(_) => panic!("no {what} within {PATIENCE:?}"),
    }
}

/// One long-running process.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it with its output in the file `log`.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        Self::start_with(command, log, Stdio::null())
    }

    /// The same, with this standard input.
    pub(crate) fn start_with(command: &mut Command, log: PathBuf, input: impl Into<Stdio>) -> Self {
        let file = fs::File::create(&log).unwrap();
        let child = command
            .stdin(input)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn is_over(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// What the process wrote about its addresses once it had bound them.
    pub(super) async fn addresses(&mut self, state: &Path) -> Value {
        let file = state.join("addresses.json");
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(value) =
                    fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
                {
                    return Some(value);
                }
                if self.is_over() {
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        match found {
            Ok(Some(value)) => value,
            _ => panic!("no {}; its log:\n{}", file.display(), self.log()),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        pid.expect("still running")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn stopped(&mut self) -> std::process::ExitStatus {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("still running; its log:\n{}", self.log()),
        }
    }

    /// Waits for its end where nothing can be awaited.
    pub(crate) fn wait(&self) {
        let _ended =
            rustix::process::waitid(WaitId::Pid(self.pid()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    }

    /// Kills it (SIGKILL).
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.stopped().await;
    }
}

/// A program that is talked to line by line; killed when dropped.
#[derive(Debug)]
pub(crate) struct Dialogue {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Dialogue {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output).lines() }
    }

    /// Tells it a line.
    pub(crate) async fn tell(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Its next line.
    pub(crate) async fn hear(&mut self) -> String {
        let line = tokio::time::timeout(RUN, self.output.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{:?} says nothing", self.child));
        line.unwrap().unwrap_or_else(|| panic!("{:?} has ended", self.child))
    }
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Finished {
    /// Its output as JSON; the command must have succeeded.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Fails unless it succeeded.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }
}
