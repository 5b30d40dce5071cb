//! A control plane that answers what the test wants, and the command run against it.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex},
};

use futures_util::stream;
use outrigger_proto::{
    backup::v1alpha1::{
        BackupChunk, BackupRequest,
        backup_service_server::{BackupService, BackupServiceServer},
    },
    google::rpc,
    identity::v1alpha1::{
        CreateTokenRequest, CreateTokenResponse,
        token_service_server::{TokenService, TokenServiceServer},
    },
    policy::v1alpha1::{
        self as policy,
        policy_service_server::{PolicyService, PolicyServiceServer},
    },
    status::v1alpha1::{
        self as status,
        status_service_server::{StatusService, StatusServiceServer},
    },
    type_url,
};
use outrigger_tls::{credential, grpc, testing::Authority};
use prost::Message;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpListener, process::Child};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// What the fake answers, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    /// `None`: every object is created at revision 7.
    pub(crate) apply: Option<Status>,
    pub(crate) applied: Vec<policy::ApplyRequest>,
    /// So many writes find nobody before one is answered.
    pub(crate) away: usize,
    pub(crate) deleted: Vec<policy::DeleteRequest>,
    pub(crate) rolled_back: Vec<policy::RollbackRequest>,
    pub(crate) versions: Vec<policy::Version>,
    pub(crate) records: Vec<policy::AuditRecord>,
    /// What each watch in turn hears before it ends.
    pub(crate) events: Vec<Vec<Result<policy::WatchEvent, Status>>>,
    pub(crate) watched: Vec<policy::WatchRequest>,
    pub(crate) backup: Vec<Result<BackupChunk, Status>>,
    pub(crate) objects: Vec<policy::Object>,
    pub(crate) convergence: status::Convergence,
    pub(crate) proxies: Vec<status::ProxyState>,
    /// The chain of the service `demo/price`, and all there are.
    pub(crate) hops: Vec<status::Hop>,
    pub(crate) hops_asked: Vec<status::HopsRequest>,
    /// Of the service `demo/price`.
    pub(crate) endpoints: status::ListEndpointsResponse,
    pub(crate) tokens: Vec<CreateTokenRequest>,
    /// That `history` tells.
    pub(crate) oldest: u64,
}

/// A control plane of the test's own.
pub(crate) struct Fake {
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) directory: TempDir,
    address: String,
}

#[derive(Clone)]
struct Service(Arc<Mutex<Script>>);

impl Service {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().expect("no test panics while it holds the script")
    }
}

fn known(service: &str) -> Result<(), Status> {
    match service {
        "" | "demo/price" => Ok(()),
        service => Err(Status::not_found(format!("there is no service {service}"))),
    }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let authority = Authority::new("outrigger.local");
        let directory = tempfile::tempdir().expect("a directory");
        let admin = directory.path().join("admin");
        credential::save(&admin, &authority.operator("admin"), &authority.bundle()).expect("a credential");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let operators = grpc::OperatorAuthorities::new([authority.operators_der()]).expect("an authority");
        let identity = authority.identity(authority.control_plane());
        let config = grpc::server_config(&identity, &operators);
        let incoming = grpc::incoming(listener, config, grpc::Limits::default(), |_refused| {});
        let script = Arc::new(Mutex::new(Script::default()));
        let service = Service(Arc::clone(&script));
        let router = tonic::transport::Server::builder()
            .add_service(PolicyServiceServer::new(service.clone()))
            .add_service(StatusServiceServer::new(service.clone()))
            .add_service(BackupServiceServer::new(service.clone()))
            .add_service(TokenServiceServer::new(service));
        tokio::spawn(router.serve_with_incoming(incoming));
        Self { script, directory, address }
    }

    /// A file of the test's own.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    /// Runs the command with the admin's credential.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "").await
    }

    /// The same, with standard input.
    pub(crate) async fn run_with(&self, arguments: &[&str], stdin: &str) -> Ran {
        let admin = self.directory.path().join("admin");
        run(arguments, &self.address, &admin, stdin).await
    }

    /// Runs the command where it may write no file of more than some kilobytes: the kernel kills it when it does.
    pub(crate) async fn run_until_it_writes_much(&self, arguments: &[&str]) -> Ran {
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", "ulimit -c 0; ulimit -f 8; exec \"$0\" \"$@\"", OUTRIGGER]).args(arguments);
        let child = start_as(shell, &self.address, &self.directory.path().join("admin"));
        ran(child, "").await
    }

    /// Starts the command and leaves it running.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        start(arguments, &self.address, &self.directory.path().join("admin"))
    }
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

const OUTRIGGER: &str = env!("CARGO_BIN_EXE_outrigger");

fn start(arguments: &[&str], server: &str, credential: &Path) -> Child {
    let mut command = tokio::process::Command::new(OUTRIGGER);
    command.args(arguments);
    start_as(command, server, credential)
}

