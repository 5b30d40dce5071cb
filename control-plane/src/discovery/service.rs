//! The discovery stream's gRPC.

use std::{sync::Arc, time::Duration};

use outrigger_core::model::SpiffeId;
use outrigger_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use outrigger_tls::grpc::Peer;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{World, stream::Stream};
use crate::{clock::Clock, mesh::Metrics, status::Board};

/// How patient the service is.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open streams; one more is refused.
    pub streams: usize,
    /// How long a stream may be open without a request.
    pub first_request: Duration,
    /// How long a response may wait for a client to read the one before, or to answer it.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 10_000, first_request: Duration::from_secs(10), patience: Duration::from_secs(60) }
    }
}

/// From when to when proxies are told anything.
#[derive(Debug, Clone)]
pub struct Ends {
    /// Not before it is true: after a restore, not before all workloads can have registered again.
    pub settled: watch::Receiver<bool>,
    /// Until then.
    pub stop: CancellationToken,
}

/// What all streams share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) worlds: watch::Receiver<Arc<World>>,
    pub(super) board: Arc<Board>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) stop: CancellationToken,
    /// Nobody is told anything before it is true.
    pub(super) settled: watch::Receiver<bool>,
}

/// See the module.
#[derive(Debug)]
pub struct Service {
    shared: Shared,
    streams: Arc<Semaphore>,
}

impl Service {
    /// Serves `worlds` between `ends`, and writes to `board` how far each stream has come.
    pub fn new(
        worlds: watch::Receiver<Arc<World>>,
        board: Arc<Board>,
        metrics: Metrics,
        clock: Clock,
        limits: Limits,
        ends: Ends,
    ) -> Self {
        let Ends { settled, stop } = ends;
        let shared = Shared { worlds, board, metrics, clock, limits, stop, settled };
        Self { shared, streams: Arc::new(Semaphore::new(limits.streams)) }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let client: SpiffeId = request
            .extensions()
            .get::<Peer>()
            .and_then(|peer| peer.id.clone())
            .filter(|id| id.as_workload().is_some())
            .ok_or_else(|| Status::unauthenticated("a workload's certificate is needed"))?;
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_none_left| Status::resource_exhausted("too many discovery streams"))?;
        // One place: a response is made when the one before was taken.
        let (responses, stream) = mpsc::channel(1);
        let serve = Stream::new(self.shared.clone(), client, responses, permit);
        tokio::spawn(serve.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
