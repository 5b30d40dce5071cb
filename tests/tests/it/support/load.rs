//! An open-loop load with books: requests leave when they are due, whatever became of those before them; 30 % are POST;
//! each has an id of its own, which the application logs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::{sleep_until, timeout},
};

use super::pod::Asked;

/// What takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

type Sender = http1::SendRequest<Full<Bytes>>;

/// A load that runs until it is told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Sent>>,
    began: Instant,
    rate: u32,
}

/// A request, and what became of it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) id: u64,
    pub(crate) post: bool,
    /// Why there was no good answer.
    pub(crate) failed: Option<String>,
}

/// The books of a load.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) sent: Vec<Sent>,
    pub(crate) length: Duration,
}

impl Load {
    /// Sends `rate` requests per second to `http://price/` through the sidecar at `proxy`.
    pub(crate) fn start(proxy: SocketAddr, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(run(proxy, rate, Arc::clone(&stop)));
        Self { stop, task, began: Instant::now(), rate }
    }

    /// How long it has run.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Stops, waits for the last answer, and closes the books. One that was too short or too slow proves nothing.
    pub(crate) async fn finish(self, least: Duration) -> Books {
        self.stop.store(true, Ordering::Relaxed);
        let length = self.age();
        let sent = self.task.await.unwrap();
        assert!(length >= least, "{length:?} are too short");
        let due = length.as_secs_f64() * f64::from(self.rate);
        let count = f64::from(u32::try_from(sent.len()).unwrap());
        assert!(count >= due * 0.9, "{count} of {due} requests: this machine is too slow for the rate");
        Books { sent, length }
    }
}

impl Books {
    /// Requests without a good answer.
    pub(crate) fn failed(&self) -> Vec<&Sent> {
        self.sent.iter().filter(|sent| sent.failed.is_some()).collect()
    }

    /// That every request that was answered arrived at an application, and no POST twice.
    pub(crate) fn agree_with(&self, asked: &[Asked]) {
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for one in asked {
            *times.entry(one.id).or_default() += 1;
        }
        let of = |sent: &Sent| times.get(&sent.id).copied().unwrap_or(0);
        let missing: Vec<_> =
            self.sent.iter().filter(|sent| sent.failed.is_none() && of(sent) == 0).collect();
        assert!(missing.is_empty(), "answered, and no application was asked: {missing:?}");
        let twice: Vec<_> = self.sent.iter().filter(|sent| sent.post && of(sent) > 1).collect();
        assert!(twice.is_empty(), "sent twice: {twice:?}");
    }
}

async fn run(proxy: SocketAddr, rate: u32, stop: Arc<AtomicBool>) -> Vec<Sent> {
    let start = tokio::time::Instant::now();
    let idle: Arc<Mutex<Vec<Sender>>> = Arc::default();
    let mut requests = JoinSet::new();
    let mut sent = Vec::new();
    for index in 1_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sleep_until(start + Duration::from_secs(1) * index / rate).await;
        let (id, post, idle) = (u64::from(index), index % 10 < 3, Arc::clone(&idle));
        requests.spawn(async move {
            let answered = timeout(PATIENCE, one(proxy, id, post, &idle)).await;
            let failed = answered.unwrap_or_else(|_elapsed| Err("no answer in time".to_owned())).err();
            Sent { id, post, failed }
        });
        while let Some(ended) = requests.try_join_next() {
            sent.push(ended.unwrap());
        }
    }
    while let Some(ended) = requests.join_next().await {
        sent.push(ended.unwrap());
    }
    sent
}

async fn one(proxy: SocketAddr, id: u64, post: bool, idle: &Mutex<Vec<Sender>>) -> Result<(), String> {
    let told = |error: &dyn std::error::Error| error.to_string();
    let pooled = idle.lock().unwrap().pop().filter(|sender| !sender.is_closed());
    let mut sender = match pooled {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(proxy).await.map_err(|error| told(&error))?;
            stream.set_nodelay(true).map_err(|error| told(&error))?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
            tokio::spawn(connection);
            sender
        }
    };
    sender.ready().await.map_err(|error| told(&error))?;
    let (method, body) =
        if post { (Method::POST, "a body of thirty bytes or more") } else { (Method::GET, "") };
    let request = Request::builder()
        .method(method)
        .uri(format!("http://price/{id}"))
        .header("host", "price")
        .body(Full::from(body))
        .map_err(|error| told(&error))?;
    let response = sender.send_request(request).await.map_err(|error| told(&error))?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| told(&error))?.to_bytes();
    if head.status != 200 || body != id.to_string() {
        return Err(format!("{}: {}", head.status, String::from_utf8_lossy(&body).trim()));
    }
    idle.lock().unwrap().push(sender);
    Ok(())
}
