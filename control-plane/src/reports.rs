//! Streams on which a workload reports, and each report is answered.

use std::sync::Arc;

use outrigger_core::model::SpiffeId;
use outrigger_tls::grpc::Peer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// The answers.
pub(crate) type Answers<A> = ReceiverStream<Result<A, Status>>;

/// So many streams at once, until they are stopped.
#[derive(Debug)]
pub(crate) struct Reports {
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The place of a stream that may be opened.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) source: SpiffeId,
    permit: OwnedSemaphorePermit,
}

impl Reports {
    pub(crate) fn new(streams: usize, stop: CancellationToken) -> Self {
        Self { streams: Arc::new(Semaphore::new(streams)), stop }
    }

    /// Admits a workload's stream of `what`.
    ///
    /// # Errors
    /// If it is nobody's, or one too many.
    pub(crate) fn admit<Q>(&self, request: &Request<Q>, what: &str) -> Result<Admitted, Status> {
        let source = request.extensions().get::<Peer>().and_then(|peer| peer.id.clone());
        let source = source.ok_or_else(|| Status::unauthenticated("a workload's certificate is needed"))?;
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_none_left| Status::resource_exhausted(format!("too many {what} streams")))?;
        Ok(Admitted { source, permit })
    }

    /// Answers each report with `answer`; an error is the last one.
    pub(crate) fn answer_each<Q, A>(
        &self,
        (request, admitted): (Request<Streaming<Q>>, Admitted),
        mut answer: impl FnMut(&SpiffeId, Q) -> Result<A, Status> + Send + 'static,
    ) -> Response<Answers<A>>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let (answers, stream) = mpsc::channel(1);
        let stop = self.stop.clone();
        let mut reports = request.into_inner();
        tokio::spawn(async move {
            let Admitted { source, permit: _permit } = admitted;
            loop {
                let report = tokio::select! {
                    report = reports.message() => report,
                    () = answers.closed() => return,
                    () = stop.cancelled() => Err(Status::unavailable("the control plane stops")),
                };
                let answer = match report {
                    Ok(Some(report)) => answer(&source, report),
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                let last = answer.is_err();
                if answers.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Response::new(ReceiverStream::new(stream))
    }
}
