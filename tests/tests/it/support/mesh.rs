//! A control plane and sidecars of one test.

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::process::{Finished, PATIENCE, Running, eventually, program};

/// A control plane of its own, and everything that a test starts around it.
#[derive(Debug)]
pub(crate) struct Mesh {
    directory: TempDir,
    control_plane: Running,
    /// Settings of the control plane, as variables.
    settings: Vec<(String, String)>,
    pub(crate) policy: SocketAddr,
    pub(crate) discovery: SocketAddr,
    pub(crate) health: SocketAddr,
}

fn bound(value: &Value) -> SocketAddr {
    value.as_str().unwrap_or_default().parse().unwrap_or_else(|_| panic!("no address: {value}"))
}

impl Mesh {
    /// Starts a control plane with a fresh state directory.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, where workloads reach it at `address`.
    pub(crate) async fn reachable_at(address: IpAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        Self::start_in(directory, [free, SocketAddr::new(address, 0), free], Vec::new()).await
    }

    /// The same with these settings of the control plane, as variables.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self::start_in(directory, [free; 3], settings.collect()).await
    }

    async fn start_in(directory: TempDir, listen: [SocketAddr; 3], settings: Vec<(String, String)>) -> Self {
        let state = directory.path().join("control-plane");
        let [policy, discovery, health] = listen;
        let mut control_plane = Running::start(
            Command::new(program("outrigger-control-plane"))
                .envs(settings.iter().cloned())
                .arg("--state-dir")
                .arg(&state)
                .args(["--policy-listen", &policy.to_string(), "--discovery-listen", &discovery.to_string()])
                .args(["--health-listen", &health.to_string(), "--allow-loopback"])
                .env("OUTRIGGER_DRAIN__TIMEOUT", "1s"),
            directory.path().join("control-plane.log"),
        );
        let addresses = control_plane.addresses(&state).await;
        Self {
            policy: bound(&addresses["policy"]),
            discovery: bound(&addresses["discovery"]),
            health: bound(&addresses["health"]),
            directory,
            control_plane,
            settings,
        }
    }

    /// Kills the control plane (SIGKILL) and starts it again on the same state and addresses.
    pub(crate) async fn restart_control_plane(mut self) -> Self {
        self.kill_control_plane().await;
        self.start_control_plane().await
    }

    /// Kills the control plane (SIGKILL).
    pub(crate) async fn kill_control_plane(&mut self) {
        self.control_plane.signal(Signal::KILL);
        self.control_plane.stopped().await;
        fs::remove_file(self.path("control-plane/addresses.json")).unwrap();
    }

    /// Starts one that was killed again, on the same state and addresses.
    pub(crate) async fn start_control_plane(self) -> Self {
        Self::start_in(self.directory, [self.policy, self.discovery, self.health], self.settings).await
    }

    /// Stops its process as it stands (SIGSTOP): its connections stay open.
    pub(crate) fn freeze(&self) {
        self.control_plane.signal(Signal::STOP);
    }

    /// Asks the control plane to stop (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.control_plane.signal(Signal::TERM);
    }

    /// Waits for the end of a control plane that was asked to stop, and starts it again on the same state and addresses;
    /// returns when it was over.
    pub(crate) async fn start_again(self) -> (Self, Instant) {
        let Self { directory, mut control_plane, policy, discovery, health, settings } = self;
        control_plane.stopped().await;
        let ended = Instant::now();
        (Self::start_in(directory, [policy, discovery, health], settings).await, ended)
    }

    /// Kills the control plane (SIGKILL), loses everything that it had, and starts one on what `backup` restores.
    pub(crate) async fn restore_control_plane(self, backup: &Path) -> Self {
        let Self { directory, mut control_plane, policy, discovery, health, settings } = self;
        control_plane.signal(Signal::KILL);
        control_plane.stopped().await;
        let state = directory.path().join("control-plane");
        fs::remove_dir_all(&state).unwrap();
        let restored = Command::new(program("outrigger"))
            .arg("restore")
            .arg(backup)
            .arg("--state-dir")
            .arg(&state)
            .stdin(Stdio::null())
            .output();
        let restored = tokio::time::timeout(PATIENCE, restored).await.expect("it ends").unwrap();
        Finished::from(restored).ok();
        Self::start_in(directory, [policy, discovery, health], settings).await
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

    /// Starts a sidecar for `demo/account`, joined by a fresh token with these labels, in front of `app`.
    pub(crate) async fn join(
        &self,
        name: &str,
        account: &str,
        labels: &[&str],
        app: Option<SocketAddr>,
    ) -> Proxy {
        let token = self.token(name, account, labels).await;
        Proxy::start(self, name, Some(&token), app).await
    }

    /// Starts a sidecar for `demo/account` with these flags.
    pub(crate) async fn join_with(&self, name: &str, account: &str, flags: &[impl AsRef<OsStr>]) -> Proxy {
        let token = self.token(name, account, &[]).await;
        Proxy::start_with(self, name, Some(&token), flags).await
    }

    /// A file with a fresh join token for `demo/account`.
    pub(crate) async fn token(&self, name: &str, account: &str, labels: &[&str]) -> PathBuf {
        let token = self.path(&format!("{name}.token"));
        let mut create = vec!["token", "create", "--namespace", "demo", "--service-account", account];
        for label in labels {
            create.extend(["--label", label]);
        }
        let path = token.to_string_lossy().into_owned();
        create.extend(["--output", &path]);
        self.outrigger(&create).await.ok();
        token
    }
}

