//! A control plane in this process, and everybody who may call it.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_control_plane::{
    app::{self, Running, StartError},
    audit::Draft,
    authority::Csr,
    clock::Clock,
    settings::{Authority, History, Policy, Port, Settings},
    store::{Commit, Key as StoreKey, Op, Store},
};
use outrigger_process::{exit::Exit, shutdown::Shutdown};
use outrigger_proto::{
    identity::v1alpha1::{
        CreateTokenRequest, IssueRequest, IssueResponse, identity_service_client::IdentityServiceClient,
        token_service_client::TokenServiceClient,
    },
    policy::v1alpha1::{AuditRecord, ListAuditRequest, policy_service_client::PolicyServiceClient},
};
use outrigger_tls::{
    Identity, Key, Svid, credential,
    grpc::{ServerTrust, channel_lazy},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};
use tonic::{Status, transport::Channel};

use crate::support::soon;

/// A control plane, stopped when it is dropped or told to.
pub(crate) struct ControlPlane {
    directory: Option<TempDir>,
    pub(crate) addresses: app::Addresses,
    pub(crate) state: Arc<app::State>,
    skew: Arc<parking_lot::Mutex<Duration>>,
    chosen: Chosen,
    shutdown: Shutdown,
    running: Option<(Runtime, JoinHandle<Exit>)>,
}

