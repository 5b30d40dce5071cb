//! The writes. Each has a key of its own, so that one whose answer was lost can be sent again: it happens once.

use std::time::Duration;

use outrigger_core::model;
use outrigger_proto::policy::v1alpha1::{self as policy, rollback_request::Target};
use tonic::Status;

use super::ControlPlane;
use crate::{
    args::{SetArgs, WriteArgs},
    document::{Place, Sourced},
    failure::Failure,
};

/// How long to wait before each further attempt of a write that found nobody: a control plane that restarts is back.
const ATTEMPTS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// What a write answered.
#[derive(Debug)]
pub(crate) struct Written {
    /// Store revision after it.
    pub(crate) revision: u64,
    /// What became of each object.
    pub(crate) results: Vec<policy::ItemResult>,
}

/// What is to be applied.
#[derive(Debug)]
pub(crate) struct Applying<'a> {
    pub(crate) objects: &'a [Sourced],
    pub(crate) set: &'a SetArgs,
    pub(crate) dry_run: bool,
    pub(crate) message: &'a str,
}

/// What is to be rolled back.
#[derive(Debug)]
pub(crate) struct RollingBack<'a> {
    /// `None`: all objects.
    pub(crate) object: Option<policy::ObjectRef>,
    pub(crate) to: u64,
    pub(crate) unchanged_since: u64,
    pub(crate) write: &'a WriteArgs,
}

impl ControlPlane {
    /// Applies objects of no set, all or none.
    pub(crate) async fn apply(&self, objects: &[Sourced], dry_run: bool) -> Result<Written, Failure> {
        let set = SetArgs::default();
        self.apply_with(Applying { objects, set: &set, dry_run, message: "" }).await
    }

    /// Applies objects, all or none. A refusal shows where each refused object was written.
    pub(crate) async fn apply_with(&self, applying: Applying<'_>) -> Result<Written, Failure> {
        let Applying { objects, set, dry_run, message } = applying;
        let message = policy::ApplyRequest {
            items: objects
                .iter()
                .map(|sourced| policy::ApplyItem {
                    object: Some((&sourced.object).into()),
                    precondition: unchanged_since(&sourced.object),
                    source: sourced.place.to_string(),
                })
                .collect(),
            dry_run,
            message: message.to_owned(),
            set: set.set.clone().unwrap_or_default(),
            prune: set.prune,
            idempotency_key: key()?,
        };
        let answer = self.again(async || {
            let mut client = self.policy();
            let answer = client.apply(self.request(message.clone())).await?.into_inner();
            Ok(Written { revision: answer.revision, results: answer.results })
        });
        answer.await.map_err(|status| {
            Failure::answered(&self.server, &status, |diagnostic| {
                place_of(objects, diagnostic.r#ref.as_ref())
            })
        })
    }

    /// Deletes objects, all or none.
    pub(crate) async fn delete(
        &self,
        references: Vec<policy::ObjectRef>,
        write: &WriteArgs,
    ) -> Result<Written, Failure> {
        let message = policy::DeleteRequest {
            items: references
                .into_iter()
                .map(|reference| policy::DeleteItem { r#ref: Some(reference), precondition: None })
                .collect(),
            dry_run: write.dry_run,
            message: write.message.clone(),
            idempotency_key: key()?,
        };
        let answer = self.again(async || {
            let mut client = self.policy();
            let answer = client.delete(self.request(message.clone())).await?.into_inner();
            Ok(Written { revision: answer.revision, results: answer.results })
        });
        answer.await.map_err(|status| self.failed(&status))
    }

    /// Rolls an object, or all of them, back to a revision.
    pub(crate) async fn rollback(&self, back: RollingBack<'_>) -> Result<Written, Failure> {
        let RollingBack { object, to, unchanged_since, write } = back;
        let target = match object {
            Some(object) => Target::Object(policy::ObjectVersion { r#ref: Some(object), revision: to }),
            None => Target::StoreRevision(to),
        };
        let message = policy::RollbackRequest {
            target: Some(target),
            dry_run: write.dry_run,
            message: write.message.clone(),
            unchanged_since,
            idempotency_key: key()?,
        };
        let answer = self.again(async || {
            let mut client = self.policy();
            let answer = client.rollback(self.request(message.clone())).await?.into_inner();
            Ok(Written { revision: answer.revision, results: answer.results })
        });
        answer.await.map_err(|status| self.failed(&status))
    }

    /// Makes a write, and makes it again when nobody answered.
    async fn again<T>(&self, attempt: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
        let mut waits = ATTEMPTS.into_iter();
        loop {
            let outcome = self.bounded(self.call_timeout, Box::pin(attempt())).await;
            match outcome {
                Err(status) if status.code() == tonic::Code::Unavailable => match waits.next() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(status),
                },
                outcome => return outcome,
            }
        }
    }
}

/// A key that no other write has.
fn key() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_none| {
        Failure::io("there is no randomness", std::io::Error::other("the system has none"))
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A document that names a revision, as one that was read and edited does, overwrites nobody's later change.
fn unchanged_since(object: &model::Object) -> Option<policy::Precondition> {
    let revision = Some(object.metadata.revision).filter(|revision| *revision > 0)?;
    Some(policy::Precondition { kind: Some(policy::precondition::Kind::Revision(revision)) })
}

/// Where the object of a diagnostic was written.
fn place_of(objects: &[Sourced], reference: Option<&policy::ObjectRef>) -> Option<Place> {
    let reference = reference?;
    objects
        .iter()
        .find(|sourced| policy::ObjectRef::from(&sourced.reference()) == *reference)
        .map(|sourced| sourced.place.clone())
}
