//! Three times as much as an application can do: most of what it can is done in time, the rest is refused at once, and it is
//! over when the load is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::PRICE;
use crate::support::{Application, Client, Mesh, application::body};

/// The application: so many at a time, each for so long. 100 requests a second.
const PLACES: usize = 8;
const TAKES: Duration = Duration::from_millis(80);
const CAPACITY: u32 = 100;

/// What became of a request.
#[derive(Debug)]
struct Outcome {
    /// After the begin of its phase.
    at: Duration,
    took: Duration,
    status: u16,
    retry_after: Option<u32>,
    text: String,
}

impl Outcome {
    fn is_served(&self) -> bool {
        self.status == 200
    }
}

/// Requests that come at their time, whatever became of those before: on so many connections that none has to wait for a stream.
struct Load(Vec<http2::SendRequest<Empty<Bytes>>>);

impl Load {
    async fn through(client: std::net::SocketAddr) -> Self {
        let mut connections = Vec::new();
        for _ in 0..10 {
            let io = TokioIo::new(TcpStream::connect(client).await.unwrap());
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            connections.push(sender);
        }
        Self(connections)
    }

    async fn run(&self, rate: u32, seconds: u32) -> Vec<Outcome> {
        let begin = Instant::now();
        let mut requests = JoinSet::new();
        for (number, sender) in (0..rate * seconds).zip(self.0.iter().cycle()) {
            let at = Duration::from_secs(1) * number / rate;
            let mut sender = sender.clone();
            requests.spawn(async move {
                tokio::time::sleep_until(begin + at).await;
                let request = Request::get("http://price.demo.mesh/").body(Empty::new()).unwrap();
                let sent = Instant::now();
                let answer = timeout(Duration::from_secs(30), sender.send_request(request)).await;
                let (head, body) = answer.expect("an answer in time").unwrap().into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                Outcome {
                    at,
                    took: sent.elapsed(),
                    status: head.status.as_u16(),
                    retry_after: head
                        .headers
                        .get("retry-after")
                        .map(|value| value.to_str().unwrap().parse().unwrap()),
                    text: String::from_utf8_lossy(&body).into_owned(),
                }
            });
        }
        requests.join_all().await
    }
}

/// Of sorted times, the one that `percent` do not exceed.
fn percentile(outcomes: impl Iterator<Item = Duration>, percent: usize) -> Duration {
    let mut times: Vec<_> = outcomes.collect();
    times.sort();
    times[times.len() * percent / 100]
}

/// Asks the health port of a sidecar again and again; how long the slowest answer took.
async fn watch(health: std::net::SocketAddr, over: Arc<Semaphore>) -> Duration {
    let mut slowest = Duration::ZERO;
    while !over.is_closed() {
        for path in ["ready", "metrics"] {
            let begin = Instant::now();
            let answer = Client::direct().get(&format!("http://{health}/{path}")).await.unwrap();
            assert_eq!(answer.status, 200, "{path}");
            slowest = slowest.max(begin.elapsed());
        }
        sleep(Duration::from_millis(100)).await;
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_too_much_is_refused_early_and_is_over_with_the_load() {
    let mesh = Mesh::start().await;
    let (places, offered) = (Arc::new(Semaphore::new(PLACES)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&offered);
    let app = Application::working(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let places = Arc::clone(&places);
        async move {
            let _place = places.acquire().await.unwrap();
            sleep(TAKES).await;
            Response::new(body("a price"))
        }
    })
    .await;
    let pair = format!("127.0.0.1:0={},name=http", app.address);
    let price = mesh.join_with("price-1", "price", &["--inbound", &pair]).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    let load = Load::through(front.outbound).await;

    let calm = load.run(CAPACITY / 2, 3).await;
    assert!(calm.iter().all(Outcome::is_served), "{calm:?}");
    let before = [price.memory("VmRSS"), front.memory("VmRSS")];

    let over = Arc::new(Semaphore::new(0));
    let health = tokio::spawn(watch(price.health, Arc::clone(&over)));
    let offered_before = offered.load(Ordering::Relaxed);
    let much = load.run(CAPACITY * 3, 8).await;
    over.close();
    let offered = offered.load(Ordering::Relaxed) - offered_before;

    let (served, refused): (Vec<_>, Vec<_>) = much.iter().partition(|outcome| outcome.is_served());
    assert!(served.len() >= 8 * 70, "{} of {} served", served.len(), much.len());
    for outcome in &refused {
        assert_eq!(outcome.status, 503);
        assert!(outcome.text.starts_with("outrigger: overloaded: "), "{outcome:?}");
        assert!(matches!(outcome.retry_after, Some(1..=2)), "{outcome:?}");
    }
    assert!(refused.len() > much.len() / 3, "{} of {} refused", refused.len(), much.len());
    let late = |outcome: &&&Outcome| outcome.at >= Duration::from_secs(3);
    let slowest = percentile(served.iter().filter(late).map(|outcome| outcome.took), 99);
    assert!(slowest <= TAKES * 10, "p99 of those served: {slowest:?}");
    let refusal = percentile(refused.iter().map(|outcome| outcome.took), 50);
    assert!(refusal < Duration::from_millis(50), "half of those refused: {refusal:?}");
    // The application got what it answered, and nothing twice.
    assert!(offered <= served.len() * 12 / 10, "{offered} for {}", served.len());
    let retried = front.metric("outrigger_retries_total").await;
    assert!(retried <= 0.2 * f64::from(u32::try_from(much.len()).unwrap()), "{retried}");
    let slowest = health.await.unwrap();
    assert!(slowest < Duration::from_secs(1), "the health port took {slowest:?}");
    for (before, proxy) in before.into_iter().zip([&price, &front]) {
        let grown = proxy.memory("VmRSS").saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} bytes more");
    }

    let after = load.run(CAPACITY / 2, 5).await;
    let failed = after.iter().filter(|outcome| !outcome.is_served() && outcome.at >= Duration::from_secs(3));
    assert_eq!(failed.count(), 0);
}
