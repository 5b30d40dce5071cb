//! The registry's gRPC: a stream is a lease.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use outrigger_core::model::{Health, ServiceName, SpiffeId};
use outrigger_proto::{
    mesh::v1alpha1 as mesh,
    registry::v1alpha1::{
        SessionRequest, SessionResponse,
        registry_service_server::RegistryService,
        session_request::Kind,
        session_response::{Missed, Reason},
    },
};
use outrigger_tls::grpc::Peer;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    AddressRules, Claim, InvalidClaim, Limits, Refusal, Registration, Registry, Session, SessionError,
    writer::Answer,
};
use crate::{
    access::Caller,
    api::{
        guard::call_of,
        refusals::{Call, Refusals},
    },
    authority::labels,
    compile::Miss,
};

/// How long a stream may be open without a registration.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// How long a withdrawn workload is kept waiting for its clients to hear of it.
const PROPAGATION: Duration = Duration::from_secs(5);
/// A call that the client gave up reads like its good-bye, except that the answers' way is closed with it, a moment
/// later.
const GIVEN_UP: Duration = Duration::from_millis(100);
/// Answers that may wait for a slow client; then it has to read before it is heard again.
const ANSWERS: usize = 4;
/// Services that are told to a workload which backs none of them.
const MISSED: usize = 8;

/// What the registry asks of the mesh around it.
pub trait Mesh: Send + Sync + 'static {
    /// The services that a registration backs now.
    fn services(&self, registration: &Registration) -> Vec<ServiceName>;

    /// Those that name its service account and that it does not back all the same, at most so many.
    fn missed(&self, registration: &Registration, most: usize) -> Vec<(ServiceName, Miss)>;

    /// Returns when every connected proxy runs on `revision` or a later one.
    fn propagated(&self, revision: u64) -> impl Future<Output = ()> + Send;
}

/// What the registry service is made with.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// Leases.
    pub limits: Limits,
    /// Which addresses may be registered.
    pub addresses: AddressRules,
    /// Open streams; one more is refused.
    pub streams: usize,
    /// Ends every stream, which withdraws nothing.
    pub stop: CancellationToken,
}