/// One sidecar.
#[derive(Debug)]
pub(crate) struct Proxy {
    running: Running,
    state: PathBuf,
    pub(crate) outbound: SocketAddr,
    /// Addresses that lead to one service each.
    pub(crate) services: Vec<SocketAddr>,
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) health: SocketAddr,
}

impl Proxy {
    /// Starts a sidecar in front of `app` and waits until it is ready.
    pub(crate) async fn start(
        mesh: &Mesh,
        name: &str,
        token: Option<&Path>,
        app: Option<SocketAddr>,
    ) -> Self {
        let inbound = app.map(|app| format!("127.0.0.1:0={app},name=http"));
        let flags: Vec<_> = inbound.iter().flat_map(|inbound| ["--inbound", inbound]).collect();
        Self::start_with(mesh, name, token, &flags).await
    }

    /// Starts a sidecar with these flags and waits until it is ready.
    pub(crate) async fn start_with(
        mesh: &Mesh,
        name: &str,
        token: Option<&Path>,
        flags: &[impl AsRef<OsStr>],
    ) -> Self {
        let command = Command::new(program("outrigger-proxy"));
        Box::pin(Self::start_as(mesh, (name, token), command, Ipv4Addr::LOCALHOST.into(), flags)).await
    }

    /// The same by `command`, to which the flags are added, with its probes at `address`.
    pub(crate) async fn start_as(
        mesh: &Mesh,
        (name, token): (&str, Option<&Path>),
        mut command: Command,
        address: IpAddr,
        flags: &[impl AsRef<OsStr>],
    ) -> Self {
        let state = mesh.path(name);
        let _stale = fs::remove_file(state.join("addresses.json"));
        let health = SocketAddr::new(address, 0).to_string();
        command.args(["--instance", name, "--control-plane", &mesh.discovery.to_string()]);
        command.arg("--state-dir").arg(&state);
        command.args(["--outbound-listen", "127.0.0.1:0", "--health-listen", &health]).args(flags);
        if let Some(token) = token {
            command.arg("--join-token-file").arg(token);
        }
        let mut running = Running::start(&mut command, mesh.path(&format!("{name}.log")));
        let addresses = running.addresses(&state).await;
        let proxy = Self {
            outbound: bound(&addresses["outbound"]),
            services: addresses["services"].as_array().into_iter().flatten().map(bound).collect(),
            inbound: addresses["inbound"].as_array().and_then(|all| all.first()).map(bound),
            health: bound(&addresses["health"]),
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

    /// A line of its `/proc/PID/status` that is a number of KiB (`VmRSS`, `VmHWM`), in bytes.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.running.pid().as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
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

    /// The value of one line of it; `series`: name and labels, as they are written there. 0 if there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let page = self.metrics().await;
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Asks it to stop (SIGTERM) and returns its exit code.
    pub(crate) async fn stop(mut self) -> i32 {
        self.running.signal(Signal::TERM);
        self.running.stopped().await.code().unwrap_or(-1)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for its end, and returns its exit code.
    pub(crate) async fn ended(mut self) -> i32 {
        self.running.stopped().await.code().unwrap_or(-1)
    }

    /// Kills it (SIGKILL).
    pub(crate) async fn kill(self) {
        self.running.kill().await;
    }
}
