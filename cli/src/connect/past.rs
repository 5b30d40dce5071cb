//! The calls that look back: history, watch, the audit record, and the backup.

use std::time::Duration;

use outrigger_proto::{
    backup::v1alpha1::{BackupRequest, backup_service_client::BackupServiceClient},
    policy::v1alpha1 as policy,
};
use tonic::{Code, Status, Streaming};

use super::{ControlPlane, MAX_PAGES};
use crate::failure::Failure;

/// Versions and records of one page.
const PAGE: u32 = 500;
/// A watch hears something every 20 seconds; one that does not is lost.
const SILENCE: Duration = Duration::from_secs(60);

/// A watch that is open.
#[derive(Debug)]
pub(crate) struct Watching(Streaming<policy::WatchEvent>);

impl Watching {
    /// What comes next; `None`: it ended, or was lost, and goes on from the last bookmark.
    ///
    /// # Errors
    /// The control plane says that it cannot go on.
    pub(crate) async fn next(&mut self) -> Result<Option<policy::WatchEvent>, Status> {
        match tokio::time::timeout(SILENCE, self.0.message()).await {
            Ok(Err(status)) if is_lost(&status) => Ok(None),
            Ok(heard) => heard,
            Err(_elapsed) => Ok(None),
        }
    }
}

/// Whether it may be tried again.
fn is_lost(status: &Status) -> bool {
    // A connection that breaks in the middle is `unknown` to the transport.
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}

impl ControlPlane {
    /// Opens a watch; `None`: nobody answers.
    pub(crate) async fn watch(
        &self,
        kind: policy::Kind,
        namespace: &str,
        from_revision: u64,
    ) -> Result<Option<Watching>, Failure> {
        let message =
            policy::WatchRequest { kinds: vec![kind.into()], namespace: namespace.to_owned(), from_revision };
        let mut client = self.policy();
        // Without a deadline of its own: it lasts.
        let open = Box::pin(client.watch(tonic::Request::new(message)));
        match self.bounded(self.call_timeout, open).await {
            Ok(response) => Ok(Some(Watching(response.into_inner()))),
            Err(status) if is_lost(&status) || status.code() == Code::DeadlineExceeded => Ok(None),
            Err(status) => Err(self.failed(&status)),
        }
    }

    /// At most `limit` versions of an object, or revisions of the store, newest first; and the oldest revision that is
    /// kept.
    pub(crate) async fn history(
        &self,
        reference: Option<policy::ObjectRef>,
        limit: u32,
    ) -> Result<policy::HistoryResponse, Failure> {
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found = policy::HistoryResponse::default();
        for _ in 0..MAX_PAGES {
            let message = policy::HistoryRequest {
                r#ref: reference.clone(),
                page_size: limit.min(PAGE),
                before: found.next,
            };
            let mut client = self.policy();
            let page = self.call(Box::pin(client.history(self.request(message)))).await?;
            found.versions.extend(page.versions);
            (found.oldest, found.next) = (page.oldest, page.next);
            if found.next == 0 || found.versions.len() >= wanted {
                found.versions.truncate(wanted);
                return Ok(found);
            }
        }
        Err(Failure::refused("the control plane's history does not end", ""))
    }

    /// Shows every record of the audit log to `each`, oldest first.
    pub(crate) async fn audit(
        &self,
        mut each: impl FnMut(policy::AuditRecord) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut from = 0;
        loop {
            let message = policy::ListAuditRequest { from, page_size: PAGE };
            let mut client = self.policy();
            let page = self.call(Box::pin(client.list_audit(self.request(message)))).await?;
            page.records.into_iter().try_for_each(&mut each)?;
            // Strictly further each time, so that it ends.
            if page.next <= from {
                return Ok(());
            }
            from = page.next;
        }
    }

    /// Gives a backup to `each` piece by piece.
    pub(crate) async fn backup(
        &self,
        mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut client = BackupServiceClient::new(self.channel.clone());
        let open = Box::pin(client.backup(tonic::Request::new(BackupRequest {})));
        let opened = self.bounded(self.call_timeout, open).await.map_err(|status| self.failed(&status))?;
        let mut pieces = opened.into_inner();
        loop {
            let piece = self.bounded(self.call_timeout, Box::pin(pieces.message())).await;
            match piece.map_err(|status| self.failed(&status))? {
                Some(piece) => each(&piece.data)?,
                None => return Ok(()),
            }
        }
    }

    /// What a status of a watch means.
    pub(crate) fn meaning(&self, status: &Status) -> Failure {
        self.failed(status)
    }
}
