//! The demo's applications. `front` asks `price` through its sidecar and hands the answer on; `price` answers and logs
//! every request that carries an id. Both end when their standard input does: with the process that started them.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::mpsc};

use super::client::{Answer, Client};
use crate::{args::DemoRole, failure::Failure};

/// Names a request from the load to the log.
pub(crate) const ID: &str = "x-demo-id";
/// Names the version that answered.
pub(crate) const VERSION: &str = "x-demo-version";
/// What a sidecar says about its verified caller.
const CALLER: &str = "x-forwarded-client-cert";

/// Most of a request body, bytes.
const MAX_BODY: usize = 64 * 1024;
/// The time an answer takes.
const WORK: Duration = Duration::from_millis(1);
/// What one in so many requests of the slow version takes: more than a busy machine adds by itself.
pub(crate) const SLOW: Duration = Duration::from_millis(100);
/// Longer than any delay of the demo, shorter than the load's patience.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the process does, made once.
#[derive(Debug)]
enum App {
    Front(Client),
    Price(Price),
}

#[derive(Debug)]
struct Price {
    version: HeaderValue,
    slow_every: u64,
    served: AtomicU64,
    log: File,
}

/// Runs `front` or `price` until standard input ends.
pub(crate) async fn run(role: DemoRole) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(|error| Failure::io("cannot listen", error))?;
    let address = listener.local_addr().map_err(|error| Failure::io("cannot listen", error))?;
    announce(address)?;
    let mut stdin = lines();
    let app = match role {
        DemoRole::Price { version, slow_every, log } => App::Price(Price::new(&version, slow_every, &log)?),
        DemoRole::Front | DemoRole::Guard { .. } => match sidecar(&mut stdin).await? {
            Some(outbound) => App::Front(Client::new(outbound, TIMEOUT)),
            None => return Ok(()),
        },
    };
    tokio::select! {
        () = serve(listener, Arc::new(app)) => {}
        () = ended(stdin) => {}
    }
    Ok(())
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

async fn ended(mut stdin: mpsc::Receiver<String>) {
    while stdin.recv().await.is_some() {}
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
            Self::Front(client) => front(client, head.method, &head.headers, body).await,
            Self::Price(price) => price.answer(&head.method, &head.headers).await,
        }
    }
}

/// Asks `price` as any client does that honours `http_proxy`: in absolute form.
async fn front(client: &Client, method: Method, headers: &HeaderMap, body: Bytes) -> Response<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static("http://price/quote");
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("price"));
    for name in [ID, "content-type"] {
        if let Some(value) = headers.get(name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    match client.send(request).await {
        Ok(Answer { status, headers, body }) => {
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = status;
            for name in [ID, VERSION] {
                if let Some(value) = headers.get(name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            response
        }
        Err(error) => plain(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

impl Price {
    fn new(version: &str, slow_every: u64, log: &Path) -> Result<Self, Failure> {
        let version = HeaderValue::from_str(version).map_err(|error| Failure::Usage(error.to_string()))?;
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .map_err(|error| Failure::io(format!("cannot write {}", log.display()), error))?;
        Ok(Self { version, slow_every, served: AtomicU64::new(0), log })
    }

    async fn answer(&self, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let id = headers.get(ID);
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        // Logged before the work: a request that breaks off later was processed all the same.
        if let Some(line) = id.and_then(|id| line(id, method, headers.get(CALLER)))
            && let Err(error) = (&self.log).write_all(line.as_bytes())
        {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
        }
        let slow = self.slow_every != 0 && served.is_multiple_of(self.slow_every);
        tokio::time::sleep(if slow { SLOW } else { WORK }).await;
        let mut response = plain(StatusCode::OK, "{\"cents\":1999}\n");
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(VERSION, self.version.clone());
        if let Some(id) = id {
            response.headers_mut().insert(ID, id.clone());
        }
        response
    }
}

/// `17 POST By=...;URI=spiffe://...`: written with one call, so that lines never mix.
fn line(id: &HeaderValue, method: &Method, caller: Option<&HeaderValue>) -> Option<String> {
    let id: u64 = id.to_str().ok()?.parse().ok()?;
    let caller = caller.and_then(|caller| caller.to_str().ok()).unwrap_or("-");
    Some(format!("{id} {method} {caller}\n"))
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::{
        App, Client, Duration, HeaderValue, Ipv4Addr, Method, Price, SocketAddr, TIMEOUT, TcpListener, line,
        serve,
    };
    use crate::demo::{
        account::{Account, parse_log, split},
        load::{Load, requests},
    };

    #[test]
    fn a_log_line_names_the_request_and_its_verified_caller() {
        let id = HeaderValue::from_static("17");
        let caller = HeaderValue::from_static("URI=spiffe://outrigger.local/ns/demo/sa/front");
        assert_eq!(
            line(&id, &Method::POST, Some(&caller)).as_deref(),
            Some("17 POST URI=spiffe://outrigger.local/ns/demo/sa/front\n")
        );
        assert_eq!(line(&id, &Method::GET, None).as_deref(), Some("17 GET -\n"));
        assert_eq!(line(&HeaderValue::from_static("x"), &Method::GET, None), None);
    }

    async fn listen(app: App) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, Arc::new(app)));
        address
    }

    #[tokio::test]
    async fn every_request_of_the_load_is_answered_and_logged_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let price = listen(App::Price(Price::new("v1", 10, &log).expect("an application"))).await;
        // Without a mesh between them: `price` takes the absolute form that `front` sends to its sidecar.
        let front = listen(App::Front(Client::new(price, TIMEOUT))).await;
        let length = Duration::from_millis(200);
        let load = Arc::new(Load::new(front));
        assert_eq!(load.one(None, &Method::GET).await.as_deref(), Ok("v1"));
        let sent = load.phase(Instant::now(), length).await;
        let served = parse_log(&std::fs::read_to_string(&log).expect("a log"), "v1").expect("whole lines");
        let account = Account::new(&sent, &served, "spiffe://outrigger.local/ns/demo/sa/front");
        assert_eq!(account.defects(), Vec::<String>::new());
        assert_eq!(account.sent, requests(length));
        assert_eq!(account.strangers.len(), sent.len(), "nobody vouched for the caller");
        assert_eq!(split(&sent, &served, Duration::ZERO, "v1"), (account.sent, account.sent));
    }

    #[tokio::test]
    async fn a_dead_end_is_a_failed_request_with_its_reason() {
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let front = listen(App::Front(Client::new(nobody, TIMEOUT))).await;
        let failed = Load::new(front).one(Some(1), &Method::POST).await.expect_err("nobody answers");
        assert!(failed.starts_with("502 Bad Gateway: cannot connect"), "{failed}");
    }
}
