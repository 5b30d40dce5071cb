//! AuthorityService: rotation of the root and the intermediate, by operators.

use std::{sync::Arc, time::SystemTime};

use outrigger_core::{
    rotation::{Kind, Refusal, Stage, Unsafe},
    wire,
};
use outrigger_proto::identity::v1alpha1::{
    ActivateAuthorityRequest, Authorities, Authority as Described, AuthorityKind, GetAuthoritiesRequest,
    PrepareAuthorityRequest, RevokeAuthorityRequest, RotationStage, TaintAuthorityRequest,
    authority_service_server::AuthorityService,
};
use tonic::{Request, Response, Status};

use super::{
    guard::call_of,
    policy::commit_failed,
    refusals::{Call, Refusals},
};
use crate::{
    authority::{Authority, Validity},
    clock::Clock,
    rotation::{Rotation, Step, StepError, View},
};

/// Lagging proxies that an answer names.
const MAX_NAMES: usize = 100;
/// Those that a refusal names.
const MAX_SAID: usize = 10;

/// The service.
#[derive(Debug, Clone)]
pub struct AuthorityApi {
    authority: Arc<Authority>,
    rotation: Rotation,
    refusals: Refusals,
    clock: Clock,
}

impl AuthorityApi {
    /// Rotates what `authority` signs with.
    pub fn new(authority: Arc<Authority>, rotation: Rotation, refusals: Refusals, clock: Clock) -> Self {
        Self { authority, rotation, refusals, clock }
    }

    fn describe(&self) -> Authorities {
        let View { state, found } = self.rotation.view();
        let [root, intermediate] = self.authority.active_keys();
        let described = |key: [u8; 32], validity: Validity| Described {
            key_sha256: key.to_vec(),
            not_before: Some(wire::time::encode_timestamp(validity.not_before)),
            not_after: Some(wire::time::encode_timestamp(validity.not_after)),
        };
        let [(_, root_validity), (_, intermediate_validity), _] = self.authority.validities();
        let other = self.authority.other_key().zip(self.authority.other_validity());
        Authorities {
            root: Some(described(root, root_validity)),
            intermediate: Some(described(intermediate, intermediate_validity)),
            rotating: state.kind().map_or(AuthorityKind::Unspecified, to_wire).into(),
            other: other.map(|(key, (_, validity))| described(key, validity)),
            stage: state.other.map_or(RotationStage::Unspecified, |other| stage(other.stage)).into(),
            safe: found.is_safe(),
            lagging_count: u64::try_from(found.lagging.len()).unwrap_or(u64::MAX),
            lagging: found.lagging.into_iter().take(MAX_NAMES).collect(),
            incomplete_until: found.incomplete_until.map(wire::time::encode_timestamp),
            leaves_until: found.leaves_until.map(wire::time::encode_timestamp),
            sequence: state.sequence,
        }
    }

    async fn take(
        &self,
        call: Call,
        kind: AuthorityKind,
        step: Step,
    ) -> Result<Response<Authorities>, Status> {
        let kind = match kind {
            AuthorityKind::Root => Kind::Root,
            AuthorityKind::Intermediate => Kind::Intermediate,
            AuthorityKind::Unspecified => {
                let status = Status::invalid_argument("kind: write root or intermediate");
                self.refusals.note(&call, "invalid", status.message()).await;
                return Err(status);
            }
        };
        let forced = match step {
            Step::Activate { force: true } | Step::Revoke { force: true } => {
                let lagging = self.rotation.view().found.lagging.len();
                format!(", forced while {lagging} proxies lag")
            }
            _ => String::new(),
        };
        let audit = call.draft(self.clock.now(), format!("{}{forced}", kind.as_str()));
        let rotation = self.rotation.clone();
        // A caller that goes away leaves no step half taken.
        let taken = tokio::spawn(async move { rotation.take(kind, step, audit).await }).await;
        match taken {
            Ok(Ok(_)) => Ok(Response::new(self.describe())),
            Ok(Err(StepError::Refused(refusal))) => {
                let message = said(&refusal, self.clock.now());
                self.refusals.note(&call, "unsafe", &message).await;
                Err(Status::failed_precondition(message))
            }
            Ok(Err(StepError::Commit(error))) => Err(commit_failed(&error)),
            Ok(Err(error @ (StepError::Authority(_) | StepError::Interrupted))) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a rotation's step failed");
                Err(Status::internal("the keys cannot be made or kept; the control plane's log says why"))
            }
            Err(_ending) => Err(Status::unavailable("the control plane stops")),
        }
    }
}

fn to_wire(kind: Kind) -> AuthorityKind {
    match kind {
        Kind::Root => AuthorityKind::Root,
        Kind::Intermediate => AuthorityKind::Intermediate,
    }
}

fn stage(stage: Stage) -> RotationStage {
    match stage {
        Stage::Prepared => RotationStage::Prepared,
        Stage::Retiring { .. } => RotationStage::Retiring,
        Stage::Tainted { .. } => RotationStage::Tainted,
    }
}

/// A refusal, with everything that is in the way.
fn said(refusal: &Refusal, now: SystemTime) -> String {
    let Refusal::Unsafe(Unsafe { lagging, incomplete_until, leaves_until }) = refusal else {
        return refusal.to_string();
    };
    let seconds = |until: &SystemTime| until.duration_since(now).unwrap_or_default().as_secs() + 1;
    let mut reasons = Vec::new();
    if !lagging.is_empty() {
        let named = lagging.iter().take(MAX_SAID).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = lagging.len().saturating_sub(MAX_SAID);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        reasons.push(format!("these proxies lag: {named}{more}"));
    }
    if let Some(until) = incomplete_until {
        let seconds = seconds(until);
        reasons.push(format!("proxies have {seconds}s to come back after the control plane's start"));
    }
    if let Some(until) = leaves_until {
        let seconds = seconds(until);
        reasons.push(format!(
            "the last certificate under it expires in {seconds}s, and a proxy that is not connected may hold one"
        ));
    }
    format!("{refusal}: {}", reasons.join("; "))
}

#[tonic::async_trait]
impl AuthorityService for AuthorityApi {
    async fn get_authorities(
        &self,
        _request: Request<GetAuthoritiesRequest>,
    ) -> Result<Response<Authorities>, Status> {
        Ok(Response::new(self.describe()))
    }

    async fn prepare_authority(
        &self,
        request: Request<PrepareAuthorityRequest>,
    ) -> Result<Response<Authorities>, Status> {
        let call = call_of(&request)?;
        self.take(call, request.into_inner().kind(), Step::Prepare).await
    }

    async fn activate_authority(
        &self,
        request: Request<ActivateAuthorityRequest>,
    ) -> Result<Response<Authorities>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        self.take(call, request.kind(), Step::Activate { force: request.force }).await
    }

    async fn taint_authority(
        &self,
        request: Request<TaintAuthorityRequest>,
    ) -> Result<Response<Authorities>, Status> {
        let call = call_of(&request)?;
        self.take(call, request.into_inner().kind(), Step::Taint).await
    }

    async fn revoke_authority(
        &self,
        request: Request<RevokeAuthorityRequest>,
    ) -> Result<Response<Authorities>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        self.take(call, request.kind(), Step::Revoke { force: request.force }).await
    }
}
