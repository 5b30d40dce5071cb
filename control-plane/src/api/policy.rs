//! PolicyService: reads the newest picture of the objects, and writes by `plan`.

use std::ops::Bound;

use outrigger_core::{
    model::{Kind, Name, ObjectRef},
    wire,
};
use outrigger_proto::policy::v1alpha1::{
    self as proto, item_result::Action, policy_service_server::PolicyService,
};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{
    conditions::{Applied, Progress, with_conditions},
    diagnostics,
    guard::{call_of, refuse},
    plan::{self, Plan, Rejected, Writer},
    refusals::{Call, Refusals},
};
use crate::{
    access::{Caller, Denied},
    clock::Clock,
    store::{
        CommitError, PAGE_BYTES, Revision, Store, StoreError,
        objects::{Edit, ObjectStore, Objects},
    },
};

/// Longest message for the audit record, bytes.
const MAX_MESSAGE: usize = 1024;
const DEFAULT_PAGE: usize = 500;
const MAX_PAGE: usize = 1000;

/// The service.
#[derive(Clone)]
pub struct PolicyApi {
    objects: ObjectStore,
    store: Store,
    refusals: Refusals,
    progress: Progress,
    clock: Clock,
}

impl std::fmt::Debug for PolicyApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyApi").field("objects", &self.objects).finish_non_exhaustive()
    }
}

impl PolicyApi {
    /// Serves `objects`, which are kept in `store`.
    pub fn new(
        objects: ObjectStore,
        store: Store,
        refusals: Refusals,
        progress: Progress,
        clock: Clock,
    ) -> Self {
        Self { objects, store, refusals, progress, clock }
    }

    async fn inside(&self, call: &Call, namespace: Option<&Name>) -> Result<(), Status> {
        match Denied::outside(&call.caller, namespace) {
            Ok(()) => Ok(()),
            Err(denied) => Err(refuse(&self.refusals, call, &denied).await),
        }
    }

    /// Tells the caller, and the audit log, why a write is refused.
    async fn reject(&self, call: &Call, rejected: Rejected) -> Status {
        let reason = match rejected.code {
            Code::Aborted => "conflict",
            Code::NotFound => "not_found",
            Code::FailedPrecondition => "referenced",
            _ => "invalid",
        };
        let status = diagnostics::status(rejected.code, rejected.diagnostics);
        self.refusals.note(call, reason, status.message()).await;
        status
    }

    async fn finish(
        &self,
        edit: Edit,
        plan: Plan,
        call: &Call,
        options: &Options<'_>,
    ) -> Result<(Revision, Vec<proto::ItemResult>), Status> {
        let Plan { changes, mut results } = plan;
        if options.dry_run || changes.is_empty() {
            return Ok((self.store.revision(), results));
        }
        let mut audit = call.draft(self.clock.now(), options.message);
        audit.results.clone_from(&results);
        let revision = edit.commit(changes, audit).await.map_err(|error| commit_failed(&error))?;
        tracing::info!(
            revision,
            principal = call.caller.principal(),
            method = call.method,
            items = results.len(),
            "the objects changed"
        );
        for result in &mut results {
            if result.action() != Action::Unchanged {
                result.revision = revision;
            }
        }
        Ok((revision, results))
    }
}

/// What writes have in common.
struct Options<'a> {
    dry_run: bool,
    message: &'a str,
}

impl<'a> Options<'a> {
    fn new(dry_run: bool, message: &'a str) -> Result<Self, Status> {
        if message.len() > MAX_MESSAGE {
            return Err(Status::invalid_argument(format!("message: it is longer than {MAX_MESSAGE} bytes")));
        }
        Ok(Self { dry_run, message })
    }
}

