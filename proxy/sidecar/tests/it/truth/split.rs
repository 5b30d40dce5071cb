//! The time of an application, taken apart: what it spent itself, and what it waited for its own calls (SEMANTICS F.3).

use std::{sync::Arc, time::Duration};

use outrigger_core::telemetry::{AppSplit, Phase};
use outrigger_proxy::settings::InboundProtocol;
use tokio::time::{Instant, sleep};

use super::{
    measure::{DELAY, ELSEWHERE, REST, SEVERAL, Times, micros, moved, unused_id},
    stage::{ALONE, App, head},
};
use crate::support::{OK, Options, Pair, Side, header, raw::Raw};

/// How long the application works, before its call and after it.
const WORK: Duration = Duration::from_millis(10);

/// `price`, whose application calls that of `stock` through its own sidecar.
struct Chain {
    pair: Pair,
    _stock: Side,
    callee: Arc<App>,
}

impl Chain {
    async fn start() -> Self {
        let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
        let pair = Pair::with(&options).await;
        let (stock, listening) = pair.stock(&options).await;
        let callee = Arc::new(App::default());
        tokio::spawn(Arc::clone(&callee).listen(listening.into_listener()));
        Self { pair, _stock: stock, callee }
    }

    /// A connection of `price` to its sidecar.
    async fn caller(&self) -> Raw {
        Raw::connect(self.pair.price.path.outbound()).await
    }

    /// What is known at `front` of all requests so far.
    fn split(&self) -> AppSplit {
        let edges = self.pair.front.telemetry.edges();
        edges.first().map(|edge| edge.total.sum().app).unwrap_or_default()
    }
}

/// The application has a request, and calls on behalf of it; of `caller` it hears the whole answer.
async fn call(caller: &mut Raw, request: &str) {
    let trace = header(request, "traceparent").unwrap();
    caller.send(format!("GET / HTTP/1.1\r\nhost: stock\r\ntraceparent: {trace}\r\n\r\n")).await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn what_an_application_waits_for_its_own_call_is_told_from_what_it_spends_itself() {
    let _alone = ALONE.lock().await;
    let chain = Chain::start().await;
    let (mut client, mut caller) = (chain.pair.client().await, chain.caller().await);
    let mut app = None;
    // What the application saw of each, and what the caller of it was told; microseconds.
    let (mut waited, mut spent, mut waiting, mut own) = (vec![], vec![], vec![], vec![]);
    for number in 0..=SEVERAL {
        sleep(REST).await;
        let (id, before) = (unused_id(), chain.split());
        client.send(head("GET", "price", &id) + "\r\n").await;
        let request = match &mut app {
            Some(app) => chain.pair.next_head(app).await,
            None => app.insert(chain.pair.app.accept().await).head().await,
        };
        let begun = Instant::now();
        sleep(WORK).await;
        chain.callee.answering.set(DELAY);
        let called = Instant::now();
        call(&mut caller, &request).await;
        let called = called.elapsed();
        sleep(WORK).await;
        let all = begun.elapsed();
        app.as_mut().unwrap().send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        client.exactly(2).await;
        let times = Times::of(&id).await;
        let after = chain.split();
        assert_eq!(after.requests, before.requests + 1, "{after:?}");
        let (own_us, waiting_us) = (after.own_us - before.own_us, after.waiting_us - before.waiting_us);
        // Each sum is cut to whole microseconds.
        let app_us = u64::try_from(times.get(Phase::App).as_micros()).unwrap();
        assert!(app_us.abs_diff(own_us + waiting_us) <= 2, "{own_us} and {waiting_us} of {times:?}");
        // The first one makes the connections.
        if number > 0 {
            waited.push(micros(called));
            spent.push(micros(all - called));
            waiting.push(i64::try_from(waiting_us).unwrap());
            own.push(i64::try_from(own_us).unwrap());
        }
    }
    for (part, seen, told, known) in [("waiting", &waited, &waiting, DELAY), ("own", &spent, &own, 2 * WORK)]
    {
        let within = micros(known / 20 + ELSEWHERE);
        assert!(moved(seen, told).abs() <= within, "{part}: {told:?} us, and the application saw {seen:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_told_apart_is_not() {
    let _alone = ALONE.lock().await;
    let chain = Chain::start().await;
    let (mut caller, pair) = (chain.caller().await, &chain.pair);
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
    // A call that does not say on whose behalf it is made may be anybody's.
    let id = unused_id();
    let (mut client, mut app) = pair.asked(head("GET", "price", &id) + trace).await;
    caller.send("GET / HTTP/1.1\r\nhost: stock\r\n\r\n").await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    app.send(OK).await;
    client.head().await;
    client.exactly(2).await;
    assert!(Times::of(&id).await.get(Phase::App) > Duration::ZERO);
    assert_eq!(chain.split(), AppSplit::default());
    // Of two requests of one trace that are there at once, each may have made it.
    let ids = [unused_id(), unused_id()];
    client.send(head("GET", "price", &ids[0]) + trace).await;
    let request = pair.next_head(&mut app).await;
    let (_other, mut other_app) = pair.asked(head("GET", "price", &ids[1]) + trace).await;
    call(&mut caller, &request).await;
    for (app, id) in [(&mut app, &ids[0]), (&mut other_app, &ids[1])] {
        app.send(OK).await;
        assert!(Times::of(id).await.get(Phase::App) > Duration::ZERO);
    }
    assert_eq!(chain.split(), AppSplit::default());
}
