//! The proxies' side of telemetry.

use std::{sync::Arc, time::Duration};

use outrigger_core::{
    model::{Name, Violation},
    telemetry::{Edge, EndpointFigures, MAX_ENDPOINTS},
};
use outrigger_proto::telemetry::v1alpha1::{
    self as proto, ReportRequest, ReportResponse, telemetry_service_server::TelemetryService,
};
use outrigger_tls::grpc::Peer;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Edges, Endpoints, Stream};

/// How often a proxy should report.
const INTERVAL: Duration = Duration::from_secs(2);
/// Messages for edges in one report: a proxy keeps at most 1 000 edges, nearly all of one message.
const MAX_EDGES: usize = 4_000;
/// Largest report, bytes.
pub const MAX_REPORT_BYTES: usize = 8 << 20;

/// See the module.
#[derive(Debug)]
pub struct Service {
    edges: Arc<Edges>,
    endpoints: Endpoints,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Service {
    /// Adds to `edges` and keeps `endpoints` until `stop`; at most `streams` at once.
    pub fn new(edges: Arc<Edges>, endpoints: Endpoints, streams: usize, stop: CancellationToken) -> Self {
        Self { edges, endpoints, streams: Arc::new(Semaphore::new(streams)), stop }
    }
}

#[tonic::async_trait]
impl TelemetryService for Service {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let identity = request.extensions().get::<Peer>().and_then(|peer| peer.id.clone());
        let source = identity.ok_or_else(|| Status::unauthenticated("a workload's certificate is needed"))?;
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_none_left| Status::resource_exhausted("too many telemetry streams"))?;
        let (answers, stream) = mpsc::channel(1);
        let (edges, stop) = (Arc::clone(&self.edges), self.stop.clone());
        let told = self.endpoints.open(source.clone());
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
                    Ok(Some(report)) => add(&edges, &told, report),
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

fn add(edges: &Edges, told: &Stream, mut report: ReportRequest) -> Result<ReportResponse, Status> {
    if report.edges.len() > MAX_EDGES {
        return Err(Status::invalid_argument(format!("edges: more than {MAX_EDGES}")));
    }
    let (now, endpoints) = (Instant::now(), report.endpoints.take());
    let counted: Vec<Edge> = all(std::mem::take(&mut report.edges), "edges")?;
    if let Some(endpoints) = endpoints {
        replace(told, &report.instance, endpoints, now)?;
    }
    let acknowledged = edges.add(told.source(), report.run, report.sequence, counted, now);
    Ok(ReportResponse { acknowledged, interval: prost_types::Duration::try_from(INTERVAL).ok() })
}

fn replace(told: &Stream, instance: &str, wire: proto::Endpoints, now: Instant) -> Result<(), Status> {
    if wire.endpoints.len() > MAX_ENDPOINTS {
        return Err(Status::invalid_argument(format!("endpoints: more than {MAX_ENDPOINTS}")));
    }
    let instance: Name =
        instance.parse().map_err(|error| Status::invalid_argument(format!("instance: {error}")))?;
    let endpoints: Vec<EndpointFigures> = all(wire.endpoints, "endpoints.endpoints")?;
    told.replace(&instance, endpoints, usize::try_from(wire.omitted).unwrap_or(usize::MAX), now);
    Ok(())
}

/// Every element of a list, or what is wrong with the first that is not valid.
fn all<W, T: TryFrom<W, Error = Violation>>(wire: Vec<W>, field: &str) -> Result<Vec<T>, Status> {
    let valid = |(index, element): (usize, W)| {
        T::try_from(element).map_err(|violation| {
            Status::invalid_argument(violation.under(&format!("{field}[{index}]")).to_string())
        })
    };
    wire.into_iter().enumerate().map(valid).collect()
}
