//! The registry session: while it is open, this workload is where its peers find it.
//!
//! A broken session is opened again, with the same id and epoch, within the lease that the control plane keeps; a
//! half-closed one withdraws the workload, so that its peers stop choosing it before it stops answering.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use outrigger_core::model::{AppProtocol, Name};
use outrigger_proto::{
    mesh::v1alpha1 as mesh,
    registry::v1alpha1::{
        SessionRequest, SessionResponse, Workload, WorkloadPort,
        registry_service_client::RegistryServiceClient,
        session_request,
        session_response::{Missed, Reason},
    },
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

use crate::reconnect::{Session, StreamError, answer, keep};

/// Bounds on the heartbeat interval that the control plane asks for.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Unless it asks for one.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);

/// One port of the workload, as its peers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name for a service's `targetPort`.
    pub name: Option<Name>,
    /// The application's own port.
    pub application_port: u16,
    /// What is spoken there.
    pub protocol: AppProtocol,
    /// Where peers dial.
    pub address: SocketAddr,
}

/// What is registered: nothing about identity, which the control plane takes from the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Name of this instance.
    pub instance: Name,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Of this run of the process; a later run has a higher one, and takes over.
    pub epoch: u64,
}

impl From<&Registration> for Workload {
    fn from(registration: &Registration) -> Self {
        Self {
            id: registration.instance.to_string(),
            ports: registration.ports.iter().map(WorkloadPort::from).collect(),
            epoch: registration.epoch,
            ..Self::default()
        }
    }
}

impl From<&Port> for WorkloadPort {
    fn from(port: &Port) -> Self {
        let address = match port.address.ip() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Self {
            name: port.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            application_port: u32::from(port.application_port),
            protocol: mesh::AppProtocol::from(port.protocol).into(),
            address,
            port: u32::from(port.address.port()),
        }
    }
}

/// The registration, kept up.
#[derive(Debug)]
pub struct Running {
    withdraw: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Withdraws the workload: returns when the control plane has confirmed it, at once if there was no session, and
    /// after `limit` at the latest.
    pub async fn withdraw(mut self, limit: Duration) {
        self.withdraw.cancel();
        if timeout(limit, &mut self.task).await.is_err() {
            tracing::warn!("the control plane did not confirm the withdrawal in time");
            self.task.abort();
        }
    }
}

/// Registers on the current runtime and keeps it up until withdrawn.
pub fn start(channel: Channel, registration: &Registration) -> Running {
    let withdraw = CancellationToken::new();
    let mut lease = Lease { channel, workload: Workload::from(registration), open: None, backs: None };
    let stop = withdraw.clone();
    let task = tokio::spawn(async move {
        keep(&mut lease, &stop).await;
        lease.half_close().await;
    });
    Running { withdraw, task }
}

/// An open session.
#[derive(Debug)]
struct Open {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
}

#[derive(Debug)]
struct Lease {
    channel: Channel,
    workload: Workload,
    open: Option<Open>,
    /// What it was last told of the services that it backs.
    backs: Option<Backs>,
}

impl Session for Lease {
    const WHAT: &'static str = "registration";

    async fn run(&mut self) -> Result<Infallible, StreamError> {
        let ended = self.session().await;
        self.open = None;
        ended
    }
}