fn start_as(mut command: tokio::process::Command, server: &str, credential: &Path) -> Child {
    command
        .env("OUTRIGGER_SERVER", server)
        .env("OUTRIGGER_CREDENTIAL", credential)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the command starts")
}

/// Runs the command against `server` with the credential in `credential`.
pub(crate) async fn run(arguments: &[&str], server: &str, credential: &Path, stdin: &str) -> Ran {
    ran(start(arguments, server, credential), stdin).await
}

async fn ran(mut child: Child, stdin: &str) -> Ran {
    let mut input = child.stdin.take().expect("piped");
    // A command that does not read its input may be gone already.
    drop(input.write_all(stdin.as_bytes()).await);
    drop(input);
    let Output { status, stdout, stderr } = child.wait_with_output().await.expect("it ends");
    Ran {
        code: status.code(),
        stdout: String::from_utf8(stdout).expect("text"),
        stderr: String::from_utf8(stderr).expect("text"),
    }
}

/// A refusal with one diagnostic, as the control plane sends it.
pub(crate) fn refusal(diagnostic: policy::Diagnostic) -> Status {
    let diagnostics = policy::Diagnostics { diagnostics: vec![diagnostic] };
    let details = rpc::Status {
        code: 3,
        message: "1 object was refused; nothing was stored".to_owned(),
        details: vec![prost_types::Any {
            type_url: type_url::DIAGNOSTICS.to_owned(),
            value: diagnostics.encode_to_vec(),
        }],
    };
    Status::with_details(
        tonic::Code::InvalidArgument,
        "1 object was refused; nothing was stored",
        details.encode_to_vec().into(),
    )
}

/// The service `demo/price`, as a file has it.
pub(crate) const SERVICE: &str = "\
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata:
  name: price
  namespace: demo
spec:
  ports:
    - port: 80
";

