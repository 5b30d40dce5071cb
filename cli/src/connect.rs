//! The way to the control plane: mutual TLS with the operator's credential, and every call that the commands make.

mod authority;
mod past;
mod write;

pub(crate) use authority::{Force, Step};

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, SystemTime},
};

use outrigger_core::model;
use outrigger_proto::{
    identity::v1alpha1 as identity, policy::v1alpha1 as policy, status::v1alpha1 as status,
};
use outrigger_tls::{
    credential::{self, CredentialError},
    grpc,
};
use tonic::transport::Channel;

pub(crate) use self::write::{Applying, RollingBack, Written};
use crate::{args::Global, failure::Failure, view};

/// Added to a server-side wait before the call itself is given up.
const WAIT_MARGIN: Duration = Duration::from_secs(5);
/// Longest answer, bytes: a dry run shows every object that it would change.
const MAX_ANSWER: usize = 256 << 20;
/// For a credential that is not whole.
const ANEW: &str = "copy the credential anew from the control plane's state directory; what is damaged or missing there the \
                    control plane makes anew when it is restarted";
/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Pages after which a list is called endless.
const MAX_PAGES: usize = 10_000;

/// A call under way; boxed, since tonic's futures are large.
type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, tonic::Status>> + 'a>>;

/// A control plane, as an operator sees it.
#[derive(Debug, Clone)]
pub(crate) struct ControlPlane {
    server: String,
    channel: Channel,
    call_timeout: Duration,
}

impl ControlPlane {
    /// Loads the credential and prepares the channel; the first call connects.
    ///
    /// # Errors
    /// [`Failure::Denied`] without a usable credential, [`Failure::Usage`] when the address makes no sense.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let directory = match &global.credential {
            Some(directory) => directory.clone(),
            None => default_credential()?,
        };
        let credential = credential::load(&directory)
            .map_err(|error| Failure::Denied { what: wrong(&error), remedy: remedy(&error).to_owned() })?;
        if credential.svid.not_after() <= SystemTime::now() {
            return Err(Failure::Denied {
                what: format!("the credential in {} has expired", directory.display()),
                remedy: "restart the control plane: it renews the admin's credential in its state directory"
                    .to_owned(),
            });
        }
        let identity = credential.into_identity();
        let trust = grpc::ServerTrust::Bundle(identity.clone());
        let channel = grpc::channel_lazy(&global.server, trust, Some(&identity))
            .map_err(|error| Failure::Usage(format!("--server: {}", chain(&error))))?;
        Ok(Self { server: global.server.clone(), channel, call_timeout: global.call_timeout })
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        self.request_within(message, self.call_timeout)
    }

    #[expect(clippy::unused_self, reason = "reads like `request`")]
    fn request_within<T>(&self, message: T, timeout: Duration) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(timeout);
        request
    }

    fn failed(&self, status: &tonic::Status) -> Failure {
        Failure::answered(&self.server, status, |_| None)
    }

    /// Runs `call`, and gives up on it a little after its own timeout: a peer that accepts and then says nothing.
    async fn bounded<T>(&self, timeout: Duration, call: Call<'_, T>) -> Result<T, tonic::Status> {
        tokio::time::timeout(timeout + Duration::from_secs(1), call)
            .await
            .unwrap_or_else(|_elapsed| Err(tonic::Status::deadline_exceeded("no answer in time")))
    }

    async fn call<T>(&self, call: Call<'_, tonic::Response<T>>) -> Result<T, Failure> {
        self.bounded(self.call_timeout, call)
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failed(&status))
    }

    fn policy(&self) -> policy::policy_service_client::PolicyServiceClient<Channel> {
        policy::policy_service_client::PolicyServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER)
    }

    fn status(&self) -> status::status_service_client::StatusServiceClient<Channel> {
        status::status_service_client::StatusServiceClient::new(self.channel.clone())
    }

    /// One object.
    pub(crate) async fn get(&self, reference: policy::ObjectRef) -> Result<policy::Object, Failure> {
        let message = policy::GetRequest { r#ref: Some(reference) };
        let mut client = self.policy();
        self.call(Box::pin(client.get(self.request(message)))).await
    }

    /// All objects of a kind, in all namespaces when `namespace` is empty.
    pub(crate) async fn list(
        &self,
        kind: policy::Kind,
        namespace: &str,
    ) -> Result<Vec<policy::Object>, Failure> {
        let mut objects = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let message = policy::ListRequest {
                kinds: vec![kind.into()],
                namespace: namespace.to_owned(),
                page_size: PAGE,
                page_token,
            };
            let mut client = self.policy();
            let page = self.call(Box::pin(client.list(self.request(message)))).await?;
            objects.extend(page.objects);
            if page.next_page_token.is_empty() {
                return Ok(objects);
            }
            page_token = page.next_page_token;
        }
        Err(Failure::refused("the control plane's list does not end", ""))
    }

    /// Waits until every proxy concerned applied `revision` (0: the current one); the last word on it.
    pub(crate) async fn wait_converged(
        &self,
        revision: u64,
        timeout: Duration,
    ) -> Result<status::Convergence, Failure> {
        let message =
            status::WaitConvergedRequest { revision, timeout: prost_types::Duration::try_from(timeout).ok() };
        let patience = timeout + WAIT_MARGIN;
        let mut client = self.status();
        let wait = async {
            let mut stream =
                client.wait_converged(self.request_within(message, patience)).await?.into_inner();
            while let Some(convergence) = stream.message().await? {
                if convergence.done {
                    return Ok(convergence);
                }
            }
            Err(tonic::Status::unavailable("the control plane ended the wait early"))
        };
        self.bounded(patience, Box::pin(wait)).await.map_err(|status| self.failed(&status))
    }

    /// The same, as a failure that names every proxy that is behind, and why.
    pub(crate) async fn converge(
        &self,
        revision: u64,
        timeout: Duration,
    ) -> Result<status::Convergence, Failure> {
        let convergence = self.wait_converged(revision, timeout).await?;
        if convergence.converged {
            return Ok(convergence);
        }
        Err(Failure::NotConverged {
            what: format!(
                "revision {}: {} of {} proxies applied it within {}",
                convergence.revision,
                convergence.current,
                convergence.targeted,
                crate::duration::span(timeout)
            ),
            behind: convergence.behind.iter().flat_map(view::behind).collect(),
            remedy: "the change is stored; `outrigger status` shows how far each proxy is",
        })
    }

    /// Every proxy, and the newest revision.
    pub(crate) async fn proxies(&self) -> Result<status::ListProxiesResponse, Failure> {
        let mut client = self.status();
        self.call(Box::pin(client.list_proxies(self.request(status::ListProxiesRequest {})))).await
    }

    /// Every workload of a namespace.
    pub(crate) async fn workloads(&self, namespace: &str) -> Result<Vec<status::WorkloadState>, Failure> {
        let message = status::ListWorkloadsRequest { namespace: namespace.to_owned() };
        let mut client = self.status();
        self.call(Box::pin(client.list_workloads(self.request(message))))
            .await
            .map(|response| response.workloads)
    }

    /// Where the latency of each hop goes.
    pub(crate) async fn hops(&self, message: status::HopsRequest) -> Result<status::HopsResponse, Failure> {
        let mut client = self.status();
        self.call(Box::pin(client.hops(self.request(message)))).await
    }

    /// The same with a cursor; `None`: the control plane does not know that moment any more.
    pub(crate) async fn hops_since(
        &self,
        message: status::HopsRequest,
    ) -> Result<Option<status::HopsResponse>, Failure> {
        let mut client = self.status();
        match self.bounded(self.call_timeout, Box::pin(client.hops(self.request(message)))).await {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(None),
            Err(status) => Err(self.failed(&status)),
        }
    }

    /// How the endpoints of a service are seen by those that call it.
    pub(crate) async fn endpoints(&self, service: &str) -> Result<status::ListEndpointsResponse, Failure> {
        let message = status::ListEndpointsRequest { service: service.to_owned() };
        let mut client = self.status();
        self.call(Box::pin(client.list_endpoints(self.request(message)))).await
    }

    /// A join token.
    pub(crate) async fn create_token(
        &self,
        message: identity::CreateTokenRequest,
    ) -> Result<identity::CreateTokenResponse, Failure> {
        let mut client = identity::token_service_client::TokenServiceClient::new(self.channel.clone());
        self.call(Box::pin(client.create_token(self.request(message)))).await
    }
}

