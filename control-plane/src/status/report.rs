//! The proxies' side: what they applied.

use std::sync::Arc;

use outrigger_proto::status::v1alpha1::{
    AppliedAck, AppliedReport, proxy_status_service_server::ProxyStatusService,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::Board;
use crate::reports::{Answers, Reports};

/// Types and names in one report; a proxy of ours stays far below.
const MAX_ENTRIES: usize = 20_000;

/// See the module.
#[derive(Debug)]
pub struct ReportService {
    board: Arc<Board>,
    reports: Reports,
}

impl ReportService {
    /// Writes to `board` until `stop`; at most `streams` at once.
    pub fn new(board: Arc<Board>, streams: usize, stop: CancellationToken) -> Self {
        Self { board, reports: Reports::new(streams, stop) }
    }
}

#[tonic::async_trait]
impl ProxyStatusService for ReportService {
    type ReportStream = Answers<AppliedAck>;

    async fn report(
        &self,
        request: Request<Streaming<AppliedReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let admitted = self.reports.admit(&request, "status")?;
        let board = Arc::clone(&self.board);
        Ok(self.reports.answer_each((request, admitted), move |source, report: AppliedReport| {
            if report.applied.len() + report.pending.len() > MAX_ENTRIES {
                return Err(Status::invalid_argument("the report names too much"));
            }
            let generation = report.generation;
            board.report(source, report);
            Ok(AppliedAck { generation })
        }))
    }
}
