//! The proxies' side of telemetry.

use std::{sync::Arc, time::Duration};

use outrigger_core::{
    model::{Name, Violation},
    telemetry::{Edge, EndpointFigures, MAX_ENDPOINTS},
};
use outrigger_proto::telemetry::v1alpha1::{
    self as proto, ReportRequest, ReportResponse, telemetry_service_server::TelemetryService,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Edges, Endpoints, Stream};
use crate::reports::{Answers, Reports};

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
    reports: Reports,
}

impl Service {
    /// Adds to `edges` and keeps `endpoints` until `stop`; at most `streams` at once.
    pub fn new(edges: Arc<Edges>, endpoints: Endpoints, streams: usize, stop: CancellationToken) -> Self {
        Self { edges, endpoints, reports: Reports::new(streams, stop) }
    }
}

#[tonic::async_trait]
impl TelemetryService for Service {
    type ReportStream = Answers<ReportResponse>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let admitted = self.reports.admit(&request, "telemetry")?;
        let edges = Arc::clone(&self.edges);
        let told = self.endpoints.open(admitted.source.clone());
        let answer = move |_source: &_, report| add(&edges, &told, report);
        Ok(self.reports.answer_each((request, admitted), answer))
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
