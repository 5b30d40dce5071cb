//! The writes: Apply, Delete and Rollback differ in how their plan is made, and in nothing after it.

use outrigger_core::{model::ObjectRef, wire};
use outrigger_proto::policy::v1alpha1::{self as proto, item_result::Action, rollback_request::Target};
use prost::Message;
use tonic::{Code, Status};

use super::{PolicyApi, commit_failed, store_failed};
use crate::{
    api::{
        diagnostics,
        plan::{self, Plan, Rejected, Writer},
        refusals::Call,
    },
    audit::sha256,
    store::{
        HistoryError, Kept, Key, Reply, Revision,
        objects::{Change, Edit},
    },
};

/// Longest message for the audit record, bytes.
const MAX_MESSAGE: usize = 1024;
/// Longest idempotency key, characters.
const MAX_KEY: usize = 128;

/// What a write answers: the store's revision, and what became of each object.
type Written = (Revision, Vec<proto::ItemResult>);

/// What writes have in common.
struct Options<'a> {
    dry_run: bool,
    message: &'a str,
    /// Where the answer is to be kept.
    reply: Option<Reply>,
}

/// What a rollback goes back to.
enum Back {
    Object(ObjectRef),
    Store,
}

impl PolicyApi {
    pub(super) async fn write_apply(
        &self,
        call: &Call,
        request: &proto::ApplyRequest,
    ) -> Result<Written, Status> {
        let options =
            self.options(call, request, (request.dry_run, &request.message, &request.idempotency_key))?;
        let set = match plan::Set::new(&request.set, request.prune) {
            Ok(set) => set,
            Err(rejected) => return Err(self.reject(call, rejected).await),
        };
        let items = match plan::items(&request.items) {
            Ok(items) => items,
            Err(rejected) => return Err(self.reject(call, rejected).await),
        };
        for namespace in items.namespaces() {
            self.inside(call, namespace.as_ref()).await?;
        }
        let edit = self.parts.objects.edit().await;
        if let Some(answer) = self.answered(call, &options).await? {
            return Ok(answer);
        }
        let plan = plan::apply(edit.base(), &items, set.as_ref(), &self.writer(call));
        self.carry_out(edit, plan, call, options).await
    }

    pub(super) async fn write_delete(
        &self,
        call: &Call,
        request: &proto::DeleteRequest,
    ) -> Result<Written, Status> {
        let options =
            self.options(call, request, (request.dry_run, &request.message, &request.idempotency_key))?;
        let targets = match plan::targets(&request.items) {
            Ok(targets) => targets,
            Err(rejected) => return Err(self.reject(call, rejected).await),
        };
        for (reference, _) in &targets {
            self.inside(call, reference.namespace.as_ref()).await?;
        }
        let edit = self.parts.objects.edit().await;
        if let Some(answer) = self.answered(call, &options).await? {
            return Ok(answer);
        }
        let plan = plan::delete(edit.base(), &targets);
        self.carry_out(edit, plan, call, options).await
    }

    pub(super) async fn write_rollback(
        &self,
        call: &Call,
        request: &proto::RollbackRequest,
    ) -> Result<Written, Status> {
        let options =
            self.options(call, request, (request.dry_run, &request.message, &request.idempotency_key))?;
        let (back, revision) = match back(request.target.as_ref()) {
            Ok(target) => target,
            Err(rejected) => return Err(self.reject(call, rejected).await),
        };
        let namespace = match &back {
            Back::Object(reference) => reference.namespace.as_ref(),
            Back::Store => None,
        };
        self.inside(call, namespace).await?;
        let edit = self.parts.objects.edit().await;
        if let Some(answer) = self.answered(call, &options).await? {
            return Ok(answer);
        }
        let plan = self.rollback(&edit, &back, revision, request.unchanged_since, &self.writer(call)).await?;
        self.carry_out(edit, plan, call, options).await
    }

    async fn rollback(
        &self,
        edit: &Edit,
        back: &Back,
        revision: Revision,
        unchanged_since: Revision,
        writer: &Writer<'_>,
    ) -> Result<Result<Plan, Rejected>, Status> {
        let store = &self.parts.store;
        let past = match store.past(revision).await {
            Ok(past) => past,
            Err(HistoryError::Store(error)) => return Err(store_failed(&error)),
            Err(error) => return Ok(Err(plan::rollback::unknown(&error))),
        };
        let (only, changed) = match back {
            Back::Store => (None, past.newest_change),
            Back::Object(reference) => {
                let newest = store.versions(&Key::object(reference), Revision::MAX, 1).await;
                let newest = newest.map_err(|error| store_failed(&error))?;
                (Some(reference), newest.first().map_or(0, |version| version.revision))
            }
        };
        if unchanged_since > 0 && changed > unchanged_since {
            return Ok(Err(plan::rollback::changed(only, changed, unchanged_since)));
        }
        Ok(plan::rollback::rollback(edit.base(), &past.entries, only, revision, writer))
    }

