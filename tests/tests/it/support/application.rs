//! An application of the mesh: answers with its name and remembers what it was asked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// What it was asked: head and body.
pub(crate) type Asked = Request<bytes::Bytes>;

/// A running application; stops when dropped.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Application {
    /// Starts an application that answers every request with `200` and `name` as body.
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let memory = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let memory = Arc::clone(&memory);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(name, Arc::clone(&memory), request));
                    // A connection that the peer breaks is the test's own business.
                    let _broken = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, asked, task }
    }

    /// Everything that it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    name: &'static str,
    memory: Arc<Mutex<Vec<Asked>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(Response::new(Full::default())) };
    memory.lock().unwrap().push(Request::from_parts(head, body.to_bytes()));
    let mut response = Response::new(Full::from(name));
    // An application must not be able to forge what the proxies tell each other.
    response.headers_mut().insert("outrigger-timing", http::HeaderValue::from_static("forged"));
    Ok(response)
}
