//! The calls that rotate authorities.

use outrigger_proto::identity::v1alpha1::{
    ActivateAuthorityRequest, Authorities, AuthorityKind, GetAuthoritiesRequest, PrepareAuthorityRequest,
    RevokeAuthorityRequest, TaintAuthorityRequest, authority_service_client::AuthorityServiceClient,
};
use tonic::transport::Channel;

use super::ControlPlane;
use crate::failure::Failure;

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A new one beside the active one.
    Prepare,
    /// The new one signs.
    Activate {
        /// Whether or not that is safe.
        force: bool,
    },
    /// The old one is not relied on.
    Taint,
    /// The old one is gone.
    Revoke {
        /// Whether or not that is safe.
        force: bool,
    },
}

impl ControlPlane {
    fn authority(&self) -> AuthorityServiceClient<Channel> {
        AuthorityServiceClient::new(self.channel.clone())
    }

    /// What signs, and how far a rotation is.
    pub(crate) async fn authorities(&self) -> Result<Authorities, Failure> {
        let mut client = self.authority();
        self.call(Box::pin(client.get_authorities(self.request(GetAuthoritiesRequest {})))).await
    }

    /// Takes a step.
    pub(crate) async fn rotate(&self, kind: AuthorityKind, step: Step) -> Result<Authorities, Failure> {
        let mut client = self.authority();
        let kind = kind.into();
        match step {
            Step::Prepare => {
                let message = PrepareAuthorityRequest { kind };
                self.call(Box::pin(client.prepare_authority(self.request(message)))).await
            }
            Step::Activate { force } => {
                let message = ActivateAuthorityRequest { kind, force };
                self.call(Box::pin(client.activate_authority(self.request(message)))).await
            }
            Step::Taint => {
                let message = TaintAuthorityRequest { kind };
                self.call(Box::pin(client.taint_authority(self.request(message)))).await
            }
            Step::Revoke { force } => {
                let message = RevokeAuthorityRequest { kind, force };
                self.call(Box::pin(client.revoke_authority(self.request(message)))).await
            }
        }
    }
}