#[tonic::async_trait]
impl PolicyService for PolicyApi {
    async fn apply(
        &self,
        request: Request<proto::ApplyRequest>,
    ) -> Result<Response<proto::ApplyResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let options = Options::new(request.dry_run, &request.message)?;
        let items = match plan::items(&request.items) {
            Ok(items) => items,
            Err(rejected) => return Err(self.reject(&call, rejected).await),
        };
        for namespace in items.namespaces() {
            self.inside(&call, namespace.as_ref()).await?;
        }
        let edit = self.objects.edit().await;
        let writer = Writer { principal: call.caller.principal(), now: self.clock.now() };
        let plan = match plan::apply(edit.base(), &items, &writer) {
            Ok(plan) => plan,
            Err(rejected) => return Err(self.reject(&call, rejected).await),
        };
        let (revision, results) = self.finish(edit, plan, &call, &options).await?;
        Ok(Response::new(proto::ApplyResponse { revision, results }))
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::Object>, Status> {
        let call = call_of(&request)?;
        let reference = request.into_inner().r#ref.unwrap_or_default();
        let reference = wire::policy::object_ref(&reference).map_err(|violation| {
            let said = diagnostics::diagnostic(&violation.under("ref"), None, "");
            diagnostics::status(Code::InvalidArgument, vec![said])
        })?;
        self.inside(&call, reference.namespace.as_ref()).await?;
        let applied = (self.progress)();
        match self.objects.current().get(&reference) {
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
        let filter = Filter::new(&request)?;
        if let Some(namespace) = &filter.namespace {
            self.inside(&call, Some(namespace)).await?;
        }
        let objects = self.objects.current();
        let applied = (self.progress)();
        let (objects, next_page_token) = filter.page(&objects, &call.caller, &applied);
        Ok(Response::new(proto::ListResponse { objects, revision: self.store.revision(), next_page_token }))
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let options = Options::new(request.dry_run, &request.message)?;
        let targets = match plan::targets(&request.items) {
            Ok(targets) => targets,
            Err(rejected) => return Err(self.reject(&call, rejected).await),
        };
        for (reference, _) in &targets {
            self.inside(&call, reference.namespace.as_ref()).await?;
        }
        let edit = self.objects.edit().await;
        let plan = match plan::delete(edit.base(), &targets) {
            Ok(plan) => plan,
            Err(rejected) => return Err(self.reject(&call, rejected).await),
        };
        let (revision, results) = self.finish(edit, plan, &call, &options).await?;
        Ok(Response::new(proto::DeleteResponse { revision, results }))
    }

    async fn list_audit(
        &self,
        request: Request<proto::ListAuditRequest>,
    ) -> Result<Response<proto::ListAuditResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size);
        let mut records =
            self.store.audit(request.from, size + 1).await.map_err(|error| store_failed(&error))?;
        let next = records.get(size).map_or(0, |record| record.sequence);
        records.truncate(size);
        Ok(Response::new(proto::ListAuditResponse { records, next }))
    }
}

/// Which objects a list wants.
struct Filter {
    kinds: Vec<Kind>,
    namespace: Option<Name>,
    size: usize,
    after: Option<ObjectRef>,
}

impl Filter {
    fn new(request: &proto::ListRequest) -> Result<Self, Status> {
        let refused = |violation: &outrigger_core::model::Violation| {
            diagnostics::status(Code::InvalidArgument, vec![diagnostics::diagnostic(violation, None, "")])
        };
        let mut kinds = Vec::new();
        for (index, kind) in request.kinds.iter().enumerate() {
            let kind = wire::policy::kind(*kind)
                .map_err(|violation| refused(&violation.under(&format!("kinds[{index}]"))))?;
            kinds.push(kind);
        }
        let namespace = match request.namespace.as_str() {
            "" => None,
            name => {
                Some(name.parse().map_err(|error| Status::invalid_argument(format!("namespace: {error}")))?)
            }
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(reference_of(token).ok_or_else(|| {
                Status::invalid_argument("page_token: it is not one of ours; start over without it")
            })?),
        };
        Ok(Self { kinds, namespace, size: page_size(request.page_size), after })
    }

    /// One page, and the token of the next. Each page is of the newest picture: what changes between two pages shows in
    /// the later one.
    fn page(&self, objects: &Objects, caller: &Caller, applied: &Applied) -> (Vec<proto::Object>, String) {
        let start = self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let wanted = objects
            .from(start)
            .filter(|(reference, _)| self.kinds.is_empty() || self.kinds.contains(&reference.kind))
            .filter(|(reference, _)| self.namespace.is_none() || reference.namespace == self.namespace)
            .filter(|(reference, _)| Denied::outside(caller, reference.namespace.as_ref()).is_ok());
        let mut page = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for (reference, object) in wanted {
            if page.len() == self.size || bytes > PAGE_BYTES {
                return (page, last.map_or_else(String::new, token_of));
            }
            let object = proto::Object::from(&with_conditions(object, applied));
            bytes += object.encoded_len();
            page.push(object);
            last = Some(reference);
        }
        (page, String::new())
    }
}

fn page_size(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(MAX_PAGE) {
        0 => DEFAULT_PAGE,
        size => size.min(MAX_PAGE),
    }
}

fn token_of(reference: &ObjectRef) -> String {
    let namespace = reference.namespace.as_ref().map_or("", Name::as_str);
    format!("{}/{namespace}/{}", reference.kind.as_str(), reference.name)
}

fn reference_of(token: &str) -> Option<ObjectRef> {
    let mut parts = token.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    let namespace = if namespace.is_empty() { None } else { Some(namespace.parse().ok()?) };
    Some(ObjectRef { kind, namespace, name: name.parse().ok()? })
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
