//! IdentityService: certificates for workloads, by join token at first and by the current certificate from then on.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_core::{join_token::JoinToken, model::SpiffeId, wire};
use outrigger_proto::identity::v1alpha1::{
    Bundle, IssueRequest, IssueResponse, identity_service_server::IdentityService,
};
use outrigger_tls::grpc::Peer;
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tonic::{Request, Response, Status};

use super::{
    guard::{call_of, refuse},
    policy::store_failed,
    refusals::{Call, Refusals},
};
use crate::{
    access::{Caller, Denied},
    authority::{
        Authority, Csr, IssueError,
        join::{Record, Redemption, TokenError},
        labels,
    },
    clock::Clock,
    store::{Commit, CommitError, Expect, Key, Op, Store},
};

/// A redemption is tried so often when others redeem the same token at the same time.
const ATTEMPTS: usize = 3;

/// The service.
#[derive(Debug, Clone)]
pub struct IdentityApi {
    authority: Arc<Authority>,
    store: Store,
    refusals: Refusals,
    clock: Clock,
    alarms: Counter,
    issued: Counter,
}

impl IdentityApi {
    /// Issues certificates of `authority`; counts in `registry`.
    pub fn new(
        authority: Arc<Authority>,
        store: Store,
        refusals: Refusals,
        clock: Clock,
        registry: &mut Registry,
    ) -> Self {
        let (alarms, issued) = (Counter::default(), Counter::default());
        registry.register(
            "join_token_alarms",
            "Join tokens redeemed with a second key: one of the two peers, both in the log, stole it",
            alarms.clone(),
        );
        registry.register("issued_certificates", "Certificates issued to workloads", issued.clone());
        Self { authority, store, refusals, clock, alarms, issued }
    }

    async fn refused(&self, call: &Call, reason: &'static str, status: Status) -> Status {
        self.refusals.note(call, reason, status.message()).await;
        status
    }

    /// Whom `token` is for, with its labels. Binds it to the key of `csr`.
    async fn redeem(
        &self,
        call: &Call,
        token: &str,
        csr: &Csr,
        claimed: &str,
    ) -> Result<(SpiffeId, BTreeMap<String, String>), Status> {
        let Ok(token) = token.parse::<JoinToken>() else {
            return Err(self.bad_token(call, &TokenError::Invalid, "").await);
        };
        if !self.authority.is_root(&token.root_spki_sha256) {
            return Err(self.bad_token(call, &TokenError::Invalid, "").await);
        }
        let id = token.id.to_string();
        for _ in 0..ATTEMPTS {
            let entry = self.store.get(&Key::token(&id)).await.map_err(|error| store_failed(&error))?;
            let Some((entry, record)) =
                entry.and_then(|entry| Record::decode(&entry.value).map(|record| (entry, record)))
            else {
                return Err(self.bad_token(call, &TokenError::Invalid, &id).await);
            };
            let redemption =
                match record.redeem(token.secret.as_bytes(), csr.key_hash(), &call.peer, self.clock.now()) {
                    Ok(redemption) => redemption,
                    Err(error) => return Err(self.bad_token(call, &error, &id).await),
                };
            let Some(identity) = record.identity(self.authority.trust_domain()) else {
                return Err(self.bad_token(call, &TokenError::Invalid, &id).await);
            };
            // Before the token is spent on it.
            self.names_only(call, &identity, csr, claimed).await?;
            let labels = record.labels().clone();
            let Redemption::First(bound) = redemption else {
                return Ok((identity, labels));
            };
            match self.bind(call, &id, &identity, entry.revision, &bound).await {
                Ok(()) => return Ok((identity, labels)),
                Err(CommitError::Conflict(_)) => {}
                Err(CommitError::Store(error)) => return Err(store_failed(&error)),
            }
        }
        Err(Status::aborted("the join token is being redeemed elsewhere; try again"))
    }

    async fn bind(
        &self,
        call: &Call,
        id: &str,
        identity: &SpiffeId,
        revision: u64,
        bound: &Record,
    ) -> Result<(), CommitError> {
        let key = Key::token(id);
        let commit = Commit {
            expect: vec![(key.clone(), Expect::At(revision))],
            ops: vec![Op::Put { key, value: bound.encode() }],
            audit: call.draft(self.clock.now(), format!("token {id} redeemed for {identity}")),
        };
        self.store.commit(commit).await.map(drop)
    }

    async fn bad_token(&self, call: &Call, error: &TokenError, id: &str) -> Status {
        if let TokenError::AnotherKey { first_peer } = error {
            self.alarms.inc();
            tracing::error!(
                token = id,
                first_peer,
                second_peer = call.peer,
                "a join token was redeemed with a second key: one of the two peers stole it"
            );
            let message = format!("token {id}: {error}; first from {first_peer}, now from {}", call.peer);
            self.refusals.note(call, error.reason(), &message).await;
        } else {
            let message = if id.is_empty() { error.to_string() } else { format!("token {id}: {error}") };
            self.refusals.note(call, error.reason(), &message).await;
        }
        Status::unauthenticated(format!("{error}; ask for a new one"))
    }

    async fn names_only(&self, call: &Call, id: &SpiffeId, csr: &Csr, claimed: &str) -> Result<(), Status> {
        if !claimed.is_empty() && claimed != id.as_str() {
            let status = Status::permission_denied(format!("spiffe_id: the caller proved to be {id}"));
            return Err(self.refused(call, "another_name", status).await);
        }
        if let Err(error) = csr.names_only(id) {
            let status = Status::permission_denied(format!("csr_der: {error}; the caller proved to be {id}"));
            return Err(self.refused(call, "another_name", status).await);
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl IdentityService for IdentityApi {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let call = call_of(&request)?;
        let labels_shown = request.extensions().get::<Peer>().map_or_else(BTreeMap::new, labels::of);
        let request = request.into_inner();
        let csr = match Csr::parse(&request.csr_der) {
            Ok(csr) => csr,
            Err(error) => {
                let status = Status::invalid_argument(format!("csr_der: {error}"));
                return Err(self.refused(&call, "bad_request", status).await);
            }
        };
        let (identity, labels) = match (&call.caller, request.join_token.as_str()) {
            (Caller::Workload(id), "") => {
                self.names_only(&call, id, &csr, &request.spiffe_id).await?;
                (id.clone(), labels_shown)
            }
            (_, "") => return Err(refuse(&self.refusals, &call, &Denied::Anonymous).await),
            (_, token) => self.redeem(&call, token, &csr, &request.spiffe_id).await?,
        };
        let issued = self.authority.issue(&identity, &labels, &csr).map_err(|error| sign_failed(&error))?;
        self.issued.inc();
        tracing::info!(
            %identity,
            peer = call.peer,
            renewal = request.join_token.is_empty(),
            "certificate issued"
        );
        let bundle = self.authority.bundle();
        Ok(Response::new(IssueResponse {
            chain_der: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            not_before: Some(wire::time::encode_timestamp(issued.validity.not_before)),
            not_after: Some(wire::time::encode_timestamp(issued.validity.not_after)),
            renew_after: Some(wire::time::encode_timestamp(issued.renew_after)),
            spiffe_id: identity.to_string(),
            bundle: Some(Bundle {
                trust_domain: bundle.trust_domain.to_string(),
                x509_authorities: bundle.x509_authorities,
                sequence: bundle.sequence,
            }),
        }))
    }
}

fn sign_failed(error: &IssueError) -> Status {
    tracing::error!(%error, "a certificate could not be issued");
    Status::internal("the authority cannot sign; the control plane's log says why")
}
