//! How long an idle connection is believed, what takes its place, and who waits for how long where none is to be had; the clock is
//! moved by hand.

use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;
use crate::{
    http::{Overheard, Upload},
    upstream::testing::{self, Dialled, FRESH, KEEP, Plain, pass},
};

const CONNECT: Duration = Duration::from_secs(1);

/// Has no room for a connection, and says nothing.
#[derive(Debug)]
struct Full;

impl Connect for Full {
    async fn connect(&self, _protocol: Protocol) -> Result<Connected, Reason> {
        std::future::pending().await
    }

    fn refused(&self, _refused: &Overheard) {}
}

/// Asks for a connection; returns in vain, with the reason and how long it took.
fn ask(pool: &Arc<Pool<Full>>) -> JoinHandle<(Reason, Duration)> {
    let pool = Arc::clone(pool);
    tokio::spawn(async move {
        let begin = Instant::now();
        let demand = Demand {
            max_idle: CONNECT,
            keep: CONNECT,
            closes_silently: true,
            connect_timeout: CONNECT,
            queue_timeout: 2 * CONNECT,
            connections: 16,
            pending: 16,
        };
        let reason = pool.acquire(&demand, begin).await.map(|_| ()).unwrap_err();
        (reason, begin.elapsed())
    })
}

#[tokio::test(start_paused = true)]
async fn each_waits_as_long_as_a_connection_takes_whoever_came_before() {
    let destination = Arc::new(DestinationState::new(Instant::now().into_std()));
    let pool = Pool::new(Arc::new(Full), destination, (&Limits::default(), 64 * 1024));
    let first = ask(&pool);
    sleep(CONNECT / 2).await;
    let second = ask(&pool);
    assert_eq!(first.await.unwrap(), (Reason::ConnectTimeout, CONNECT));
    assert_eq!(second.await.unwrap(), (Reason::ConnectTimeout, CONNECT));
}

/// An application that answers everything, and connections to it.
struct App {
    pool: Arc<Pool<Plain>>,
    dialled: Dialled,
}

impl App {
    async fn start() -> Self {
        let dialled = Dialled::start(serve).await;
        Self { pool: pool(&dialled), dialled }
    }

    /// One whole request, which takes a connection as `demand` says; whether that was new.
    async fn exchange(&self, demand: &Demand) -> bool {
        exchange(&self.pool, demand).await
    }
}

fn pool(dialled: &Dialled) -> Arc<Pool<Plain>> {
    let destination = Arc::clone(&dialled.destination);
    Pool::new(Arc::clone(&dialled.plain), destination, (&Limits::default(), 64 * 1024))
}

async fn exchange(pool: &Arc<Pool<Plain>>, demand: &Demand) -> bool {
    let (lease, waited) = pool.acquire(demand, Instant::now()).await.unwrap();
    spend(lease).await;
    waited.fresh
}

/// One whole request, after which the connection is kept.
async fn spend(mut lease: Lease) {
    let upload = Upload::none(http::Idle::new(Duration::ZERO));
    let request = ::http::Request::builder().uri("/").header("host", "app");
    let request = request.body(RequestBody::of(&upload)).unwrap();
    let response = lease.connection().sender().send_request(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    lease.set_keep(KEEP);
    lease.keep();
}

async fn serve(mut stream: TcpStream) {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    }
}

fn demand(max_idle: Duration, connections: u32) -> Demand {
    Demand { connections, ..testing::demand(max_idle) }
}

#[tokio::test]
async fn an_idle_connection_is_believed_as_long_as_who_asks_believes_it() {
    let mut app = App::start().await;
    assert!(app.exchange(&demand(FRESH, 16)).await);
    pass(Duration::from_millis(500)).await;
    assert!(!app.exchange(&demand(Duration::MAX, 16)).await, "any request may be repeated there");
    assert!(!app.exchange(&demand(FRESH, 16)).await, "it was just used");
    assert_eq!(app.dialled.opened(), 1);
    pass(Duration::from_millis(101)).await;
    assert!(app.exchange(&demand(FRESH, 16)).await, "it may be closed by now");
    assert_eq!(app.dialled.opened(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_it_was_kept_long_enough() {
    let mut app = App::start().await;
    app.exchange(&demand(Duration::MAX, 16)).await;
    pass(KEEP * 3 / 4).await;
    assert!(!app.exchange(&demand(Duration::MAX, 16)).await);
    pass(KEEP * 3 / 2).await;
    app.dialled.closed().await;
    assert!(app.pool.state.lock().idle.is_empty());
    assert!(app.exchange(&demand(Duration::MAX, 16)).await);
}

#[tokio::test]
async fn a_connection_that_nobody_may_use_is_not_what_there_is_no_room_for() {
    let mut app = App::start().await;
    app.exchange(&demand(FRESH, 1)).await;
    pass(Duration::from_millis(101)).await;
    assert!(app.exchange(&demand(FRESH, 1)).await);
    assert_eq!(app.dialled.opened(), 2);
    app.dialled.closed().await;
}

#[tokio::test]
async fn nor_is_one_that_another_pool_keeps_and_one_makes_room_for_one() {
    let mut app = App::start().await;
    let other = pool(&app.dialled);
    let two = demand(Duration::MAX, 2);
    let (first, _) = app.pool.acquire(&two, Instant::now()).await.unwrap();
    let (second, _) = app.pool.acquire(&two, Instant::now()).await.unwrap();
    spend(first).await;
    spend(second).await;
    pass(LOOK).await;
    assert_eq!(app.pool.state.lock().idle.len(), 2);
    assert!(exchange(&other, &two).await);
    app.dialled.closed().await;
    assert_eq!((app.pool.state.lock().idle.len(), other.state.lock().idle.len()), (1, 1));
}
