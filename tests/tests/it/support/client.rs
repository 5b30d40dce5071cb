//! A plain HTTP/1.1 client: direct, or through a forward proxy in absolute form.

use std::{io, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Deadline of one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: bytes::Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client; each request has a connection of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    proxy: Option<SocketAddr>,
}

impl Client {
    pub(crate) fn direct() -> Self {
        Self { proxy: None }
    }

    pub(crate) fn through(proxy: SocketAddr) -> Self {
        Self { proxy: Some(proxy) }
    }

    pub(crate) async fn get(&self, url: &str) -> io::Result<Answer> {
        self.send(Request::get(url).body(Full::default()).map_err(io::Error::other)?).await
    }

    /// Sends a request with an absolute URI.
    pub(crate) async fn send(&self, request: Request<Full<bytes::Bytes>>) -> io::Result<Answer> {
        match tokio::time::timeout(PATIENCE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    }

    async fn exchange(&self, mut request: Request<Full<bytes::Bytes>>) -> io::Result<Answer> {
        let authority = request.uri().authority().cloned().ok_or_else(|| io::Error::other("no authority"))?;
        let host = http::HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
        request.headers_mut().entry("host").or_insert(host);
        let stream = match self.proxy {
            Some(proxy) => TcpStream::connect(proxy).await?,
            None => {
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = path.map(Into::into).unwrap_or_default();
                TcpStream::connect(authority.as_str()).await?
            }
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        driver.abort();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}
