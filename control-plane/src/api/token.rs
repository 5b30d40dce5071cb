//! TokenService: makes join tokens.

use std::{sync::Arc, time::Duration};

use outrigger_core::{
    join_token::{JoinToken, TokenId, TokenSecret},
    model::{Name, SpiffeId, Violation},
    wire,
};
use outrigger_proto::identity::v1alpha1::{
    CreateTokenRequest, CreateTokenResponse, token_service_server::TokenService,
};
use tonic::{Code, Request, Response, Status};

use super::{
    diagnostics,
    guard::{call_of, refuse},
    policy::{commit_failed, store_failed},
    refusals::Refusals,
};
use crate::{
    access::Denied,
    authority::{
        Authority,
        join::{DEFAULT_TTL, MAX_TTL, Purpose, Record},
    },
    clock::Clock,
    store::{Commit, Expect, Key, Keyspace, Op, Store},
};

/// Most bytes of the labels of one token.
const MAX_LABEL_BYTES: usize = 1024;
/// Most tokens that are kept at once, those that ran out in the last day included.
const MAX_TOKENS: usize = 10_000;

/// The service.
#[derive(Debug, Clone)]
pub struct TokenApi {
    authority: Arc<Authority>,
    store: Store,
    refusals: Refusals,
    clock: Clock,
}

impl TokenApi {
    /// Makes tokens for identities of `authority`.
    pub fn new(authority: Arc<Authority>, store: Store, refusals: Refusals, clock: Clock) -> Self {
        Self { authority, store, refusals, clock }
    }

    /// Deletions of the tokens that nobody needs to remember.
    async fn forget(&self) -> Result<Vec<Op>, Status> {
        let now = self.clock.now();
        let (_, entries) = self.store.list(Keyspace::Tokens).await.map_err(|error| store_failed(&error))?;
        let total = entries.len();
        let forgettable: Vec<Op> = entries
            .into_iter()
            // A record that cannot be read opens nothing; it goes with the others.
            .filter(|entry| Record::decode(&entry.value).is_none_or(|record| record.forgettable(now)))
            .map(|entry| Op::Delete { key: entry.key })
            .collect();
        if total - forgettable.len() >= MAX_TOKENS {
            return Err(Status::resource_exhausted(format!(
                "{MAX_TOKENS} join tokens exist already; wait a day"
            )));
        }
        Ok(forgettable)
    }
}

#[tonic::async_trait]
impl TokenService for TokenApi {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let call = call_of(&request)?;
        let (purpose, ttl) = match wanted(request.into_inner()) {
            Ok(wanted) => wanted,
            Err(status) => {
                self.refusals.note(&call, "invalid", status.message()).await;
                return Err(status);
            }
        };
        if let Err(denied) = Denied::outside(&call.caller, Some(&purpose.namespace)) {
            return Err(refuse(&self.refusals, &call, &denied).await);
        }
        let identity = SpiffeId::workload(
            self.authority.trust_domain().clone(),
            purpose.namespace.clone(),
            purpose.service_account.clone(),
        );
        let token = JoinToken {
            id: TokenId(rand::random()),
            secret: TokenSecret::new(rand::random()),
            root_spki_sha256: self.authority.root_hash(),
        };
        let id = token.id.to_string();
        let now = self.clock.now();
        let record = Record::new(token.secret.as_bytes(), purpose, now + ttl, call.caller.principal());
        let expires = record.expires();
        let mut ops = self.forget().await?;
        let key = Key::token(&id);
        ops.push(Op::Put { key: key.clone(), value: record.encode() });
        let audit = call.draft(now, format!("token {id} for {identity}"));
        let commit = Commit { expect: vec![(key, Expect::Absent)], ops, audit };
        self.store.commit(commit).await.map_err(|error| commit_failed(&error))?;
        tracing::info!(token = id, %identity, principal = call.caller.principal(), "join token made");
        Ok(Response::new(CreateTokenResponse {
            token: token.reveal(),
            id,
            spiffe_id: identity.to_string(),
            expires: Some(wire::time::encode_timestamp(expires)),
        }))
    }
}

fn wanted(request: CreateTokenRequest) -> Result<(Purpose, Duration), Status> {
    let mut violations = Vec::new();
    let mut name = |field: &str, value: &str| -> Option<Name> {
        let parsed = value.parse();
        parsed
            .map_err(|error: outrigger_core::model::InvalidName| {
                violations.push(Violation::error(field, "invalid_name", error.to_string()));
            })
            .ok()
    };
    let namespace = name("namespace", &request.namespace);
    let service_account = name("service_account", &request.service_account);
    let ttl = match &request.ttl {
        None => Some(DEFAULT_TTL),
        Some(ttl) => {
            wire::time::decode_duration(ttl).filter(|ttl| (Duration::from_secs(1)..=MAX_TTL).contains(ttl))
        }
    };
    if ttl.is_none() {
        violations.push(
            Violation::error("ttl", "out_of_range", "it is out of range")
                .remedy("write 1s to 24h, or leave it out"),
        );
    }
    if let Err(found) = wire::policy::check_labels("labels", &request.labels) {
        violations.extend(found);
    }
    let bytes: usize = request.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_LABEL_BYTES {
        let message = format!("the labels have {bytes} bytes, and travel in every handshake");
        violations.push(
            Violation::error("labels", "too_many", message).remedy(format!("keep to {MAX_LABEL_BYTES}")),
        );
    }
    match (namespace, service_account, ttl) {
        (Some(namespace), Some(service_account), Some(ttl)) if violations.is_empty() => {
            Ok((Purpose { namespace, service_account, labels: request.labels }, ttl))
        }
        _ => {
            let said =
                violations.iter().map(|violation| diagnostics::diagnostic(violation, None, "")).collect();
            Err(diagnostics::status(Code::InvalidArgument, said))
        }
    }
}
