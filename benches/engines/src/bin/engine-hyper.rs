//! A pair on hyper with tokio-rustls: HTTP/1.1 from the client and to the application, and between the two halves either
//! HTTP/1.1 with a connection for each request under way, or HTTP/2 with one for all.

use std::{error::Error, io, sync::Arc, time::Duration};

use clap::Parser;
use http::{Request, Response, Uri, Version, header};
use hyper::{body::Incoming, client::conn, server::conn as server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_engines::{Arguments, Leg, Side};
use outrigger_tls::mesh;
use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Mutex as AsyncMutex,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const CONNECT: Duration = Duration::from_secs(5);
/// Before the next attempt when no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 flow control: one slow stream must not stop the others.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

type Failure = Box<dyn Error + Send + Sync>;

/// Sends requests to the one upstream.
struct Upstream {
    arguments: Arguments,
    tls: Option<Arc<ClientConfig>>,
    idle: Mutex<Vec<conn::http1::SendRequest<Incoming>>>,
    multiplexed: AsyncMutex<Option<conn::http2::SendRequest<Incoming>>>,
}

impl Upstream {
    async fn call(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
        match (self.arguments.side, self.arguments.leg) {
            (Side::Outbound, Leg::Http2) => self.multiplex(request).await,
            (Side::Outbound, Leg::Http1) | (Side::Inbound, _) => self.reuse(request).await,
        }
    }

    /// On a connection that nobody else uses.
    async fn reuse(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
        to_http1(&mut request)?;
        let mut sender = loop {
            let found = self.idle.lock().pop();
            match found {
                Some(sender) if sender.is_closed() => {}
                Some(sender) => break sender,
                None => break self.connect_http1().await?,
            }
        };
        let response = sender.send_request(request).await?;
        // Free again when the body has been read.
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                self.idle.lock().push(sender);
            }
        });
        Ok(response)
    }

    /// As a stream beside the others.
    async fn multiplex(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, Failure> {
        to_http2(&mut request)?;
        let mut sender = {
            let mut shared = self.multiplexed.lock().await;
            match shared.as_ref().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender.clone(),
                None => shared.insert(self.connect_http2().await?).clone(),
            }
        };
        let mut response = sender.send_request(request).await?;
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    async fn connect_http1(&self) -> Result<conn::http1::SendRequest<Incoming>, Failure> {
        let stream = dial(&self.arguments).await?;
        match &self.tls {
            None => http1(stream).await,
            Some(config) => http1(shake_hands(config, stream).await?).await,
        }
    }

    async fn connect_http2(&self) -> Result<conn::http2::SendRequest<Incoming>, Failure> {
        let config = self.tls.as_ref().ok_or("the multiplexed leg is a TLS leg")?;
        let stream = shake_hands(config, dial(&self.arguments).await?).await?;
        let (sender, connection) = conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn dial(arguments: &Arguments) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT, TcpStream::connect(arguments.upstream)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn shake_hands(
    config: &Arc<ClientConfig>,
    stream: TcpStream,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    timeout(CONNECT, TlsConnector::from(Arc::clone(config)).connect(mesh::server_name(), stream)).await?
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<conn::http1::SendRequest<Incoming>, Failure> {
    let (sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Origin form, and a `Host`.
fn to_http1(request: &mut Request<Incoming>) -> Result<(), Failure> {
    if let Some(authority) = request.uri().authority().map(|authority| authority.as_str().parse()) {
        request.headers_mut().insert(header::HOST, authority?);
        *request.uri_mut() = match request.uri().path_and_query() {
            Some(path) => Uri::from(path.clone()),
            None => Uri::from_static("/"),
        };
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Absolute form for `:authority` and `:scheme`, and nothing that concerns one connection.
fn to_http2(request: &mut Request<Incoming>) -> Result<(), Failure> {
    let host = request.headers_mut().remove(header::HOST).ok_or("a request without Host")?;
    request.headers_mut().remove(header::CONNECTION);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() =
        Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path).build()?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// One connection of a client, or of the other half.
async fn serve(
    upstream: Arc<Upstream>,
    tls: Option<Arc<ServerConfig>>,
    stream: TcpStream,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let service = service_fn(|request| Arc::clone(&upstream).call(request));
    let Some(tls) = tls else {
        return Ok(server::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?);
    };
    let stream = TokioIo::new(timeout(CONNECT, TlsAcceptor::from(tls).accept(stream)).await??);
    match upstream.arguments.leg {
        Leg::Http1 => server::http1::Builder::new().serve_connection(stream, service).await?,
        Leg::Http2 => {
            let mut builder = server::http2::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(1_000);
            builder.serve_connection(stream, service).await?;
        }
    }
    Ok(())
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let identity = arguments.identity()?;
    let alpn: &[&[u8]] = match arguments.leg {
        Leg::Http1 => &[mesh::ALPN_H1],
        Leg::Http2 => &[mesh::ALPN_H2],
    };
    let (accepting, dialling) = match arguments.side {
        Side::Outbound => (None, Some(mesh::client_config(&identity, [arguments.peer.clone()], alpn))),
        Side::Inbound => (Some(mesh::server_config(&identity, alpn)), None),
    };
    let listener = TcpListener::bind(arguments.listen).await?;
    let upstream = Arc::new(Upstream {
        arguments,
        tls: dialling,
        idle: Mutex::default(),
        multiplexed: AsyncMutex::default(),
    });
    loop {
        match listener.accept().await {
            // What breaks one connection is seen by its peer.
            Ok((stream, _)) => drop(tokio::spawn(serve(Arc::clone(&upstream), accepting.clone(), stream))),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(Arguments::parse()))
}
