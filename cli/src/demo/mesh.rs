//! Brings the demo's mesh up: a control plane, and `front` and two versions of `price`, each beside its sidecar.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Method, Request};
use http_body_util::Full;
use outrigger_proto::{identity::v1alpha1::CreateTokenRequest, status::v1alpha1::WorkloadState};
use serde::Deserialize;

use super::{
    client::Client,
    load::Load,
    process::{Process, Stack, Start},
};
use crate::{
    args::{Format, Global},
    command::token,
    connect::ControlPlane,
    document,
    failure::Failure,
    sibling::sibling,
};

/// The namespace of everything in the demo.
pub(crate) const NAMESPACE: &str = "demo";
/// How long one call to the demo's control plane may take.
const CALL: Duration = Duration::from_secs(10);
/// One in so many answers of v2 is slow.
const SLOW_EVERY: &str = "50";

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// As its operator.
    pub(crate) control_plane: ControlPlane,
    /// How an operator reaches it.
    pub(crate) global: Global,
    /// The application that the load goes to.
    pub(crate) front: SocketAddr,
    /// SPIFFE ID of `front`.
    pub(crate) front_id: String,
    /// The port of a `price` sidecar that the mesh reaches.
    pub(crate) price_inbound: SocketAddr,
    /// Where each version of `price` logs.
    pub(crate) logs: [(&'static str, PathBuf); 2],
}

struct Binaries {
    control_plane: PathBuf,
    proxy: PathBuf,
}

/// A workload: its application and its sidecar.
struct Member {
    name: &'static str,
    sidecar: &'static str,
    account: &'static str,
    version: Option<&'static str>,
    slow_every: &'static str,
}

const FRONT: Member =
    Member { name: "front", sidecar: "front-sidecar", account: "front", version: None, slow_every: "0" };
const PRICE_V1: Member = Member {
    name: "price-v1",
    sidecar: "price-v1-sidecar",
    account: "price",
    version: Some("v1"),
    slow_every: "0",
};
const PRICE_V2: Member = Member {
    name: "price-v2",
    sidecar: "price-v2-sidecar",
    account: "price",
    version: Some("v2"),
    slow_every: SLOW_EVERY,
};

/// What a control plane writes about itself.
#[derive(Deserialize)]
struct ControlPlaneAddresses {
    policy: SocketAddr,
    discovery: SocketAddr,
    health: SocketAddr,
}

/// What a proxy writes about itself.
#[derive(Deserialize)]
struct ProxyAddresses {
    outbound: SocketAddr,
    inbound: [SocketAddr; 1],
    health: SocketAddr,
}

/// Where a workload listens, and who it is.
struct Joined {
    application: SocketAddr,
    inbound: SocketAddr,
    id: String,
}

/// Starts everything and returns when `front` gets answers through the mesh.
pub(crate) async fn start(stack: &mut Stack) -> Result<Mesh, Failure> {
    let binaries = Binaries {
        control_plane: sibling("outrigger-control-plane").await?,
        proxy: sibling("outrigger-proxy").await?,
    };
    let (global, discovery) = start_control_plane(stack, &binaries).await?;
    let control_plane = ControlPlane::new(&global)?;
    let documents = documents("mesh.yaml", include_str!("mesh.yaml"))?;
    control_plane.apply(&documents, false).await?;
    let price_v1 = join(stack, &binaries, &control_plane, discovery, &PRICE_V1).await?;
    join(stack, &binaries, &control_plane, discovery, &PRICE_V2).await?;
    let front = join(stack, &binaries, &control_plane, discovery, &FRONT).await?;
    Ok(Mesh {
        control_plane,
        global,
        front: front.application,
        front_id: front.id,
        price_inbound: price_v1.inbound,
        logs: [("v1", log(stack, &PRICE_V1)), ("v2", log(stack, &PRICE_V2))],
    })
}

/// Parses a document of the demo, as `apply` would.
pub(crate) fn documents(name: &str, text: &str) -> Result<Vec<document::Sourced>, Failure> {
    document::parse(name, text).map_err(|defects| Failure::Refused {
        what: format!("the demo's own {name} has defects"),
        remedy: String::new(),
        defects,
    })
}

async fn start_control_plane(
    stack: &mut Stack,
    binaries: &Binaries,
) -> Result<(Global, SocketAddr), Failure> {
    let state = stack.directory().join("control-plane");
    let process = stack.start(Start {
        name: "control-plane",
        program: &binaries.control_plane,
        arguments: Vec::new(),
        environment: vec![
            ("OUTRIGGER_STATE_DIR", state.clone().into()),
            ("OUTRIGGER_POLICY__LISTEN", "127.0.0.1:0".into()),
            ("OUTRIGGER_DISCOVERY__LISTEN", "127.0.0.1:0".into()),
            ("OUTRIGGER_HEALTH__LISTEN", "127.0.0.1:0".into()),
            // Everything is on this machine.
            ("OUTRIGGER_REGISTRY__ALLOW_LOOPBACK", "true".into()),
        ],
        announces: false,
    })?;
    let addresses: ControlPlaneAddresses = process.addresses(&state).await?;
    ready(&process, addresses.health).await?;
    stack.keep(process);
    let global = Global {
        server: addresses.policy.to_string(),
        credential: Some(state.join("admin")),
        format: Format::Table,
        call_timeout: CALL,
    };
    Ok((global, addresses.discovery))
}

/// Starts an application and its sidecar, which joins with a token made for it.
async fn join(
    stack: &mut Stack,
    binaries: &Binaries,
    control_plane: &ControlPlane,
    discovery: SocketAddr,
    member: &Member,
) -> Result<Joined, Failure> {
    let labels = member.version.map(|version| ("version".to_owned(), version.to_owned()));
    let token = control_plane
        .create_token(CreateTokenRequest {
            namespace: NAMESPACE.to_owned(),
            service_account: member.account.to_owned(),
            ttl: None,
            labels: labels.into_iter().collect(),
        })
        .await?;
    let mut application = start_application(stack, member)?;
    let listening = application.announced().await?;
    let sidecar = start_sidecar(stack, binaries, discovery, member, listening, &token.token)?;
    let addresses: ProxyAddresses = sidecar.addresses(&stack.directory().join(member.sidecar)).await?;
    ready(&sidecar, addresses.health).await?;
    if member.version.is_none() {
        application.tell(&addresses.outbound.to_string()).await?;
    }
    let [inbound] = addresses.inbound;
    // Stopped the other way round: a sidecar drains while its application still answers.
    stack.keep(application);
    stack.keep(sidecar);
    Ok(Joined { application: listening, inbound, id: token.spiffe_id })
}

fn start_application(stack: &Stack, member: &Member) -> Result<Process, Failure> {
    let own = stack.own();
    let words: Vec<OsString> = match member.version {
        None => vec!["demo-app".into(), "front".into()],
        Some(version) => vec![
            "demo-app".into(),
            "price".into(),
            "--version".into(),
            version.into(),
            "--slow-every".into(),
            member.slow_every.into(),
            "--log".into(),
            log(stack, member).into(),
        ],
    };
    stack.start(Start {
        name: member.name,
        program: &own,
        arguments: words,
        environment: Vec::new(),
        announces: true,
    })
}

fn start_sidecar(
    stack: &Stack,
    binaries: &Binaries,
    discovery: SocketAddr,
    member: &Member,
    application: SocketAddr,
    token: &str,
) -> Result<Process, Failure> {
    let state = stack.directory().join(member.sidecar);
    let token_file = stack.directory().join(format!("{}.token", member.name));
    token::write(&token_file, token)?;
    stack.start(Start {
        name: member.sidecar,
        program: &binaries.proxy,
        arguments: vec![
            "--inbound".into(),
            format!("127.0.0.1:0={application},name=http,protocol=http1").into(),
        ],
        environment: vec![
            ("OUTRIGGER_CONTROL_PLANE__ADDRESS", discovery.to_string().into()),
            ("OUTRIGGER_JOIN__TOKEN_FILE", token_file.into()),
            ("OUTRIGGER_STATE_DIR", state.into()),
            ("OUTRIGGER_OUTBOUND__LISTEN", "127.0.0.1:0".into()),
            ("OUTRIGGER_HEALTH__LISTEN", "127.0.0.1:0".into()),
            ("OUTRIGGER_INSTANCE", member.name.into()),
            // Nobody is left to be told when the demo stops.
            ("OUTRIGGER_DRAIN__WITHDRAWAL", "100ms".into()),
            // The live table may run for days.
            ("OUTRIGGER_LOG__ACCESS", "false".into()),
        ],
        announces: false,
    })
}

/// Where a version of `price` logs its requests.
fn log(stack: &Stack, member: &Member) -> PathBuf {
    stack.directory().join(format!("{}.requests", member.name))
}

/// Waits until a binary of ours says that it serves.
async fn ready(process: &Process, health: SocketAddr) -> Result<(), Failure> {
    let client = Client::new(health, CALL);
    process
        .until("did not become ready", async || {
            let mut request = Request::new(Full::default());
            *request.uri_mut() = http::Uri::from_static("/ready");
            request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
            let answer = client.send(request).await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await
}

impl Mesh {
    /// Waits until every workload is in the registry and `front` gets an answer; how many requests that took.
    pub(crate) async fn settle(&self, load: &Load) -> Result<(Vec<WorkloadState>, u64), Failure> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        let mut attempts = 0;
        let mut last = String::new();
        while tokio::time::Instant::now() < deadline {
            let workloads = self.control_plane.workloads(NAMESPACE).await?;
            let known = workloads
                .iter()
                .filter(|workload| workload.connected && !workload.services.is_empty())
                .count();
            if known < 3 {
                last = format!("{known} of 3 workloads are registered");
            } else {
                attempts += 1;
                match load.one(None, &Method::GET).await {
                    Ok(_version) => return Ok((workloads, attempts)),
                    Err(error) => last = error,
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Failure::refused(format!("front gets no answer through the mesh: {last}"), ""))
    }

    /// The log of both versions of `price`.
    pub(crate) fn served(&self) -> Result<Vec<super::account::Served>, Failure> {
        let mut all = Vec::new();
        for (version, path) in &self.logs {
            all.extend(read_log(path, version)?);
        }
        Ok(all)
    }
}

fn read_log(path: &Path, version: &'static str) -> Result<Vec<super::account::Served>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::io(format!("cannot read {}", path.display()), error))?;
    super::account::parse_log(&text, version).map_err(|what| Failure::refused(what, ""))
}
