//! What is open for long, on purpose: its total ends at the response's head, or with the connection, and it is counted
//! apart from the requests.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use outrigger_core::{
    model::AppProtocol,
    telemetry::{Class, Edge, Phase},
};
use outrigger_proxy::settings::InboundProtocol;
use tokio::{net::TcpStream, time::sleep};

use super::{
    measure::{ELSEWHERE, Times, unused_id},
    stage::{ALONE, head},
};
use crate::support::{
    Options, Pair, log,
    raw::{Raw, Server, soon},
    streams::{App, post},
};

/// How long it is open.
const OPEN: Duration = Duration::from_millis(300);

/// The one edge that there is.
fn edge(pair: &Pair) -> Edge {
    let mut edges = pair.front.telemetry.edges();
    assert_eq!(edges.len(), 1, "{edges:?}");
    edges.remove(0)
}

/// What `exchange` makes, called as it is told, is counted as one of `class`, whose total says nothing of how long it was open; so do
/// its phases. Time that none of them has is missing each time; what the machine takes for others, seldom twice.
async fn ends_early(class: Class, exchange: impl AsyncFn(&str) -> (Pair, Times)) {
    let _alone = ALONE.lock().await;
    let mut unexplained = Vec::new();
    for _ in 0..3 {
        let (pair, times) = Box::pin(exchange(&unused_id())).await;
        let edge = edge(&pair);
        assert_eq!((edge.key.class, edge.requests, edge.failures), (class, 1, 0), "{edge:?}");
        let total = Duration::from_micros(edge.total.sum().total_us);
        assert!(total < OPEN && times.total >= OPEN, "{total:?} {times:?}");
        assert!(times.phases.sum() <= total, "{total:?} {times:?}");
        assert_eq!(times.get(Phase::Stream), Duration::ZERO);
        unexplained.push(total - times.phases.sum());
    }
    unexplained.sort();
    assert!(unexplained[1] <= ELSEWHERE, "{unexplained:?}");
}

#[tokio::test]
async fn server_sent_events_end_at_the_head() {
    ends_early(Class::Stream, async |id| {
        let pair = Pair::start().await;
        let (mut client, mut app) = pair.asked(&(head("GET", "price", id) + "\r\n")).await;
        let kind = "content-type: text/event-stream\r\ntransfer-encoding: chunked";
        app.send(format!("HTTP/1.1 200 OK\r\n{kind}\r\n\r\n")).await;
        client.head().await;
        sleep(OPEN).await;
        app.send("3\r\n:\n\n\r\n0\r\n\r\n").await;
        client.until("0\r\n\r\n").await;
        (pair, Times::of(id).await)
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_ends_at_the_head() {
    ends_early(Class::Upgrade, async |id| {
        let pair = Pair::start().await;
        let mut client = pair.client().await;
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
        client.send(head("GET", "price", id) + upgrade).await;
        let mut app = pair.app.accept().await;
        app.head().await;
        app.send(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}")).await;
        client.head().await;
        sleep(OPEN).await;
        client.send("bye").await;
        app.exactly(3).await;
        drop(app);
        client.rest().await;
        drop(client);
        (pair, Times::of(id).await)
    })
    .await;
}

#[tokio::test]
async fn a_tcp_connection_ends_when_it_is_established() {
    ends_early(Class::Tcp, async |_| {
        let services = vec!["127.0.0.1:0=price"];
        let options = Options { protocol: InboundProtocol::Tcp, services, ..Options::default() };
        let pair = Pair::with(&options).await;
        let mut service = pair.service(Vec::new());
        service.ports[0].protocol = AppProtocol::Tcp;
        pair.publish(2, service, &[pair.endpoint()]);
        let mut client = Raw::connect(pair.front.path.services()[0]).await;
        client.send("hello").await;
        let mut app = pair.app.accept().await;
        app.exactly(5).await;
        sleep(OPEN).await;
        app.send("bye").await;
        drop(app);
        client.rest().await;
        let address = client.address().to_string();
        drop(client);
        let line = log::line(&[("downstream.addr", &address), ("direction", "outbound")]).await;
        let times = Times::read(&line);
        assert!(times.get(Phase::Connect) > Duration::ZERO, "{times:?}");
        (pair, times)
    })
    .await;
}

/// A call with so many messages in its answer, and a pause before the last one.
async fn call(messages: usize, id: &str) -> (Pair, Times) {
    let mut pair = Pair::with(&Options { protocol: InboundProtocol::Grpc, ..Options::default() }).await;
    let listener = std::mem::replace(&mut pair.app, Server::listen().await).into_listener();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                for number in 1..=messages {
                    if number == messages {
                        sleep(OPEN).await;
                    }
                    stream.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false).unwrap();
                }
                let status =
                    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
                stream.send_trailers(status).unwrap();
            });
        }
    });
    let stream = TcpStream::connect(pair.front.path.outbound()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = soon("a stream", sender.ready()).await.unwrap();
    let request = Request::post("http://price/a.B/C").header("content-type", "application/grpc");
    let request = request.header("te", "trailers").header("x-request-id", id).body(()).unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), true).unwrap();
    let mut body = soon("an answer", response).await.unwrap().into_body();
    while let Some(data) = soon("a message", body.data()).await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    assert_eq!(soon("trailers", body.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
    let times = Times::of(id).await;
    (pair, times)
}

#[tokio::test]
async fn a_call_with_many_messages_ends_at_the_head() {
    ends_early(Class::Stream, async |id| call(2, id).await).await;
}

#[tokio::test]
async fn a_call_with_one_message_ends_with_it() {
    let _alone = ALONE.lock().await;
    let (pair, times) = call(1, "one-message").await;
    assert_eq!(edge(&pair).key.class, Class::Request);
    assert!(times.get(Phase::Stream) + Duration::from_millis(30) >= OPEN, "{times:?}");
}

#[tokio::test]
async fn a_call_that_its_client_cuts_after_the_head_is_a_stream_however_few_its_messages() {
    let _alone = ALONE.lock().await;
    let pair = Pair::with(&Options { protocol: InboundProtocol::Grpc, ..Options::default() }).await;
    let mut client = pair.streams().await;
    let mut request = post("/a.B/C");
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("x-request-id", HeaderValue::from_static("watch"));
    let mut sent = client.send(request, false).await;
    sent.body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), true).unwrap();
    let mut app = App::accept(&pair.app).await;
    let _open = app.call().await.answer(200, false);
    let answer = soon("an answer", &mut sent.response).await.unwrap();
    sleep(OPEN).await;
    drop(answer);
    sent.body.send_reset(h2::Reason::CANCEL);
    let times = Times::of("watch").await;
    let edge = edge(&pair);
    let total = Duration::from_micros(edge.total.sum().total_us);
    assert_eq!((edge.key.class, edge.requests), (Class::Stream, 1), "{edge:?}");
    assert!(total < OPEN && times.total >= OPEN, "{total:?} {times:?}");
}
