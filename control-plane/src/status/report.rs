//! The proxies' side: what they applied.

use std::sync::Arc;

use outrigger_proto::status::v1alpha1::{
    AppliedAck, AppliedReport, proxy_status_service_server::ProxyStatusService,
};
use outrigger_tls::grpc::Peer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::Board;

/// Types and names in one report; a proxy of ours stays far below.
const MAX_ENTRIES: usize = 20_000;

/// See the module.
#[derive(Debug)]
pub struct ReportService {
    board: Arc<Board>,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

impl ReportService {
    /// Writes to `board` until `stop`; at most `streams` at once.
    pub fn new(board: Arc<Board>, streams: usize, stop: CancellationToken) -> Self {
        Self { board, streams: Arc::new(Semaphore::new(streams)), stop }
    }
}

#[tonic::async_trait]
impl ProxyStatusService for ReportService {
    type ReportStream = ReceiverStream<Result<AppliedAck, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<AppliedReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let identity = request.extensions().get::<Peer>().and_then(|peer| peer.id.clone());
        let identity =
            identity.ok_or_else(|| Status::unauthenticated("a workload's certificate is needed"))?;
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_none_left| Status::resource_exhausted("too many status streams"))?;
        let (answers, stream) = mpsc::channel(1);
        let (board, stop) = (Arc::clone(&self.board), self.stop.clone());
        let mut reports = request.into_inner();
        tokio::spawn(async move {
            let _permit: OwnedSemaphorePermit = permit;
            loop {
                let report = tokio::select! {
                    report = reports.message() => report,
                    () = answers.closed() => return,
                    () = stop.cancelled() => Err(Status::unavailable("the control plane stops")),
                };
                let answer = match report {
                    Ok(Some(report)) if report.applied.len() + report.pending.len() > MAX_ENTRIES => {
                        Err(Status::invalid_argument("the report names too much"))
                    }
                    Ok(Some(report)) => {
                        let generation = report.generation;
                        board.report(&identity, report);
                        Ok(AppliedAck { generation })
                    }
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                let last = answer.is_err();
                if answers.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