impl ControlPlane {
    /// A first start.
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Chosen::default()).await
    }

    /// One that keeps so many revisions.
    pub(crate) async fn keeping(revisions: u64) -> Self {
        let history = History { revisions, ..History::default() };
        Self::start_in(tempfile::tempdir().unwrap(), Chosen { history, ..Chosen::default() }).await
    }

    /// A first start whose workloads' certificates live for so long.
    pub(crate) async fn with_leaf_ttl(leaf_ttl: Duration) -> Self {
        let chosen = Chosen { authority: Authority { leaf_ttl }, ..Chosen::default() };
        Self::start_in(tempfile::tempdir().unwrap(), chosen).await
    }

    /// A start on the state in `directory`, on a runtime of its own: what runs on it ends with it, as with a process.
    async fn start_in(directory: TempDir, chosen: Chosen) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let skew = Arc::new(parking_lot::Mutex::new(Duration::ZERO));
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let settings = settings(directory.path(), chosen.clone());
        let start = start(settings, Arc::clone(&skew), shutdown.clone());
        let running = runtime.spawn(start).await.unwrap().unwrap();
        let (addresses, state) = (running.addresses, Arc::clone(&running.state));
        let running = runtime.spawn(running.wait());
        Self {
            directory: Some(directory),
            addresses,
            state,
            skew,
            chosen,
            shutdown,
            running: Some((runtime, running)),
        }
    }

    /// Stops it, does `between` to its store, and starts it again.
    pub(crate) async fn restart(self, between: impl AsyncFnOnce(&Store)) -> Self {
        let chosen = self.chosen.clone();
        self.restart_as(chosen, between).await
    }

    /// The same; certificates live for so long from then on.
    pub(crate) async fn restart_with_leaf_ttl(self, leaf_ttl: Duration) -> Self {
        let chosen = Chosen { authority: Authority { leaf_ttl }, ..self.chosen.clone() };
        self.restart_as(chosen, async |_| ()).await
    }

    /// The same; the policy port has these names from then on.
    pub(crate) async fn restart_with_names(self, names: &[&str]) -> Self {
        let names = Some(names.iter().map(|name| (*name).to_owned()).collect());
        let chosen = Chosen { names, ..self.chosen.clone() };
        self.restart_as(chosen, async |_| ()).await
    }

    /// Ends it as a kill does: nobody is told, and nothing is finished. Starts it again.
    pub(crate) async fn killed(mut self) -> Self {
        let (runtime, _running) = self.running.take().unwrap();
        let (directory, chosen) = (self.directory.take().unwrap(), self.chosen.clone());
        drop(self);
        end(runtime).await;
        Self::start_in(directory, chosen).await
    }

    async fn restart_as(mut self, chosen: Chosen, between: impl AsyncFnOnce(&Store)) -> Self {
        let (runtime, running) = self.running.take().unwrap();
        let directory = self.directory.take().unwrap();
        let shutdown = self.shutdown.clone();
        drop(self);
        runtime.spawn(async move { shutdown.stop() }).await.unwrap();
        assert_eq!(running.await.unwrap().code(), 0, "a clean stop");
        end(runtime).await;
        let store = Store::open(&directory.path().join("state/store.redb")).unwrap();
        between(&store).await;
        drop(store);
        Self::start_in(directory, chosen).await
    }

    /// Moves the control plane's clock.
    pub(crate) fn pass(&self, duration: Duration) {
        *self.skew.lock() += duration;
    }

    /// Awaits that its state directory says, or says no longer, that this proxy is connected.
    pub(crate) async fn knows(&self, node_id: &str, connected: bool) {
        let path = self.directory.as_ref().unwrap().path().join("state/known-proxies");
        let says = || {
            let file = std::fs::read(&path).unwrap_or_default();
            file.windows(node_id.len()).any(|part| part == node_id.as_bytes())
        };
        soon(async {
            while says() != connected {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Where the authority's keys are.
    pub(crate) fn keys(&self) -> Vec<String> {
        let directory = self.directory.as_ref().unwrap().path().join("state/authority");
        let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The credential that the first start made for `operator`.
    pub(crate) fn kept(&self, operator: &str) -> Identity {
        credential::load(&self.directory.as_ref().unwrap().path().join("state").join(operator))
            .unwrap()
            .into_identity()
    }

    /// A credential for an operator that the control plane makes none for.
    pub(crate) fn operator(&self, name: &str) -> Identity {
        let svid = self.state.authority.operator(&name.parse().unwrap()).unwrap();
        self.with_bundle(svid)
    }

    /// A workload of the mesh, issued without the network.
    pub(crate) fn workload(&self, account: &str) -> Identity {
        self.labelled(account, &[])
    }

    /// One that joined with a token for these labels.
    pub(crate) fn labelled(&self, account: &str, labels: &[(&str, &str)]) -> Identity {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let id = format!("spiffe://outrigger.local/ns/demo/sa/{account}").parse().unwrap();
        let key = Key::generate().unwrap();
        let csr = Csr::parse(&key.csr_der(&id).unwrap()).unwrap();
        let issued = self.state.authority.issue(&id, &labels, &csr).unwrap();
        let chain = issued.chain.iter().map(|certificate| certificate.to_vec()).collect();
        self.with_bundle(Svid::from_parts(chain, key).unwrap())
    }

    fn with_bundle(&self, svid: Svid) -> Identity {
        let bundle = self.state.upkeep.identity().bundle().unwrap();
        Identity::new(svid, (*bundle).clone())
    }

    /// A channel to the policy port; without an identity, pinned as a joiner's.
    pub(crate) fn policy_port(&self, identity: Option<&Identity>) -> Channel {
        self.channel(self.addresses.policy, identity)
    }

    /// A channel to the discovery port.
    pub(crate) fn discovery_port(&self, identity: Option<&Identity>) -> Channel {
        self.channel(self.addresses.discovery, identity)
    }

    fn channel(&self, address: std::net::SocketAddr, identity: Option<&Identity>) -> Channel {
        let trust = match identity {
            Some(identity) => ServerTrust::Bundle(identity.clone()),
            None => ServerTrust::Pinned(self.state.authority.root_hash()),
        };
        channel_lazy(&address.to_string(), trust, identity).unwrap()
    }

    /// PolicyService as the first admin.
    pub(crate) fn admin(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.policy_port(Some(&self.kept("admin"))))
    }

    /// A join token for `demo/<account>`.
    pub(crate) async fn token(&self, account: &str, labels: &[(&str, &str)]) -> String {
        let request = CreateTokenRequest {
            namespace: "demo".to_owned(),
            service_account: account.to_owned(),
            ttl: None,
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let mut client = TokenServiceClient::new(self.policy_port(Some(&self.kept("admin"))));
        client.create_token(request).await.unwrap().into_inner().token
    }

    /// Issue, with what is given and nothing else.
    pub(crate) async fn issue(
        &self,
        identity: Option<&Identity>,
        request: IssueRequest,
    ) -> Result<IssueResponse, Status> {
        let mut client = IdentityServiceClient::new(self.discovery_port(identity));
        client.issue(request).await.map(tonic::Response::into_inner)
    }

    /// The whole audit log.
    pub(crate) async fn audit(&self) -> Vec<AuditRecord> {
        let request = ListAuditRequest { from: 0, page_size: 1000 };
        self.admin().list_audit(request).await.unwrap().into_inner().records
    }

    /// All metrics.
    pub(crate) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let mut socket = tokio::net::TcpStream::connect(self.addresses.health).await.unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Some((runtime, _)) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends everything that runs on it.
async fn end(runtime: Runtime) {
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
}

/// What a test chooses.
#[derive(Debug, Clone, Default)]
struct Chosen {
    authority: Authority,
    history: History,
    /// Of the policy port.
    names: Option<Vec<String>>,
}

/// Of a control plane on the state below `directory`.
fn settings(directory: &Path, Chosen { authority, history, names }: Chosen) -> Settings {
    let any = || Port { listen: "127.0.0.1:0".parse().unwrap() };
    Settings {
        state_dir: Some(directory.join("state")),
        policy: Policy { listen: any().listen, names },
        discovery: any(),
        health: any(),
        authority,
        history,
        ..Settings::default()
    }
}

async fn start(
    settings: Settings,
    skew: Arc<parking_lot::Mutex<Duration>>,
    shutdown: Shutdown,
) -> Result<Running, StartError> {
    let clock = Clock::from_fn(move || SystemTime::now() + *skew.lock());
    app::start(&settings, clock, shutdown).await
}

/// A commit that gives `operator` a role.
pub(crate) fn role(operator: &str, grant: &outrigger_control_plane::access::Grant) -> Commit {
    let key = StoreKey::role(&operator.parse().unwrap());
    Commit {
        expect: Vec::new(),
        ops: vec![Op::Put { key, value: serde_json::to_vec(grant).unwrap() }],
        audit: Draft::own(SystemTime::now(), "test", "test.Role", ""),
    }
}
