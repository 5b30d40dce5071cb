//! An application of the mesh: answers with its name and remembers what it was asked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// What it was asked: head and body.
pub(crate) type Asked = Request<Bytes>;

/// The body of an answer.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// A body of these bytes.
pub(crate) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::from(bytes.into()).boxed()
}

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
        Self::answering(move |_| Response::new(body(name))).await
    }

    /// Starts an application whose answers are made by `answer`.
    pub(crate) async fn answering(answer: impl Fn(&Asked) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer)
    }

    /// The same, behind a listener.
    pub(crate) fn at(
        listener: TcpListener,
        answer: impl Fn(&Asked) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::serving(listener, move |asked| std::future::ready(answer(asked)))
    }

    /// Starts an application that works on its answers for a while.
    pub(crate) async fn working<F>(answer: impl Fn(&Asked) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::serving(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer)
    }

    fn serving<F>(listener: TcpListener, answer: impl Fn(&Asked) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (memory, answer) = (Arc::clone(&asked), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (memory, answer) = (Arc::clone(&memory), Arc::clone(&answer));
                tokio::spawn(async move {
                    let service = service_fn(|request| exchange(&*answer, &memory, request));
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

async fn exchange<F: Future<Output = Response<Body>>>(
    answer: &(impl Fn(&Asked) -> F + Sync),
    memory: &Mutex<Vec<Asked>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(Response::new(self::body(""))) };
    let asked = Request::from_parts(head, body.to_bytes());
    let mut response = answer(&asked).await;
    memory.lock().unwrap().push(asked);
    // An application must not be able to forge what the proxies tell each other.
    response.headers_mut().insert("outrigger-timing", http::HeaderValue::from_static("forged"));
    Ok(response)
}
