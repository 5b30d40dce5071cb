//! A small HTTP/1.1 client that keeps connections: the demo's load and its `front` use it. It never retries.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

/// Most of a response body, bytes.
const MAX_BODY: usize = 64 * 1024;
/// Connections kept for later; more are closed after use.
const MAX_IDLE: usize = 64;
/// A kept connection older than this is not used again: the peer may be closing it, and a POST must not find out.
const IDLE: Duration = Duration::from_secs(2);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Http(#[source] hyper::Error),
    /// The body broke off, or was too large.
    #[error("the body broke off: {0}")]
    Body(String),
    /// Too slow.
    #[error("no answer within {}", crate::duration::span(*.0))]
    Timeout(Duration),
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
}

/// Keeps connections to one address. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    timeout: Duration,
    idle: Arc<Mutex<Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

impl Client {
    /// A client of `address`; `timeout` is for a whole request.
    pub(crate) fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self { address, timeout, idle: Arc::default() }
    }

    /// Sends `request` as it is (an absolute URI stays absolute) and reads the whole answer.
    ///
    /// # Errors
    /// [`SendError`]; the request may or may not have been processed then.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, SendError> {
        timeout(self.timeout, self.exchange(request)).await.unwrap_or(Err(SendError::Timeout(self.timeout)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, SendError> {
        let mut sender = match self.take() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(SendError::Http)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|error| SendError::Body(error.to_string()))?
            .to_bytes();
        if sender.ready().await.is_ok() {
            self.keep(sender);
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, SendError> {
        let stream = TcpStream::connect(self.address).await.map_err(SendError::Connect)?;
        stream.set_nodelay(true).map_err(SendError::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(SendError::Http)?;
        // Ends when the sender is dropped or the peer closes; its error reaches the request that met it.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// The connection used last: the others may grow old and be closed.
    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| kept.since.elapsed() < IDLE && kept.sender.is_ready());
        idle.pop().map(|kept| kept.sender)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }
}