/// See the module.
#[derive(Debug)]
pub struct Service<M> {
    inner: Arc<Inner<M>>,
    streams: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner<M> {
    registry: Registry,
    mesh: M,
    refusals: Refusals,
    settings: ServiceSettings,
}

impl<M: Mesh> Service<M> {
    /// Serves `registry`; who is refused is told to `refusals`.
    pub fn new(registry: Registry, mesh: M, refusals: Refusals, settings: ServiceSettings) -> Self {
        let streams = Arc::new(Semaphore::new(settings.streams));
        Self { inner: Arc::new(Inner { registry, mesh, refusals, settings }), streams }
    }
}

#[tonic::async_trait]
impl<M: Mesh> RegistryService for Service<M> {
    type SessionStream = ReceiverStream<Result<SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let call = call_of(&request)?;
        let Caller::Workload(identity) = call.caller.clone() else {
            return Err(Status::permission_denied("only workloads register"));
        };
        let labels = request.extensions().get::<Peer>().map_or_else(BTreeMap::new, labels::of);
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_none_left| Status::resource_exhausted("too many registry sessions"))?;
        let (answers, stream) = mpsc::channel(ANSWERS);
        let serve = Serve {
            session: self.inner.registry.session(),
            inner: Arc::clone(&self.inner),
            identity,
            labels,
            call,
            answers,
            _permit: permit,
        };
        tokio::spawn(serve.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One stream.
struct Serve<M> {
    inner: Arc<Inner<M>>,
    session: Session,
    identity: SpiffeId,
    labels: BTreeMap<String, String>,
    call: Call,
    answers: mpsc::Sender<Result<SessionResponse, Status>>,
    _permit: OwnedSemaphorePermit,
}

impl<M: Mesh> Serve<M> {
    async fn run(self, mut requests: Streaming<SessionRequest>) {
        let mut next = tokio::select! {
            first = timeout(FIRST_MESSAGE, requests.message()) => {
                first.unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no registration came")))
            }
            () = self.inner.settings.stop.cancelled() => Err(Status::unavailable("the control plane stops")),
        };
        loop {
            match next {
                Ok(Some(request)) => match self.answer(request).await {
                    Ok(answer) => {
                        if self.answers.send(Ok(answer)).await.is_err() {
                            return;
                        }
                    }
                    Err(status) => return self.end(status).await,
                },
                Ok(None) => return self.good_bye().await,
                // The stream broke: nobody is there to be told.
                Err(status) => {
                    tracing::debug!(workload.identity = %self.identity, %status, "registry session broke");
                    return;
                }
            }
            next = tokio::select! {
                message = requests.message() => message,
                () = self.session.ended() => {
                    return self.end(Status::aborted("taken over by a newer process, or its lease ran out")).await;
                }
                () = self.answers.closed() => return,
                () = self.inner.settings.stop.cancelled() => {
                    return self.end(Status::unavailable("the control plane stops")).await;
                }
            };
        }
    }

    async fn answer(&self, request: SessionRequest) -> Result<SessionResponse, Status> {
        let answer = match request.kind {
            Some(Kind::Register(workload)) => {
                let claim = match Claim::new(&self.identity, &workload, self.inner.settings.addresses) {
                    Ok(claim) => claim,
                    Err(invalid) => {
                        let text = invalid.to_string();
                        self.inner.refusals.note(&self.call, invalid.reason(), &text).await;
                        return Err(invalid_status(&invalid));
                    }
                };
                self.session.register(claim, self.labels.clone(), self.call.peer.clone()).await
            }
            Some(Kind::Health(health)) => self.session.health(health_of(health)?).await,
            Some(Kind::Heartbeat(_)) => self.session.heartbeat().await,
            None => return Err(Status::invalid_argument("an empty or unknown request")),
        };
        if let Err(SessionError::Refused(refusal)) = &answer {
            self.inner.refusals.note(&self.call, refusal.reason(), &refusal.to_string()).await;
        }
        answer.map(|answer| self.response(&answer)).map_err(|error| error_status(&error))
    }

    fn response(&self, answer: &Answer) -> SessionResponse {
        let limits = self.inner.settings.limits;
        let registration = answer.member.as_ref().map(|member| &member.registration);
        let services = registration.map_or_else(Vec::new, |registration| {
            self.inner.mesh.services(registration).iter().map(ToString::to_string).collect()
        });
        let missed = match registration {
            Some(registration) if services.is_empty() => self.inner.mesh.missed(registration, MISSED),
            _ => Vec::new(),
        };
        SessionResponse {
            lease_ttl: prost_types::Duration::try_from(limits.lease).ok(),
            // Two may be lost.
            heartbeat_interval: prost_types::Duration::try_from(limits.lease / 3).ok(),
            revision: answer.revision,
            services,
            missed: missed.iter().map(|(service, miss)| to_wire(service, *miss)).collect(),
        }
    }

    /// A half-close: withdraws the workload, and ends the stream when its clients have heard of it.
    async fn good_bye(self) {
        if timeout(GIVEN_UP, self.answers.closed()).await.is_ok() {
            return;
        }
        match self.session.withdraw(self.call.peer.clone()).await {
            Ok(answer) => {
                if self.answers.send(Ok(self.response(&answer))).await.is_err() {
                    return;
                }
                tokio::select! {
                    _heard_or_not = timeout(PROPAGATION, self.inner.mesh.propagated(answer.revision)) => {}
                    () = self.answers.closed() => {}
                }
            }
            // It never registered, or lost its workload: nothing to withdraw.
            Err(SessionError::Over(_)) => {}
            Err(error) => self.end(error_status(&error)).await,
        }
    }

    async fn end(&self, status: Status) {
        tracing::info!(workload.identity = %self.identity, code = ?status.code(), reason = status.message(),
            "registry session ended");
        let _gone = self.answers.send(Err(status)).await.is_err();
    }
}

fn to_wire(service: &ServiceName, miss: Miss) -> Missed {
    let reason = match miss {
        Miss::Labels => Reason::Labels,
        Miss::Ports => Reason::Ports,
    };
    Missed { service: service.to_string(), reason: reason.into() }
}

fn health_of(value: i32) -> Result<Health, Status> {
    match mesh::Health::try_from(value) {
        Ok(mesh::Health::Healthy) => Ok(Health::Healthy),
        Ok(mesh::Health::Draining) => Ok(Health::Draining),
        Ok(mesh::Health::Unhealthy) => Ok(Health::Unhealthy),
        Ok(mesh::Health::Unspecified) | Err(_) => {
            Err(Status::invalid_argument(format!("health: {value} is not a health")))
        }
    }
}

fn invalid_status(invalid: &InvalidClaim) -> Status {
    match invalid {
        InvalidClaim::NotAWorkload(_) | InvalidClaim::Foreign { .. } => {
            Status::permission_denied(invalid.to_string())
        }
        InvalidClaim::Field(_) => Status::invalid_argument(invalid.to_string()),
    }
}

fn error_status(error: &SessionError) -> Status {
    let text = error.to_string();
    match error {
        SessionError::Refused(Refusal::IdOwned(_) | Refusal::AddressOwned(_)) => {
            Status::permission_denied(text)
        }
        SessionError::Refused(Refusal::StaleEpoch { .. }) => Status::failed_precondition(text),
        SessionError::Refused(Refusal::AddressInUse { .. }) => Status::already_exists(text),
        SessionError::Refused(Refusal::OtherWorkload(_)) => Status::invalid_argument(text),
        SessionError::Refused(Refusal::Full(_) | Refusal::TooOften) => Status::resource_exhausted(text),
        SessionError::Over(_) => Status::aborted(text),
        SessionError::Commit(_) | SessionError::Busy => Status::unavailable(text),
    }
}
