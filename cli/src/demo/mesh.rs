//! The demo's mesh: a control plane, and `front`, `cart` and three instances of `price`, each beside its sidecar.

mod member;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::{Method, Request};
use http_body_util::Full;
use outrigger_proto::{identity::v1alpha1::CreateTokenRequest, status::v1alpha1::WorkloadState};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use self::member::Place;
pub(crate) use self::member::{CART, FRONT, MEMBERS, Member, PRICE_V1_A, PRICE_V1_B, PRICE_V2};
use super::{
    app::Fault,
    books::{Books, Sent, Served, parse_log},
    client::Client,
    load::Load,
    process::{Process, Stack, Start},
};
use crate::{
    args::{Format, Global},
    connect::ControlPlane,
    document,
    failure::Failure,
    sibling::sibling,
};

/// The namespace of everything in the demo.
pub(crate) const NAMESPACE: &str = "demo";
/// The process that everything else outlives.
pub(crate) const CONTROL_PLANE: &str = "control-plane";
/// How long one call to the demo's control plane may take.
const CALL: Duration = Duration::from_secs(10);
/// How long the mesh may take until it carries requests.
const SETTLE: Duration = Duration::from_secs(15);

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// As its operator.
    pub(crate) control_plane: ControlPlane,
    /// How an operator reaches it.
    pub(crate) global: Global,
    /// Of the store, when everything that the mesh begins with was in it.
    pub(crate) revision: u64,
    binaries: Binaries,
    listening: Listening,
    places: HashMap<&'static str, Place>,
    /// SPIFFE IDs, by service account.
    identities: HashMap<&'static str, String>,
    directory: PathBuf,
}

#[derive(Debug)]
struct Binaries {
    control_plane: PathBuf,
    proxy: PathBuf,
}

/// What a control plane writes about itself, and where a later one listens again.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Listening {
    policy: SocketAddr,
    discovery: SocketAddr,
    health: SocketAddr,
}

