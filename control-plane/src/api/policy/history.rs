//! History: the versions of one object, or the revisions of the store, with who made them.

use outrigger_core::{model::ObjectRef, wire};
use outrigger_proto::policy::v1alpha1::{self as proto, AuditRecord};
use prost::Message;
use tonic::Status;

use super::{PolicyApi, page_size, reference, store_failed};
use crate::{
    access::{Caller, Denied},
    api::refusals::Call,
    store::{Key, Revision, StoreError, Version},
};

impl PolicyApi {
    pub(super) async fn read_history(
        &self,
        call: &Call,
        request: proto::HistoryRequest,
    ) -> Result<proto::HistoryResponse, Status> {
        let before = if request.before == 0 { Revision::MAX } else { request.before };
        let size = page_size(request.page_size);
        let failed = |error: StoreError| store_failed(&error);
        let (versions, next) = match request.r#ref {
            Some(given) => {
                let reference = reference(Some(given))?;
                self.inside(call, reference.namespace.as_ref()).await?;
                let found = self.versions(&reference, before, size).await.map_err(failed)?;
                if found.0.is_empty() && request.before == 0 {
                    return Err(Status::not_found(format!(
                        "there is no {reference}, and none is remembered"
                    )));
                }
                found
            }
            None => self.revisions(&call.caller, before, size).await.map_err(failed)?,
        };
        let oldest = self.parts.store.oldest().await.map_err(|error| store_failed(&error))?;
        Ok(proto::HistoryResponse { versions, oldest, next })
    }

    async fn versions(
        &self,
        reference: &ObjectRef,
        before: Revision,
        size: usize,
    ) -> Result<(Vec<proto::Version>, Revision), StoreError> {
        let store = &self.parts.store;
        let key = Key::object(reference);
        let versions = store.versions(&key, before, size).await?;
        // A page may be short because of its bytes.
        let last = versions.last().map_or(0, |version| version.revision);
        let more = last > 0 && !store.versions(&key, last, 1).await?.is_empty();
        Ok((versions.into_iter().map(told).collect(), if more { last } else { 0 }))
    }

    async fn revisions(
        &self,
        caller: &Caller,
        before: Revision,
        size: usize,
    ) -> Result<(Vec<proto::Version>, Revision), StoreError> {
        let store = &self.parts.store;
        let records = store.revisions(before, size).await?;
        let last = records.last().map_or(0, |record| record.revision);
        let more = last > 0 && !store.revisions(last, 1).await?.is_empty();
        let versions = records.into_iter().filter_map(|record| seen(record, caller));
        Ok((versions.collect(), if more { last } else { 0 }))
    }
}

/// One version, with its content.
fn told(version: Version) -> proto::Version {
    let Version { revision, value, record } = version;
    // As it was stored: one that this version would refuse can be looked at all the same.
    let object = value.as_ref().and_then(|value| proto::Object::decode(value.as_slice()).ok());
    let object = object.map(|mut object| {
        if let Some(metadata) = &mut object.metadata {
            metadata.revision = revision;
        }
        object
    });
    let mut told = record.map(of_record).unwrap_or_default();
    if told.principal.is_empty()
        && let Some(metadata) = object.as_ref().and_then(|object| object.metadata.as_ref())
    {
        told.at = metadata.updated;
        told.principal.clone_from(&metadata.updated_by);
    }
    proto::Version { revision, object, deleted: value.is_none(), results: Vec::new(), ..told }
}

/// One revision, as far as `caller` may read what it changed; nothing when it may read none of it.
fn seen(record: AuditRecord, caller: &Caller) -> Option<proto::Version> {
    let mut told = of_record(record);
    told.results.retain(|result| {
        let reference = result.r#ref.as_ref().map(wire::policy::object_ref);
        reference.is_some_and(|reference| {
            reference.is_ok_and(|reference| Denied::outside(caller, reference.namespace.as_ref()).is_ok())
        })
    });
    (!told.results.is_empty()).then_some(told)
}

fn of_record(record: AuditRecord) -> proto::Version {
    proto::Version {
        revision: record.revision,
        at: record.at,
        principal: record.principal,
        method: record.method,
        message: record.message,
        results: record.results,
        ..proto::Version::default()
    }
}
