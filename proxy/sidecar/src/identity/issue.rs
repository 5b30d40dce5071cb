//! One call of the identity service, and what is made of its answer.

use std::time::{Duration, SystemTime};

use outrigger_core::model::{InvalidName, TrustDomain};
use outrigger_proto::identity::v1alpha1::{
    IssueRequest, IssueResponse, identity_service_client::IdentityServiceClient,
};
use outrigger_tls::{Bundle, InvalidBundle, InvalidKey, InvalidSvid, Key, Svid, credential::Credential};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

/// How long the control plane may take to sign.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// It did not answer.
    #[error("the control plane does not answer")]
    Silent,
    /// It says no, or not now.
    #[error("the control plane says {}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
    /// The key.
    #[error("there is no key to ask with")]
    Key(#[from] InvalidKey),
    /// The certificate that came.
    #[error("the control plane's certificate for us cannot be used")]
    Svid(#[from] InvalidSvid),
    /// The trust domain that came with it.
    #[error("the control plane's trust domain cannot be used")]
    TrustDomain(#[from] InvalidName),
    /// The authorities that came with it.
    #[error("the control plane's authorities cannot be used")]
    Bundle(#[from] InvalidBundle),
    /// It does not fit together.
    #[error("the control plane's answer is wrong: {0}")]
    Answer(&'static str),
}

impl IssueError {
    /// Whether asking again cannot help: the control plane understood, and said no.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(status) => matches!(
                status.code(),
                Code::Unauthenticated
                    | Code::PermissionDenied
                    | Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::NotFound
                    | Code::AlreadyExists
                    | Code::Unimplemented
            ),
            Self::Silent => false,
            _ => true,
        }
    }
}

/// What was issued.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) credential: Credential,
    /// When the control plane wants to be asked again.
    pub(super) renew_after: Option<SystemTime>,
}

/// Sends `request`, which asks for a certificate for `key`.
pub(super) async fn issue(channel: Channel, request: IssueRequest, key: Key) -> Result<Issued, IssueError> {
    let mut client = IdentityServiceClient::new(channel);
    let response = timeout(PATIENCE, client.issue(request))
        .await
        .map_err(|_elapsed| IssueError::Silent)?
        .map_err(|status| IssueError::Refused(Box::new(status)))?
        .into_inner();
    take(response, key)
}

fn take(response: IssueResponse, key: Key) -> Result<Issued, IssueError> {
    let bundle = response.bundle.ok_or(IssueError::Answer("it has no authorities"))?;
    let trust_domain: TrustDomain = bundle.trust_domain.parse()?;
    let bundle = Bundle::new(trust_domain, bundle.x509_authorities, bundle.sequence)?;
    let svid = Svid::from_parts(response.chain_der, key)?;
    if svid.id().as_workload().is_none() {
        return Err(IssueError::Answer("the identity is not a workload's"));
    }
    if svid.id().trust_domain() != bundle.trust_domain() {
        return Err(IssueError::Answer("identity and authorities are of different trust domains"));
    }
    let renew_after = response.renew_after.and_then(|at| SystemTime::try_from(at).ok());
    Ok(Issued { credential: Credential { svid, bundle }, renew_after })
}