/// The wire's word for a kind.
pub(crate) fn kind(kind: model::Kind) -> policy::Kind {
    match kind {
        model::Kind::Service => policy::Kind::Service,
        model::Kind::Route => policy::Kind::Route,
        model::Kind::TrafficPolicy => policy::Kind::TrafficPolicy,
        model::Kind::MeshConfig => policy::Kind::MeshConfig,
    }
}

/// `admin` in the default state directory of a control plane started by the same user.
fn default_credential() -> Result<PathBuf, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = if rustix::process::geteuid().is_root() {
        Some(PathBuf::from("/var/lib"))
    } else {
        variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")))
    };
    state.map(|state| state.join("outrigger/control-plane/admin")).ok_or_else(|| Failure::Denied {
        what: "no credential: neither HOME nor XDG_STATE_HOME is set".to_owned(),
        remedy: "name it: --credential DIR or OUTRIGGER_CREDENTIAL".to_owned(),
    })
}

/// What is wrong with a credential that cannot be used.
fn wrong(error: &CredentialError) -> String {
    match part_of(error) {
        Some((directory, absent)) => {
            format!("the credential in {} has no {}", directory.display(), absent.join(" and no "))
        }
        None => chain(error),
    }
}

/// Which of its files a credential lacks that is there in part.
fn part_of(error: &CredentialError) -> Option<(&Path, Vec<&'static str>)> {
    let CredentialError::Missing(directory) = error else { return None };
    let absent: Vec<_> =
        credential::FILES.into_iter().filter(|name| !directory.join(name).exists()).collect();
    (1..credential::FILES.len()).contains(&absent.len()).then_some((directory, absent))
}

/// What to do about a credential that cannot be used.
fn remedy(error: &CredentialError) -> &'static str {
    match error {
        CredentialError::Missing(_) if part_of(error).is_some() => ANEW,
        CredentialError::Missing(_) | CredentialError::Io { .. } => {
            "the control plane writes an admin's credential to `admin` in its state directory at its first start; name \
             it with --credential DIR or OUTRIGGER_CREDENTIAL"
        }
        // It says itself what to do.
        CredentialError::Open { .. } => "",
        CredentialError::NotPem(_)
        | CredentialError::Key { .. }
        | CredentialError::Svid { .. }
        | CredentialError::Bundle { .. }
        | CredentialError::Damaged { .. } => ANEW,
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
