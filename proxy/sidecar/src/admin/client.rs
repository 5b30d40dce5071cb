//! The other side of the socket: what `outrigger-proxy drain` does.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use super::{DRAIN, DRAINED, MAX_REPORT, Report, socket};

/// For an answer that is there at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a drain could not be asked for, or did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error(
        "no proxy answers at {}: it is not running, or it has another state_dir (--state-dir)", .0.display()
    )]
    Absent(PathBuf),
    /// It belongs to somebody else.
    #[error("{} is closed to this user: run this as the user of the proxy", .0.display())]
    Forbidden(PathBuf),
    /// The socket.
    #[error("{} cannot be used", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the proxy ended before it had drained")]
    Ended(#[source] hyper::Error),
    /// Something else is there.
    #[error("what answers at {} is no proxy of this version: {what}", path.display())]
    Strange {
        /// Where.
        path: PathBuf,
        /// What is strange.
        what: String,
    },
    /// It takes longer than the caller would wait.
    #[error("still not drained after {0:?}: it goes on (a larger --timeout waits longer)")]
    TooLong(Duration),
}

/// Asks the proxy of `state_dir` to drain. `wait`: until it has; for `limit`, or as long as the proxy itself may take.
///
/// # Errors
/// If there is no proxy, or it had not drained in time.
pub async fn drain(state_dir: &Path, wait: bool, limit: Option<Duration>) -> Result<Report, ClientError> {
    let path = socket(state_dir);
    let in_time = async |patience, method, target| {
        let answer = timeout(patience, call(&path, method, target)).await;
        answer.map_err(|_elapsed| ClientError::TooLong(patience))?
    };
    if !wait {
        return in_time(limit.unwrap_or(PATIENCE), Method::POST, DRAIN).await;
    }
    let patience = match limit {
        Some(limit) => limit,
        None => {
            let now: Report = in_time(PATIENCE, Method::GET, DRAIN).await?;
            Duration::from_secs(now.limit_seconds).saturating_add(PATIENCE)
        }
    };
    in_time(patience, Method::POST, DRAINED).await
}

async fn call(path: &Path, method: Method, target: &'static str) -> Result<Report, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Absent(path.to_owned()),
        io::ErrorKind::PermissionDenied => ClientError::Forbidden(path.to_owned()),
        _ => ClientError::Socket { path: path.to_owned(), source },
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Ended)?;
    let driver = tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_static(target);
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    let answer = sender.send_request(request).await.map_err(ClientError::Ended)?;
    let strange = |what: String| ClientError::Strange { path: path.to_owned(), what };
    if answer.status() != StatusCode::OK {
        return Err(strange(format!("its answer is {}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), MAX_REPORT).collect().await;
    let body = body.map_err(|error| strange(error.to_string()))?.to_bytes();
    driver.abort();
    serde_json::from_slice(&body).map_err(|error| strange(error.to_string()))
}
