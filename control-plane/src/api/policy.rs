//! PolicyService: the calls, and what they share. Reads are of the newest picture of the objects or of the store's
//! history; writes go by `plan`.

mod history;
mod list;
mod watch;
mod write;

use std::{pin::Pin, sync::Arc};

use outrigger_core::{model::Name, wire};
use outrigger_proto::policy::v1alpha1::{self as proto, policy_service_server::PolicyService};
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{
    conditions::{Progress, with_conditions},
    diagnostics,
    guard::{call_of, refuse},
    refusals::{Call, Refusals},
};
use crate::{
    access::Denied,
    clock::Clock,
    store::{CommitError, HistoryError, Store, StoreError, objects::ObjectStore},
};

const DEFAULT_PAGE: usize = 500;
const MAX_PAGE: usize = 1000;
/// Watches at once; one more is refused.
const WATCHES: usize = 256;

/// What the service is made of.
#[derive(Clone)]
pub struct Parts {
    /// The objects.
    pub objects: ObjectStore,
    /// Where they are kept.
    pub store: Store,
    /// Where refused calls are noted.
    pub refusals: Refusals,
    /// How far each proxy is.
    pub progress: Progress,
    /// The wall clock.
    pub clock: Clock,
    /// Ends every watch.
    pub stop: CancellationToken,
}

/// The service.
#[derive(Clone)]
pub struct PolicyApi {
    parts: Parts,
    watches: Arc<Semaphore>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("objects", &self.objects).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PolicyApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyApi").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl PolicyApi {
    /// Serves what `parts` hold.
    pub fn new(parts: Parts) -> Self {
        Self { parts, watches: Arc::new(Semaphore::new(WATCHES)) }
    }

    async fn inside(&self, call: &Call, namespace: Option<&Name>) -> Result<(), Status> {
        match Denied::outside(&call.caller, namespace) {
            Ok(()) => Ok(()),
            Err(denied) => Err(refuse(&self.parts.refusals, call, &denied).await),
        }
    }
}

#[tonic::async_trait]
impl PolicyService for PolicyApi {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<proto::WatchEvent, Status>> + Send>>;

    async fn apply(
        &self,
        request: Request<proto::ApplyRequest>,
    ) -> Result<Response<proto::ApplyResponse>, Status> {
        let call = call_of(&request)?;
        let (revision, results) = self.write_apply(&call, &request.into_inner()).await?;
        Ok(Response::new(proto::ApplyResponse { revision, results }))
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let call = call_of(&request)?;
        let (revision, results) = self.write_delete(&call, &request.into_inner()).await?;
        Ok(Response::new(proto::DeleteResponse { revision, results }))
    }

    async fn rollback(
        &self,
        request: Request<proto::RollbackRequest>,
    ) -> Result<Response<proto::RollbackResponse>, Status> {
        let call = call_of(&request)?;
        let (revision, results) = self.write_rollback(&call, &request.into_inner()).await?;
        Ok(Response::new(proto::RollbackResponse { revision, results }))
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::Object>, Status> {
        let call = call_of(&request)?;
        let reference = reference(request.into_inner().r#ref)?;
        self.inside(&call, reference.namespace.as_ref()).await?;
        let applied = (self.parts.progress)();
        match self.parts.objects.current().get(&reference) {
            Some(object) => Ok(Response::new((&with_conditions(object, &applied)).into())),
            None => Err(Status::not_found(format!("there is no {reference}"))),
        }
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let wanted = list::Wanted::new(&request.kinds, &request.namespace)?;
        if let Some(namespace) = &wanted.namespace {
            self.inside(&call, Some(namespace)).await?;
        }
        let page = list::Page::new(wanted, &request)?;
        let objects = self.parts.objects.current();
        let applied = (self.parts.progress)();
        let (objects, next_page_token) = page.of(&objects, &call.caller, &applied);
        let revision = self.parts.store.revision();
        Ok(Response::new(proto::ListResponse { objects, revision, next_page_token }))
    }

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let wanted = list::Wanted::new(&request.kinds, &request.namespace)?;
        if let Some(namespace) = &wanted.namespace {
            self.inside(&call, Some(namespace)).await?;
        }
        let permit = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_none_left| Status::resource_exhausted("too many watches"))?;
        let watch = watch::Watch::new(&self.parts, call.caller, wanted, request.from_revision, permit);
        Ok(Response::new(Box::pin(watch.into_stream())))
    }

    async fn history(
        &self,
        request: Request<proto::HistoryRequest>,
    ) -> Result<Response<proto::HistoryResponse>, Status> {
        let call = call_of(&request)?;
        self.read_history(&call, request.into_inner()).await.map(Response::new)
    }

    async fn list_audit(
        &self,
        request: Request<proto::ListAuditRequest>,
    ) -> Result<Response<proto::ListAuditResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size);
        let store = &self.parts.store;
        let records = store.audit(request.from, size).await.map_err(|error| store_failed(&error))?;
        // A page may be short because of its bytes: only the record after it tells whether it is the last.
        let next = match records.last() {
            Some(last) => {
                let rest = store.audit(last.sequence + 1, 1).await.map_err(|error| store_failed(&error))?;
                rest.first().map_or(0, |record| record.sequence)
            }
            None => 0,
        };
        Ok(Response::new(proto::ListAuditResponse { records, next }))
    }
}

/// A reference that a request gives in its field `ref`.
fn reference(given: Option<proto::ObjectRef>) -> Result<outrigger_core::model::ObjectRef, Status> {
    wire::policy::object_ref(&given.unwrap_or_default()).map_err(|violation| {
        let said = diagnostics::diagnostic(&violation.under("ref"), None, "");
        diagnostics::status(Code::InvalidArgument, vec![said])
    })
}

fn page_size(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(MAX_PAGE) {
        0 => DEFAULT_PAGE,
        size => size.min(MAX_PAGE),
    }
}

/// A past that cannot be told.
fn history_failed(error: HistoryError) -> Status {
    match error {
        HistoryError::Compacted { .. } | HistoryError::Lost { .. } => {
            Status::out_of_range(format!("{error}; start over with what there is now"))
        }
        HistoryError::Future { .. } => Status::invalid_argument(error.to_string()),
        HistoryError::Store(error) => store_failed(&error),
    }
}

/// A write that the store did not take. The caller learns no detail of our disk.
pub(super) fn commit_failed(error: &CommitError) -> Status {
    match error {
        CommitError::Conflict(_) => Status::aborted("somebody else wrote at the same time; try again"),
        CommitError::Store(error) => store_failed(error),
    }
}

pub(super) fn store_failed(error: &StoreError) -> Status {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, source, "the store failed");
    Status::unavailable("the control plane's store cannot be used; its log says why")
}
