//! The built binaries as child processes. Each is killed when its handle is dropped; its log is shown when a test
//! fails while waiting for it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long anything may take that a person would call "at once".
const PATIENCE: Duration = Duration::from_secs(20);

/// A binary of this workspace, beside the test's own.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

/// A program from a package of the system; its absence is a failure that names the package.
pub(crate) fn system_program(name: &str, package: &str) -> PathBuf {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: install the package {package}, or run `make setup`"))
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
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = fs::File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What the process wrote about its addresses once it had bound them.
    async fn addresses(&mut self, state: &Path) -> Value {
        let file = state.join("addresses.json");
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(value) =
                    fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
                {
                    return Some(value);
                }
                if matches!(self.child.try_wait(), Ok(Some(_))) {
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

    fn signal(&self, signal: rustix::process::Signal) {
        let pid =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("still running"), signal).unwrap();
    }

    async fn stopped(&mut self) -> std::process::ExitStatus {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("still running; its log:\n{}", self.log()),
        }
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

/// A control plane of its own, and everything that a test starts around it.
#[derive(Debug)]
pub(crate) struct Mesh {
    directory: TempDir,
    control_plane: Running,
    pub(crate) policy: SocketAddr,
    pub(crate) discovery: SocketAddr,
    pub(crate) health: SocketAddr,
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().unwrap_or_default().parse().unwrap_or_else(|_| panic!("no address: {value}"))
}

impl Mesh {
    /// Starts a control plane with a fresh state directory.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        Self::start_in(directory, [free; 3]).await
    }

    async fn start_in(directory: TempDir, listen: [SocketAddr; 3]) -> Self {
        let state = directory.path().join("control-plane");
        let [policy, discovery, health] = listen;
        let mut control_plane = Running::start(
            Command::new(program("outrigger-control-plane"))
                .arg("--state-dir")
                .arg(&state)
                .args(["--policy-listen", &policy.to_string(), "--discovery-listen", &discovery.to_string()])
                .args(["--health-listen", &health.to_string(), "--allow-loopback"]),
            directory.path().join("control-plane.log"),
        );
        let addresses = control_plane.addresses(&state).await;
        Self {
            policy: address(&addresses["policy"]),
            discovery: address(&addresses["discovery"]),
            health: address(&addresses["health"]),
            directory,
            control_plane,
        }
    }

    /// Kills the control plane (SIGKILL) and starts it again on the same state and addresses.
    pub(crate) async fn restart_control_plane(self) -> Self {
        let Self { directory, mut control_plane, policy, discovery, health } = self;
        control_plane.signal(rustix::process::Signal::KILL);
        control_plane.stopped().await;
        fs::remove_file(directory.path().join("control-plane/addresses.json")).unwrap();
        Self::start_in(directory, [policy, discovery, health]).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn control_plane_log(&self) -> String {
        self.control_plane.log()
    }

    /// Runs the operator's command with the first start's admin credential.
    pub(crate) async fn outrigger(&self, arguments: &[&str]) -> Finished {
        let output = Command::new(program("outrigger"))
            .args(arguments)
            .env("OUTRIGGER_SERVER", self.policy.to_string())
            .env("OUTRIGGER_CREDENTIAL", self.path("control-plane/admin"))
            .stdin(Stdio::null())
            .output();
        tokio::time::timeout(PATIENCE * 2, output).await.expect("the command ends").unwrap().into()
    }

    /// Applies documents, waits until they are in force, and returns what the command said.
    pub(crate) async fn apply(&self, documents: &str) -> Finished {
        let file = self.path("documents.yaml");
        fs::write(&file, documents).unwrap();
        self.outrigger(&["apply", "--wait", "-f", &file.to_string_lossy()]).await
    }

    /// Starts a sidecar for `namespace/account`, joined by a fresh token with these labels, in front of `app`.
    pub(crate) async fn join(
        &self,
        name: &str,
        account: &str,
        labels: &[&str],
        app: Option<SocketAddr>,
    ) -> Proxy {
        let token = self.path(&format!("{name}.token"));
        let mut create = vec!["token", "create", "--namespace", "demo", "--service-account", account];
        for label in labels {
            create.extend(["--label", label]);
        }
        let path = token.to_string_lossy().into_owned();
        create.extend(["--output", &path]);
        self.outrigger(&create).await.ok();
        Proxy::start(self, name, Some(&token), app).await
    }
}

/// One sidecar.
#[derive(Debug)]
pub(crate) struct Proxy {
    running: Running,
    state: PathBuf,
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) health: SocketAddr,
}

impl Proxy {
    /// Starts a sidecar and waits until it is ready.
    pub(crate) async fn start(
        mesh: &Mesh,
        name: &str,
        token: Option<&Path>,
        app: Option<SocketAddr>,
    ) -> Self {
        let state = mesh.path(name);
        let _stale = fs::remove_file(state.join("addresses.json"));
        let mut command = Command::new(program("outrigger-proxy"));
        command.args(["--instance", name, "--control-plane", &mesh.discovery.to_string()]);
        command.arg("--state-dir").arg(&state);
        command.args(["--outbound-listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"]);
        if let Some(token) = token {
            command.arg("--join-token-file").arg(token);
        }
        if let Some(app) = app {
            command.args(["--inbound", &format!("127.0.0.1:0={app},name=http")]);
        }
        let mut running = Running::start(&mut command, mesh.path(&format!("{name}.log")));
        let addresses = running.addresses(&state).await;
        let proxy = Self {
            outbound: address(&addresses["outbound"]),
            inbound: addresses["inbound"].as_array().and_then(|all| all.first()).map(address),
            health: address(&addresses["health"]),
            running,
            state,
        };
        let ready = format!("http://{}/ready", proxy.health);
        eventually("readiness of the sidecar", async || {
            let answer = super::Client::direct().get(&ready).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        proxy
    }

    pub(crate) fn log(&self) -> String {
        self.running.log()
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// A client whose requests go through this sidecar.
    pub(crate) fn client(&self) -> super::Client {
        super::Client::through(self.outbound)
    }

    /// Its metrics page.
    pub(crate) async fn metrics(&self) -> String {
        super::Client::direct().get(&format!("http://{}/metrics", self.health)).await.unwrap().text()
    }

    /// Asks it to stop (SIGTERM) and returns its exit code.
    pub(crate) async fn stop(mut self) -> i32 {
        self.running.signal(rustix::process::Signal::TERM);
        self.running.stopped().await.code().unwrap_or(-1)
    }

    /// Kills it (SIGKILL).
    pub(crate) async fn kill(mut self) {
        self.running.signal(rustix::process::Signal::KILL);
        self.running.stopped().await;
    }
}