    fn writer<'a>(&self, call: &'a Call) -> Writer<'a> {
        Writer { principal: call.caller.principal(), now: self.parts.clock.now() }
    }

    /// Checks what all writes have: whether it is a dry run, its message, and its idempotency key.
    fn options<'a>(
        &self,
        call: &Call,
        request: &impl Message,
        (dry_run, message, key): (bool, &'a str, &str),
    ) -> Result<Options<'a>, Status> {
        if message.len() > MAX_MESSAGE {
            return Err(Status::invalid_argument(format!("message: it is longer than {MAX_MESSAGE} bytes")));
        }
        if key.len() > MAX_KEY || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Status::invalid_argument(format!(
                "idempotency_key: write 1 to {MAX_KEY} printable ASCII characters without spaces, or none"
            )));
        }
        let reply = (!key.is_empty() && !dry_run).then(|| Reply {
            name: format!("{} {key}", call.caller.principal()),
            at: self.parts.clock.now(),
            request: sha256(&[call.method.as_bytes(), &request.encode_to_vec()]),
            answer: Vec::new(),
        });
        Ok(Options { dry_run, message, reply })
    }

    /// The answer that the same request had before.
    async fn answered(&self, call: &Call, options: &Options<'_>) -> Result<Option<Written>, Status> {
        let Some(reply) = &options.reply else { return Ok(None) };
        let kept = self.parts.store.reply(&reply.name, reply.at).await;
        let Some(Kept { request, revision, answer }) = kept.map_err(|error| store_failed(&error))? else {
            return Ok(None);
        };
        if request != reply.request {
            let message = "another request had this idempotency key; take a new one for each request";
            self.parts.refusals.note(call, "conflict", message).await;
            return Err(Status::already_exists(message));
        }
        let answer = proto::ApplyResponse::decode(answer.as_slice())
            .map_err(|_another_version| Status::internal("the answer that was kept cannot be read"))?;
        Ok(Some(if revision == 0 {
            (answer.revision, answer.results)
        } else {
            (revision, at(revision, answer.results))
        }))
    }

    /// Tells the caller, and the audit log, why a write is refused.
    async fn reject(&self, call: &Call, rejected: Rejected) -> Status {
        let reason = match rejected.code {
            Code::Aborted => "conflict",
            Code::NotFound => "not_found",
            Code::FailedPrecondition => "referenced",
            Code::OutOfRange => "not_kept",
            _ => "invalid",
        };
        let status = diagnostics::status(rejected.code, rejected.diagnostics);
        self.parts.refusals.note(call, reason, status.message()).await;
        status
    }

    async fn carry_out(
        &self,
        edit: Edit,
        plan: Result<Plan, Rejected>,
        call: &Call,
        options: Options<'_>,
    ) -> Result<Written, Status> {
        let mut plan = match plan {
            Ok(plan) => plan,
            Err(rejected) => return Err(self.reject(call, rejected).await),
        };
        // What is pruned may be anywhere.
        for change in &plan.changes {
            if let Change::Delete(reference) = change {
                self.inside(call, reference.namespace.as_ref()).await?;
            }
        }
        let store = &self.parts.store;
        if options.dry_run {
            plan.preview(edit.base());
            return Ok((store.revision(), plan.results));
        }
        let Plan { changes, results } = plan;
        let answer = |revision| proto::ApplyResponse { revision, results: results.clone() }.encode_to_vec();
        if changes.is_empty() {
            let revision = store.revision();
            if let Some(reply) = options.reply {
                let reply = Reply { answer: answer(revision), ..reply };
                store.remember(reply).await.map_err(|error| store_failed(&error))?;
            }
            return Ok((revision, results));
        }
        let reply = options.reply.map(|reply| Reply { answer: answer(0), ..reply });
        let mut audit = call.draft(self.parts.clock.now(), options.message);
        audit.results.clone_from(&results);
        let revision = edit.commit(changes, audit, reply).await.map_err(|error| commit_failed(&error))?;
        tracing::info!(
            revision,
            principal = call.caller.principal(),
            method = call.method,
            items = results.len(),
            "the objects changed"
        );
        Ok((revision, at(revision, results)))
    }
}

/// `results` of a write that made `revision`.
fn at(revision: Revision, mut results: Vec<proto::ItemResult>) -> Vec<proto::ItemResult> {
    for result in &mut results {
        if result.action() != Action::Unchanged {
            result.revision = revision;
        }
    }
    results
}

/// What a rollback goes back to, and when that was.
fn back(target: Option<&Target>) -> Result<(Back, Revision), Rejected> {
    match target {
        Some(Target::StoreRevision(revision)) if *revision > 0 => Ok((Back::Store, *revision)),
        Some(Target::Object(object)) if object.revision > 0 => {
            let reference = wire::policy::object_ref(&object.r#ref.clone().unwrap_or_default());
            let reference = reference.map_err(|violation| {
                Rejected::because(Code::InvalidArgument, &violation.under("object.ref"))
            })?;
            Ok((Back::Object(reference), object.revision))
        }
        _ => Err(plan::rollback::nowhere()),
    }
}
