//! The proxy's side of the socket. Few connections, short ones, and none that outlives the stop it asked for.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{DRAIN, DRAINED, Phase, Stop};

/// Connections at once; a further one waits in the listener's queue.
const CONNECTIONS: usize = 16;
/// For a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection lives no longer than a stop may take, and so much.
const SPARE: Duration = Duration::from_secs(10);
/// After an accept that failed for want of descriptors or memory, the next one waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket, bound; its file goes with it.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

/// What the socket is served with.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) stop: Stop,
    /// Ends it.
    pub(crate) end: CancellationToken,
    /// Where its connections are waited for.
    pub(crate) tasks: TaskTracker,
}

impl Bound {
    /// Takes the place of one that was left behind: the directory is the caller's alone.
    ///
    /// # Errors
    /// If there is no place for it: a path of more than 107 bytes is too long for the system.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // Nobody else gets as far as the socket before: the directory is private.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until the end; answers under way are finished.
    pub(crate) async fn serve(self, served: Served) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let next = tokio::select! {
                next = next => next,
                () = served.end.cancelled() => return,
            };
            match next {
                (Ok(place), Ok((stream, _nameless))) => {
                    let tasks = served.tasks.clone();
                    tasks.spawn(connection(stream, served.clone(), place));
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "a connection to the admin socket could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
                // Nobody closes the semaphore.
                (Err(_), _) => return,
            }
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the admin socket could not be removed");
        }
    }
}

async fn connection(stream: UnixStream, served: Served, place: OwnedSemaphorePermit) {
    let Served { stop, end, .. } = served;
    let life = stop.shutdown.deadline().saturating_add(SPARE);
    let service = service_fn(move |request| {
        let stop = stop.clone();
        async move { Ok::<_, Infallible>(answer(&request, stop).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(8 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let whole = async {
        tokio::select! {
            outcome = connection.as_mut() => return outcome,
            () = end.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    if let Ok(Err(error)) = timeout(life, whole).await {
        tracing::debug!(%error, "a connection to the admin socket failed");
    }
    drop(place);
}

async fn answer(request: &Request<Incoming>, mut stop: Stop) -> Response<Full<Bytes>> {
    match (request.uri().path(), request.method()) {
        (DRAIN, &Method::GET) => report(StatusCode::OK, &stop),
        (DRAIN, &Method::POST) => {
            begin(&stop);
            report(StatusCode::OK, &stop)
        }
        (DRAINED, &Method::POST) => {
            begin(&stop);
            // In vain only if the proxy is gone.
            let over = stop.progress.wait_for(|progress| progress.phase == Phase::Drained).await.is_ok();
            let status = if over { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            report(status, &stop)
        }
        (DRAIN | DRAINED, _) => {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST /drain, POST /drained\n");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            refused
        }
        _ => text(StatusCode::NOT_FOUND, "try /drain or /drained\n"),
    }
}

fn begin(stop: &Stop) {
    if !stop.shutdown.is_draining() {
        tracing::info!("a drain was asked for on the admin socket");
    }
    stop.shutdown.begin();
}

fn report(status: StatusCode, stop: &Stop) -> Response<Full<Bytes>> {
    match serde_json::to_vec(&stop.report()) {
        Ok(body) => response(status, HeaderValue::from_static("application/json"), body),
        Err(_unwritable) => text(StatusCode::INTERNAL_SERVER_ERROR, "the report could not be written\n"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, HeaderValue::from_static("text/plain; charset=utf-8"), text)
}

fn response(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
