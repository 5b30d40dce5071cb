//! The endpoint for supervisors and Prometheus: GET `/live`, `/ready`, `/metrics`, and nothing else. Reachable by
//! anybody who reaches the address, so it holds no secret and changes nothing.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

/// Connections at once; a further one waits in the listener's queue.
const CONNECTIONS: usize = 64;
/// For a request's head, from the connection's start or the last answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection lives no longer, so that idle ones cannot hold all places.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// After an accept that failed for want of descriptors or memory, the next one waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Whether the process is ready, and why not. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Health(Arc<watch::Sender<Readiness>>);

/// Whether work should be sent here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// No, and why: one sentence for people, without secrets.
    NotReady(String),
}

impl Health {
    /// Not ready, because of `reason`.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(Arc::new(watch::Sender::new(Readiness::NotReady(reason.into()))))
    }

    /// Ready from now on.
    pub fn set_ready(&self) {
        self.set(Readiness::Ready);
    }

    /// Not ready from now on, because of `reason`.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(Readiness::NotReady(reason.into()));
    }

    /// As it is now.
    pub fn readiness(&self) -> Readiness {
        self.0.borrow().clone()
    }

    /// To wait for a change.
    pub fn watch(&self) -> watch::Receiver<Readiness> {
        self.0.subscribe()
    }

    fn set(&self, next: Readiness) {
        self.0.send_if_modified(|current| {
            let changed = *current != next;
            *current = next;
            changed
        });
    }
}

/// Writes all metrics as OpenMetrics text: `prometheus_client::encoding::text::encode` over the process's registry.
pub type Metrics = Arc<dyn Fn(&mut String) -> fmt::Result + Send + Sync>;

/// Serves on `listener` until `stop`; answers under way are finished.
pub async fn serve(listener: TcpListener, health: Health, metrics: Metrics, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => return,
        };
        match (place, accepted) {
            (Ok(place), Ok((tcp, _address))) => {
                let served = connection(tcp, health.clone(), Arc::clone(&metrics), stop.clone(), place);
                tokio::spawn(Box::pin(served));
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection to the health endpoint could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // Nobody closes the semaphore.
            (Err(_), _) => return,
        }
    }
}

async fn connection(
    tcp: TcpStream,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
    place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let response = answer(&request, &health, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(tcp), service);
    let mut connection = std::pin::pin!(connection);
    let whole = async {
        tokio::select! {
            outcome = connection.as_mut() => return outcome,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIFE, whole).await {
        tracing::debug!(%error, "a connection to the health endpoint failed");
    }
    drop(place);
}

fn answer(request: &Request<Incoming>, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/live" | "/ready" | "/metrics") {
        return response(StatusCode::NOT_FOUND, TEXT, "try /live, /ready or /metrics\n");
    }
    if request.method() != Method::GET {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    match path {
        "/ready" => match health.readiness() {
            Readiness::Ready => response(StatusCode::OK, TEXT, "ready\n"),
            Readiness::NotReady(reason) => {
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n"))
            }
        },
        "/metrics" => {
            let mut text = String::new();
            match metrics(&mut text) {
                Ok(()) => response(StatusCode::OK, OPENMETRICS, text),
                Err(fmt::Error) => {
                    response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics could not be written\n")
                }
            }
        }
        _ => response(StatusCode::OK, TEXT, "live\n"),
    }
}

fn response(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
