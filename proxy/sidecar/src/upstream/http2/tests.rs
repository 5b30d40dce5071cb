//! How long an idle connection is believed, and what takes its place, with real sockets and a clock that is moved by hand.

use futures_util::future::join_all;
use http::{Method, Request};
use tokio::net::TcpStream;

use super::*;
use crate::upstream::testing::{Dialled, FRESH, KEEP, Plain, demand, pass};

/// An application that answers everything, and connections to it.
struct App {
    pool: Arc<Multiplexer<Plain>>,
    dialled: Dialled,
}

impl App {
    async fn start() -> Self {
        let dialled = Dialled::start(serve).await;
        Self { pool: pool(&dialled), dialled }
    }

    /// Another one's connections to it.
    fn another(&self) -> Arc<Multiplexer<Plain>> {
        pool(&self.dialled)
    }

    /// One whole request, which takes a connection as `demand` says; whether that was new.
    async fn exchange(&self, demand: &Demand) -> bool {
        exchange(&self.pool, demand).await
    }
}

fn pool(dialled: &Dialled) -> Arc<Multiplexer<Plain>> {
    Multiplexer::new(Arc::clone(&dialled.plain), Arc::clone(&dialled.destination), &Limits::default())
}

async fn exchange(pool: &Arc<Multiplexer<Plain>>, demand: &Demand) -> bool {
    let (mut sender, stream, waited) = pool.acquire(demand).await.unwrap();
    let request = Request::builder().method(Method::GET).uri("http://app/").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    drop(sender);
    assert_eq!(response.await.unwrap().status(), 200);
    drop(stream);
    waited.fresh
}

async fn serve(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        respond.send_response(http::Response::new(()), true).unwrap();
    }
}

#[tokio::test]
async fn an_idle_connection_is_believed_as_long_as_who_asks_believes_it() {
    let mut app = App::start().await;
    assert!(app.exchange(&demand(FRESH)).await);
    pass(Duration::from_millis(500)).await;
    assert!(!app.exchange(&demand(Duration::MAX)).await, "any request may be repeated there");
    assert!(!app.exchange(&demand(FRESH)).await, "it was just used");
    assert_eq!(app.dialled.opened(), 1);
    pass(Duration::from_millis(150)).await;
    assert!(app.exchange(&demand(FRESH)).await, "it may be closed by now");
    assert_eq!(app.dialled.opened(), 1);
}

#[tokio::test]
async fn a_new_connection_takes_the_place_of_those_that_are_not_believed() {
    let mut app = App::start().await;
    for _ in 0..5 {
        app.exchange(&demand(FRESH)).await;
        pass(Duration::from_millis(150)).await;
    }
    assert_eq!(app.dialled.opened(), 5);
    for _ in 0..4 {
        app.dialled.closed().await;
    }
    assert_eq!(app.pool.state.lock().connections.len(), 1);
}

#[tokio::test]
async fn a_connection_that_is_in_use_is_never_too_old() {
    let app = App::start().await;
    let held = app.pool.acquire(&demand(FRESH)).await.unwrap();
    pass(KEEP * 10).await;
    assert!(!app.exchange(&demand(FRESH)).await);
    drop(held);
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_it_was_kept_long_enough() {
    let mut app = App::start().await;
    app.exchange(&demand(Duration::MAX)).await;
    // In the middle of its time it was used once more.
    pass(KEEP / 2).await;
    app.exchange(&demand(Duration::MAX)).await;
    pass(KEEP * 3 / 4).await;
    assert!(!app.exchange(&demand(Duration::MAX)).await);
    pass(KEEP * 3 / 2).await;
    app.dialled.closed().await;
    assert!(app.pool.state.lock().connections.is_empty());
    assert!(app.exchange(&demand(Duration::MAX)).await);
}

#[tokio::test]
async fn many_that_believe_none_wait_for_one_connection() {
    let mut app = App::start().await;
    app.exchange(&demand(FRESH)).await;
    pass(Duration::from_millis(150)).await;
    let demand = demand(FRESH);
    let fresh = join_all((0..50).map(|_| app.exchange(&demand))).await;
    assert!(fresh.iter().all(|fresh| *fresh));
    assert_eq!(app.dialled.opened(), 2);
}

#[tokio::test]
async fn a_connection_that_nobody_may_use_is_not_what_there_is_no_room_for() {
    let mut app = App::start().await;
    let one = Demand { connections: 1, ..demand(FRESH) };
    app.exchange(&one).await;
    pass(Duration::from_millis(150)).await;
    assert!(app.exchange(&one).await);
    assert_eq!(app.dialled.opened(), 2);
    app.dialled.closed().await;
    assert!(app.dialled.destination.connection(2).is_some());
}

#[tokio::test]
async fn who_believes_nothing_takes_the_connection_that_was_made_for_him() {
    let mut app = App::start().await;
    for _ in 0..3 {
        assert!(app.exchange(&demand(Duration::ZERO)).await);
        pass(Duration::from_micros(2)).await;
    }
    assert_eq!(app.dialled.opened(), 3);
}

#[tokio::test]
async fn of_what_others_keep_many_who_wait_close_one_and_that_was_idle_for_longest() {
    let mut app = App::start().await;
    let three = Demand { connections: 3, keep: KEEP * 100, ..demand(Duration::MAX) };
    let others = [app.another(), app.another()];
    for pool in others.iter().chain([&app.pool]) {
        exchange(pool, &three).await;
        pass(LOOK).await;
    }
    let late = app.another();
    join_all((0..50).map(|_| exchange(&late, &three))).await;
    app.dialled.closed().await;
    assert_eq!(app.dialled.opened(), 4);
    let kept = others.iter().chain([&app.pool, &late]).map(|pool| pool.state.lock().connections.len());
    assert_eq!(kept.collect::<Vec<_>>(), [0, 1, 1, 1]);
}
