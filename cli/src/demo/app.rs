//! The demo's applications: `front` and `cart` hand each request on to the next service through their sidecars, `price`
//! answers. All end when their standard input does: with the process that started them.

mod log;
mod price;
mod relay;

use std::{
    convert::Infallible,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::mpsc};

pub(crate) use self::price::{Fault, SLOW};
use self::{log::Log, price::Price, relay::Relay};
use crate::{args::DemoRole, failure::Failure};

/// Names a request from the load to the log.
pub(crate) const ID: &str = "x-demo-id";
/// Names the instance that answered.
pub(crate) const INSTANCE: &str = "x-demo-instance";

/// Most of a request body, bytes.
const MAX_BODY: usize = 64 * 1024;

/// What the process does, made once.
#[derive(Debug)]
enum App {
    Relay(Relay),
    Price(Price),
}

/// Runs an application until standard input ends.
pub(crate) async fn run(role: DemoRole) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(|error| Failure::io("cannot listen", error))?;
    let address = listener.local_addr().map_err(|error| Failure::io("cannot listen", error))?;
    announce(address)?;
    let mut stdin = lines();
    let app = match role {
        DemoRole::Price { name, slow_every, log } => {
            App::Price(Price::new(&name, slow_every, Log::open(&log)?)?)
        }
        DemoRole::Relay { to, log } => {
            let log = log.as_deref().map(Log::open).transpose()?;
            match sidecar(&mut stdin).await? {
                Some(outbound) => App::Relay(Relay::new(outbound, &to, log)?),
                None => return Ok(()),
            }
        }
        DemoRole::Guard { .. } => return Err(Failure::Usage("a guard is no application".to_owned())),
    };
    let app = Arc::new(app);
    tokio::select! {
        () = serve(listener, Arc::clone(&app)) => Ok(()),
        ended = obey(stdin, &app) => ended,
    }
}

/// Tells the parent where the application listens.
fn announce(address: SocketAddr) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{address}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::io("cannot announce the address", error))
}

/// The lines of standard input. Read by a thread of its own, which does not hold up the end of the process.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The sidecar's outbound address, which is known only after the application's own; `None`: the parent is gone.
async fn sidecar(stdin: &mut mpsc::Receiver<String>) -> Result<Option<SocketAddr>, Failure> {
    stdin
        .recv()
        .await
        .map(|line| line.trim().parse())
        .transpose()
        .map_err(|error| Failure::Usage(format!("standard input is not an address: {error}")))
}

/// Has the faults that it is told to have, until standard input ends.
async fn obey(mut stdin: mpsc::Receiver<String>, app: &App) -> Result<(), Failure> {
    while let Some(line) = stdin.recv().await {
        match app {
            App::Price(price) => price.has(line.parse().map_err(Failure::Usage)?),
            App::Relay(_) => return Err(Failure::Usage(format!("not a word for this application: {line}"))),
        }
    }
    Ok(())
}

async fn serve(listener: TcpListener, app: Arc<App>) {
    loop {
        // An error of accept is one connection's (or the lack of a descriptor, which passes).
        let Ok((stream, _peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        drop(stream.set_nodelay(true));
        let app = Arc::clone(&app);
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(app.answer(request).await) }
        });
        let connection =
            http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
        // A broken connection is its client's to report.
        tokio::spawn(connection);
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_cut_short) => return plain(StatusCode::BAD_REQUEST, "the body broke off"),
        };
        match self {
            Self::Relay(relay) => relay.answer(head.method, &head.headers, body).await,
            Self::Price(price) => price.answer(&head.method, &head.headers).await,
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