impl Lease {
    async fn session(&mut self) -> Result<Infallible, StreamError> {
        // One request is under way at a time: each is answered before the next.
        let (requests, outgoing) = mpsc::channel(1);
        let register = session_request::Kind::Register(self.workload.clone());
        if requests.try_send(SessionRequest { kind: Some(register) }).is_err() {
            return Err(StreamError::Ended);
        }
        let mut registry = RegistryServiceClient::new(self.channel.clone());
        let responses = answer(registry.session(ReceiverStream::new(outgoing))).await?.into_inner();
        let open = self.open.insert(Open { requests, responses });
        let mut response = answer(open.responses.message()).await?.ok_or(StreamError::Ended)?;
        tracing::info!(id = self.workload.id, "registered");
        loop {
            let backs = Backs { services: response.services.clone(), missed: response.missed.clone() };
            if self.backs.as_ref() != Some(&backs) {
                backs.log(&self.workload.ports);
                self.backs = Some(backs);
            }
            let Some(open) = &mut self.open else { return Err(StreamError::Ended) };
            tokio::select! {
                () = sleep(heartbeat(&response)) => {}
                // Nothing was asked: only the end of the stream can come.
                unasked = open.responses.message() => {
                    unasked?.ok_or(StreamError::Ended)?;
                    continue;
                }
            }
            let beat = session_request::Kind::Heartbeat(session_request::Heartbeat {});
            if open.requests.send(SessionRequest { kind: Some(beat) }).await.is_err() {
                return Err(StreamError::Ended);
            }
            response = answer(open.responses.message()).await?.ok_or(StreamError::Ended)?;
        }
    }

    /// Ends the requests and waits for the control plane to end the responses: then the withdrawal is done.
    async fn half_close(&mut self) {
        let Some(Open { requests, mut responses }) = self.open.take() else { return };
        drop(requests);
        while let Ok(Some(_)) = responses.message().await {}
        tracing::info!(id = self.workload.id, "withdrawn");
    }
}

fn heartbeat(response: &SessionResponse) -> Duration {
    let asked = response.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok());
    asked.unwrap_or(DEFAULT_HEARTBEAT).clamp(HEARTBEAT.0, HEARTBEAT.1)
}

/// Which services this workload backs; if none, those that name its account and are not backed by it.
#[derive(Debug, PartialEq, Eq)]
struct Backs {
    services: Vec<String>,
    missed: Vec<Missed>,
}

impl Backs {
    fn log(&self, ports: &[WorkloadPort]) {
        if !self.services.is_empty() {
            tracing::info!(services = self.services.join(" "), "this workload backs services");
        } else if self.missed.is_empty() {
            tracing::warn!(
                "no service grants this workload membership: name its service account in a Service's serviceAccounts"
            );
        }
        for missed in &self.missed {
            tracing::warn!(service = missed.service, "{}", obstacle(missed.reason(), ports));
        }
    }
}

/// Why a service that names this workload's account is not backed by it, and what to do.
fn obstacle(reason: Reason, ports: &[WorkloadPort]) -> String {
    let begin = "the service grants this workload's account membership, but";
    match reason {
        Reason::Ports => {
            let pair = |port: &WorkloadPort| match port.name.as_str() {
                "" => port.application_port.to_string(),
                name => format!("{} (name {name})", port.application_port),
            };
            let pairs: Vec<_> = ports.iter().map(pair).collect();
            format!(
                "{begin} no port of it matches an inbound pair, of which the applications' ports are {}: give a port \
                 of the service one of these as targetPort, by number or name, or the pair's name as its own",
                pairs.join(", ")
            )
        }
        Reason::Labels => format!(
            "{begin} its selector wants other labels than those of this workload's join token: change the selector, \
             or join with a token that has them (outrigger token create --label)"
        ),
        Reason::Unspecified => format!("{begin} the workload does not match it"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Reason, WorkloadPort, obstacle};

    #[test]
    fn a_workload_that_is_granted_and_does_not_match_is_told_why() {
        let port = |name: &str, application_port| WorkloadPort {
            name: name.to_owned(),
            application_port,
            ..WorkloadPort::default()
        };
        let told = obstacle(Reason::Ports, &[port("http", 8080), port("", 9090)]);
        assert!(told.contains("no port of it matches an inbound pair"), "{told}");
        assert!(told.contains("8080 (name http), 9090: give a port of the service one"), "{told}");
        let told = obstacle(Reason::Labels, &[]);
        assert!(told.contains("its selector wants other labels"), "{told}");
    }
}
