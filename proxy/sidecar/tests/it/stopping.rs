//! The end of a data path: nothing in flight is lost that can be finished in time.

use std::time::Duration;

use futures_util::FutureExt as _;

use crate::support::{
    GET, OK, Pair, header, log,
    raw::{End, Raw},
};

#[tokio::test]
async fn what_is_in_flight_is_finished_and_told_that_it_was_the_last() {
    let pair = Pair::start().await;
    let mut idle = pair.client().await;
    pair.exchange(&mut idle, GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let (mut client, mut app) = pair.asked(GET).await;
    let outbound = pair.front.path.outbound();
    let Pair { mut front, price: _price, .. } = pair;
    let drain = front.path.drain(Duration::from_secs(10));
    let finish = async {
        // Idle connections go at once; the listener stays for as long as somebody is served.
        assert_eq!(idle.rest().await, (Vec::new(), End::Clean));
        app.send(OK).await;
        let head = client.head().await;
        assert_eq!(header(&head, "connection"), Some("close"), "{head}");
        assert_eq!(client.rest().await, (b"ok".to_vec(), End::Clean));
    };
    let (drained, ()) = tokio::join!(drain, finish);
    assert_eq!(drained.cut, 0);
    assert!(tokio::net::TcpStream::connect(outbound).await.is_err());
}

#[tokio::test]
async fn what_is_not_finished_in_time_is_cut_and_counted() {
    let pair = Pair::start().await;
    let (mut client, _app) = pair.asked(GET).await;
    let Pair { mut front, .. } = pair;
    let address = client.address().to_string();
    assert_eq!(front.path.drain(Duration::from_millis(50)).await.cut, 1);
    assert_eq!(client.rest().await.0, b"");
    // Not that the client went away.
    log::line(&[("downstream.addr", &address), ("reason", "stopped")]).await;
}

#[tokio::test]
async fn who_is_ended_at_once_has_said_what_became_of_everything() {
    let pair = Pair::start().await;
    let (_client, _app) = pair.asked(GET).await;
    let Pair { mut front, .. } = pair;
    // A drain that somebody has no time for.
    let drain = front.path.drain(Duration::from_secs(10));
    assert!(drain.now_or_never().is_none());
    front.path.end(Duration::from_secs(10)).await;
    assert_eq!(front.telemetry.edges().iter().map(|edge| edge.requests).sum::<u64>(), 1);
}

#[tokio::test]
async fn the_application_may_still_call_out_to_finish_what_came_in() {
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.asked(GET).await;
    let outbound = pair.price.path.outbound();
    let Pair { front: _front, mut price, .. } = pair;
    let drain = price.path.drain(Duration::from_secs(10));
    let finish = async {
        let mut call = Raw::connect(outbound).await;
        for _ in 0..2 {
            call.send(GET).await;
            // It has no configuration, and says so.
            let head = call.head().await;
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert_eq!(header(&head, "connection"), None, "{head}");
            let length: usize = header(&head, "content-length").unwrap().parse().unwrap();
            call.exactly(length).await;
        }
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(call.rest().await, (Vec::new(), End::Clean));
    };
    let (drained, ()) = tokio::join!(drain, finish);
    assert_eq!(drained.cut, 0);
}

#[tokio::test]
async fn whoever_has_not_heard_of_the_end_is_served_as_long_as_there_is_a_listener() {
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.asked(GET).await;
    let Pair { front, mut price, app: server, .. } = pair;
    let drain = price.path.drain(Duration::from_secs(10));
    let finish = async {
        // On a connection of its own, since the first one is busy.
        let mut late = Raw::connect(front.path.outbound()).await;
        late.send("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 2\r\n\r\nab").await;
        let mut second = server.accept().await;
        second.head().await;
        assert_eq!(second.exactly(2).await, b"ab");
        second.send(OK).await;
        assert!(late.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    };
    let (drained, ()) = tokio::join!(drain, finish);
    assert_eq!(drained.cut, 0);
}

#[tokio::test]
async fn a_connection_of_one_request_at_a_time_takes_what_is_on_its_way_and_says_that_it_was_the_last() {
    const CHUNKED: &str =
        "POST / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send(CHUNKED).await;
    let mut app = pair.app.accept().await;
    app.until("0\r\n\r\n").await;
    app.send(OK).await;
    client.head().await;
    assert_eq!(client.exactly(2).await, b"ok");
    drop(app);
    let opened = "outrigger_upstream_connections_opened_total{direction=\"outbound\"}";
    let before = pair.front.metric(opened);
    let Pair { front, mut price, app: server, .. } = pair;
    let drain = price.path.drain(Duration::from_secs(10));
    let finish = async {
        client.send(CHUNKED).await;
        let mut app = server.accept().await;
        app.until("0\r\n\r\n").await;
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(front.metric(opened), before, "it was the one that was idle");
    };
    let (drained, ()) = tokio::join!(drain, finish);
    assert_eq!(drained.cut, 0);
}
