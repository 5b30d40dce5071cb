//! The telemetry stream: what was added to each edge's histogram, at the interval that the control plane asks for; and
//! how the endpoints are, whenever that has changed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use outrigger_core::{
    model::Name,
    telemetry::{EndpointFigures, within_bound},
};
use outrigger_proto::telemetry::v1alpha1::{
    Endpoints, ReportRequest, ReportResponse, telemetry_service_client::TelemetryServiceClient,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

use super::{Figures, ledger::Ledger};
use crate::reconnect::{Session, StreamError, answer, keep};

/// Until the control plane says otherwise.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a proxy that has nothing to tell sleeps, unless something happens: what changes without a request, such as the end of
/// an ejection, is told as late as this.
const REST: Duration = Duration::from_secs(10);
/// Bounds on what it may ask for.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// The reports on the edges, running.
#[derive(Debug)]
pub struct Reporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Reporter {
    /// Reports `figures` on the current runtime, as those of `instance`.
    pub fn start(channel: Channel, figures: Arc<dyn Figures>, instance: &Name) -> Self {
        let stop = CancellationToken::new();
        let mut stream = Stream {
            channel,
            figures,
            instance: instance.to_string(),
            ledger: Ledger::new(rand::random()),
            told: Vec::new(),
            interval: DEFAULT_INTERVAL,
            silent: false,
            open: None,
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            keep(&mut stream, &stopped).await;
            // The last requests count, too.
            if let Err(error) = stream.send_all().await {
                tracing::warn!(%error, "the last figures did not reach the control plane");
            }
        });
        Self { stop, task }
    }

    /// Sends what is left, within `limit`, and ends.
    pub async fn finish(mut self, limit: Duration) {
        self.stop.cancel();
        if timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

#[derive(Debug)]
struct Open {
    requests: mpsc::Sender<ReportRequest>,
    responses: Streaming<ReportResponse>,
}

struct Stream {
    channel: Channel,
    figures: Arc<dyn Figures>,
    instance: String,
    ledger: Ledger,
    /// The endpoints as the open stream was told of them.
    told: Vec<EndpointFigures>,
    interval: Duration,
    /// The last round told nothing.
    silent: bool,
    open: Option<Open>,
}

impl Session for Stream {
    const WHAT: &'static str = "telemetry";

    async fn run(&mut self) -> Result<Infallible, StreamError> {
        loop {
            if let Err(error) = self.round().await {
                self.open = None;
                self.told.clear();
                return Err(error);
            }
        }
    }
}

impl Stream {
    async fn round(&mut self) -> Result<(), StreamError> {
        self.pause().await?;
        self.figures.activity().rest();
        self.silent = true;
        self.send_all().await?;
        self.send_endpoints().await
    }

    /// Waits for the next round. A stream that ends meanwhile is one whose endpoints are forgotten over there.
    async fn pause(&mut self) -> Result<(), StreamError> {
        let (silent, interval) = (self.silent, self.interval);
        let figures = Arc::clone(&self.figures);
        let due = async {
            if silent {
                let _rested = timeout(REST.saturating_sub(interval), figures.activity().next()).await;
            }
            sleep(interval).await;
        };
        let Some(open) = &mut self.open else {
            due.await;
            return Ok(());
        };
        let ended = async {
            loop {
                match open.responses.message().await {
                    Ok(Some(_unasked)) => {}
                    Ok(None) => return StreamError::Ended,
                    Err(status) => return status.into(),
                }
            }
        };
        tokio::select! {
            biased;
            error = ended => Err(error),
            () = due => Ok(()),
        }
    }

    /// Tells how the endpoints are, if this stream was told otherwise.
    async fn send_endpoints(&mut self) -> Result<(), StreamError> {
        let (endpoints, omitted) = within_bound(self.figures.endpoints());
        let same = endpoints.len() == self.told.len()
            && endpoints.iter().zip(&self.told).all(|(now, told)| now.is_as(told));
        if same {
            return Ok(());
        }
        let report = ReportRequest {
            instance: self.instance.clone(),
            endpoints: Some(Endpoints {
                endpoints: endpoints.iter().map(Into::into).collect(),
                omitted: u32::try_from(omitted).unwrap_or(u32::MAX),
            }),
            ..ReportRequest::default()
        };
        self.exchange(report).await?;
        self.told = endpoints;
        Ok(())
    }

    /// Sends what is unacknowledged and what was added since. Opens the stream when there is something to say.
    async fn send_all(&mut self) -> Result<(), StreamError> {
        // Twice: what waits from before, then what came since.
        for _ in 0..2 {
            self.ledger.add(self.figures.edges(), self.figures.overflowed());
            while let Some(report) = self.ledger.next().cloned() {
                let response = self.exchange(report).await?;
                self.ledger.acknowledge(response.acknowledged);
                if let Some(interval) = response.interval.and_then(|asked| Duration::try_from(asked).ok()) {
                    self.interval = interval.clamp(INTERVAL.0, INTERVAL.1);
                }
            }
        }
        Ok(())
    }

    /// Sends one report and waits for its answer.
    async fn exchange(&mut self, report: ReportRequest) -> Result<ReportResponse, StreamError> {
        let sequence = report.sequence;
        self.silent = false;
        let open = match &mut self.open {
            Some(open) => {
                open.requests.send(report).await.map_err(|_closed| StreamError::Ended)?;
                open
            }
            slot => {
                let (requests, outgoing) = mpsc::channel(1);
                requests.try_send(report).map_err(|_full| StreamError::Ended)?;
                let mut client = TelemetryServiceClient::new(self.channel.clone());
                let responses = answer(client.report(ReceiverStream::new(outgoing))).await?.into_inner();
                slot.insert(Open { requests, responses })
            }
        };
        loop {
            let response = answer(open.responses.message()).await?.ok_or(StreamError::Ended)?;
            if response.acknowledged >= sequence {
                return Ok(response);
            }
        }
    }
}