/// Starts everything; [`Mesh::settle`] says when it carries requests.
pub(crate) async fn start(stack: &mut Stack) -> Result<Mesh, Failure> {
    let binaries = Binaries {
        control_plane: sibling("outrigger-control-plane").await?,
        proxy: sibling("outrigger-proxy").await?,
    };
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let anywhere = Listening { policy: anywhere, discovery: anywhere, health: anywhere };
    let listening = start_control_plane(stack, &binaries, anywhere).await?;
    let global = Global {
        server: listening.policy.to_string(),
        credential: Some(stack.directory().join(CONTROL_PLANE).join("admin")),
        format: Format::Table,
        call_timeout: CALL,
    };
    let control_plane = ControlPlane::new(&global)?;
    let documents = documents("mesh.yaml", include_str!("mesh.yaml"))?;
    let revision = control_plane.apply(&documents, false).await?.revision;
    let mut mesh = Mesh {
        control_plane,
        global,
        revision,
        binaries,
        listening,
        places: HashMap::new(),
        identities: HashMap::new(),
        directory: stack.directory().to_owned(),
    };
    for member in MEMBERS {
        mesh.join(stack, member).await?;
    }
    Ok(mesh)
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
    listen: Listening,
) -> Result<Listening, Failure> {
    let state = stack.directory().join(CONTROL_PLANE);
    member::forget(&state)?;
    let process = stack.start(Start {
        name: CONTROL_PLANE,
        program: &binaries.control_plane,
        arguments: Vec::new(),
        environment: vec![
            ("OUTRIGGER_STATE_DIR", state.clone().into()),
            ("OUTRIGGER_POLICY__LISTEN", listen.policy.to_string().into()),
            ("OUTRIGGER_DISCOVERY__LISTEN", listen.discovery.to_string().into()),
            ("OUTRIGGER_HEALTH__LISTEN", listen.health.to_string().into()),
            // Everything is on this machine.
            ("OUTRIGGER_REGISTRY__ALLOW_LOOPBACK", "true".into()),
        ],
        announces: false,
    })?;
    let listening: Listening = process.addresses(&state).await?;
    ready(&process, listening.health).await?;
    stack.keep(process);
    Ok(listening)
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
    /// Starts a workload that joins with a token made for it.
    async fn join(&mut self, stack: &mut Stack, member: &'static Member) -> Result<(), Failure> {
        let token = self
            .control_plane
            .create_token(CreateTokenRequest {
                namespace: NAMESPACE.to_owned(),
                service_account: member.account.to_owned(),
                ttl: None,
                labels: member.labels().into_iter().collect(),
            })
            .await?;
        member.invite(stack.directory(), &token.token)?;
        self.identities.insert(member.account, token.spiffe_id);
        self.start(stack, member).await
    }

    /// Starts a workload, application and sidecar, anew or again.
    pub(crate) async fn start(&mut self, stack: &mut Stack, member: &'static Member) -> Result<(), Failure> {
        let place = member.start(stack, &self.binaries, self.listening.discovery).await?;
        self.places.insert(member.name, place);
        Ok(())
    }

    /// Starts the sidecar of `price` again, beside its application, which runs, and where its peers know it.
    pub(crate) async fn start_sidecar(&self, stack: &mut Stack, member: &Member) -> Result<(), Failure> {
        let place = self.place(member)?;
        member.start_again(stack, &self.binaries, self.listening.discovery, place).await
    }

    /// Starts the control plane again, where it was and with the state that it had.
    pub(crate) async fn start_control_plane(&self, stack: &mut Stack) -> Result<(), Failure> {
        start_control_plane(stack, &self.binaries, self.listening).await.map(drop)
    }

    /// Goes on with the credential as it is now: a new root has a new one.
    pub(crate) fn reconnect(&mut self) -> Result<(), Failure> {
        self.control_plane = ControlPlane::new(&self.global)?;
        Ok(())
    }

    /// Waits until every workload is in the registry and `front` gets an answer; how many requests that took.
    pub(crate) async fn settle(&self, load: &Load) -> Result<(Vec<WorkloadState>, u64), Failure> {
        let deadline = Instant::now() + SETTLE;
        let mut attempts = 0;
        let mut last = String::new();
        while Instant::now() < deadline {
            let workloads = self.control_plane.workloads(NAMESPACE).await?;
            let known = workloads
                .iter()
                .filter(|workload| workload.connected && !workload.services.is_empty())
                .count();
            if known < MEMBERS.len() {
                last = format!("{known} of {} workloads are registered", MEMBERS.len());
            } else {
                attempts += 1;
                match load.one(None, &Method::GET).await {
                    Ok(_instance) => return Ok((workloads, attempts)),
                    Err(error) => last = error,
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(Failure::refused(format!("front gets no answer through the mesh: {last}"), ""))
    }

    /// Where an application, and its sidecar, listen.
    pub(crate) fn place(&self, member: &Member) -> Result<Place, Failure> {
        let found = self.places.get(member.name).copied();
        found.ok_or_else(|| Failure::refused(format!("{} was never started", member.name), ""))
    }

    /// The SPIFFE ID of a workload.
    pub(crate) fn identity(&self, member: &Member) -> &str {
        self.identities.get(member.account).map_or("", String::as_str)
    }

    /// Makes an instance of `price` ill, or well again.
    pub(crate) async fn inflict(
        &self,
        stack: &mut Stack,
        member: &Member,
        fault: Fault,
    ) -> Result<(), Failure> {
        stack.process(member.name)?.tell(&fault.to_string()).await
    }

    /// The books of a phase.
    pub(crate) fn books(&self, sent: Vec<Sent>) -> Result<Books, Failure> {
        let mut price = Vec::new();
        for member in [&PRICE_V1_A, &PRICE_V1_B, &PRICE_V2] {
            price.extend(self.served(member)?);
        }
        Ok(Books::new(sent, price, self.served(&CART)?))
    }

    /// What an application has logged since the demo began.
    pub(crate) fn served(&self, member: &Member) -> Result<Vec<Served>, Failure> {
        let path = member.requests(&self.directory);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::io(format!("cannot read {}", path.display()), error))?;
        parse_log(&text, member.name).map_err(|what| Failure::refused(what, ""))
    }
}