/// The reference of a route.
pub(crate) fn route(namespace: &str, name: &str) -> policy::ObjectRef {
    policy::ObjectRef {
        kind: policy::Kind::Route.into(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn reference(object: &policy::Object) -> policy::ObjectRef {
    let metadata = object.metadata.clone().unwrap_or_default();
    let kind = match object.spec {
        Some(policy::object::Spec::Service(_)) => policy::Kind::Service,
        Some(policy::object::Spec::Route(_)) => policy::Kind::Route,
        Some(policy::object::Spec::TrafficPolicy(_)) => policy::Kind::TrafficPolicy,
        Some(policy::object::Spec::MeshConfig(_)) => policy::Kind::MeshConfig,
        None => policy::Kind::Unspecified,
    };
    policy::ObjectRef { kind: kind.into(), namespace: metadata.namespace, name: metadata.name }
}

fn done(reference: Option<policy::ObjectRef>, action: policy::item_result::Action) -> policy::ItemResult {
    policy::ItemResult {
        r#ref: reference,
        action: action.into(),
        revision: 7,
        ..policy::ItemResult::default()
    }
}

#[tonic::async_trait]
impl PolicyService for Service {
    async fn apply(&self, request: Request<policy::ApplyRequest>) -> Answer<policy::ApplyResponse> {
        let request = request.into_inner();
        let mut script = self.script();
        script.applied.push(request.clone());
        if script.away > 0 {
            script.away -= 1;
            return Err(Status::unavailable("restarting"));
        }
        if let Some(status) = &script.apply {
            return Err(status.clone());
        }
        let created = policy::item_result::Action::Created;
        let before = |wanted: &policy::Object| {
            script.objects.iter().find(|object| reference(object) == reference(wanted)).cloned()
        };
        let results = request.items.iter().map(|item| {
            let mut result = done(item.object.as_ref().map(reference), created);
            if let Some(wanted) = item.object.as_ref().filter(|_| request.dry_run) {
                result.before = before(wanted);
                result.after = Some(wanted.clone()).filter(|_| result.before.as_ref() != Some(wanted));
                result.before.take_if(|_| result.after.is_none());
            }
            result
        });
        Ok(Response::new(policy::ApplyResponse { revision: 7, results: results.collect() }))
    }

    async fn get(&self, request: Request<policy::GetRequest>) -> Answer<policy::Object> {
        let wanted = request.into_inner().r#ref.unwrap_or_default();
        let script = self.script();
        script
            .objects
            .iter()
            .find(|object| reference(object) == wanted)
            .cloned()
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("there is no {}/{}", wanted.namespace, wanted.name)))
    }

    async fn list(&self, request: Request<policy::ListRequest>) -> Answer<policy::ListResponse> {
        // One object a page: the command must follow the tokens.
        let from: usize = request.into_inner().page_token.parse().unwrap_or_default();
        let script = self.script();
        let next = if from + 1 < script.objects.len() { (from + 1).to_string() } else { String::new() };
        Ok(Response::new(policy::ListResponse {
            objects: script.objects.get(from).cloned().into_iter().collect(),
            revision: 7,
            next_page_token: next,
        }))
    }

    async fn delete(&self, request: Request<policy::DeleteRequest>) -> Answer<policy::DeleteResponse> {
        let request = request.into_inner();
        self.script().deleted.push(request.clone());
        let deleted = policy::item_result::Action::Deleted;
        let results = request.items.into_iter().map(|item| done(item.r#ref, deleted)).collect();
        Ok(Response::new(policy::DeleteResponse { revision: 7, results }))
    }

    async fn rollback(&self, request: Request<policy::RollbackRequest>) -> Answer<policy::RollbackResponse> {
        let request = request.into_inner();
        self.script().rolled_back.push(request);
        let updated = done(Some(route("demo", "price")), policy::item_result::Action::Updated);
        Ok(Response::new(policy::RollbackResponse { revision: 7, results: vec![updated] }))
    }

    async fn history(&self, request: Request<policy::HistoryRequest>) -> Answer<policy::HistoryResponse> {
        // One version a page.
        let before = match request.into_inner().before {
            0 => u64::MAX,
            before => before,
        };
        let script = self.script();
        let mut older = script.versions.iter().filter(|version| version.revision < before);
        let version = older.next().cloned();
        let next = older.next().and(version.as_ref()).map_or(0, |version| version.revision);
        Ok(Response::new(policy::HistoryResponse {
            versions: version.into_iter().collect(),
            oldest: script.oldest,
            next,
        }))
    }

    type WatchStream = stream::Iter<std::vec::IntoIter<Result<policy::WatchEvent, Status>>>;

    async fn watch(&self, request: Request<policy::WatchRequest>) -> Answer<Self::WatchStream> {
        let mut script = self.script();
        script.watched.push(request.into_inner());
        if script.events.is_empty() {
            return Err(Status::failed_precondition("that is all"));
        }
        Ok(Response::new(stream::iter(script.events.remove(0))))
    }

    async fn list_audit(
        &self,
        request: Request<policy::ListAuditRequest>,
    ) -> Answer<policy::ListAuditResponse> {
        // One record a page.
        let from = request.into_inner().from;
        let script = self.script();
        let mut rest = script.records.iter().filter(|record| record.sequence >= from);
        let records = rest.next().cloned().into_iter().collect();
        let next = rest.next().map_or(0, |record| record.sequence);
        Ok(Response::new(policy::ListAuditResponse { records, next }))
    }
}

#[tonic::async_trait]
impl StatusService for Service {
    type WaitConvergedStream = stream::Iter<std::vec::IntoIter<Result<status::Convergence, Status>>>;

    async fn list_proxies(
        &self,
        _: Request<status::ListProxiesRequest>,
    ) -> Answer<status::ListProxiesResponse> {
        Ok(Response::new(status::ListProxiesResponse { proxies: self.script().proxies.clone(), revision: 7 }))
    }

    async fn wait_converged(
        &self,
        _: Request<status::WaitConvergedRequest>,
    ) -> Answer<Self::WaitConvergedStream> {
        let last = self.script().convergence.clone();
        let first = status::Convergence { done: false, ..last.clone() };
        Ok(Response::new(stream::iter(vec![Ok(first), Ok(last)])))
    }

    async fn list_workloads(
        &self,
        _: Request<status::ListWorkloadsRequest>,
    ) -> Answer<status::ListWorkloadsResponse> {
        Err(Status::unimplemented("not asked by these tests"))
    }

    async fn hops(&self, request: Request<status::HopsRequest>) -> Answer<status::HopsResponse> {
        let request = request.into_inner();
        let mut script = self.script();
        script.hops_asked.push(request.clone());
        known(&request.service)?;
        // A cursor is how often it was asked; the one after the third time is lost.
        let cursor = u8::try_from(script.hops_asked.len()).unwrap_or(u8::MAX);
        if request.since == [3] {
            return Err(Status::failed_precondition("the cursor is too old"));
        }
        Ok(Response::new(status::HopsResponse {
            hops: script.hops.clone(),
            cursor: vec![cursor],
            ..status::HopsResponse::default()
        }))
    }

    async fn list_endpoints(
        &self,
        request: Request<status::ListEndpointsRequest>,
    ) -> Answer<status::ListEndpointsResponse> {
        known(&request.into_inner().service)?;
        Ok(Response::new(self.script().endpoints.clone()))
    }
}

#[tonic::async_trait]
impl BackupService for Service {
    type BackupStream = stream::Iter<std::vec::IntoIter<Result<BackupChunk, Status>>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Answer<Self::BackupStream> {
        Ok(Response::new(stream::iter(self.script().backup.clone())))
    }
}

#[tonic::async_trait]
impl TokenService for Service {
    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Answer<CreateTokenResponse> {
        self.script().tokens.push(request.into_inner());
        Ok(Response::new(CreateTokenResponse {
            token: "otr1.id.secret.hash".to_owned(),
            id: "id".to_owned(),
            spiffe_id: "spiffe://outrigger.local/ns/demo/sa/price".to_owned(),
            expires: None,
        }))
    }
}
