//! CONNECT to a name of the mesh, and no HTTP inside: bytes are carried as on a connection of their own, whether that is
//! declared or found out from the first of them (SEMANTICS D.7).

use std::time::Duration;

use outrigger_core::{
    model::{AppProtocol, EndpointSet, Resilience, TrafficLimits},
    telemetry::Class,
};
use outrigger_proxy::http::Limits;

use crate::support::{
    GET, Options, Pair, endpoint_set, log,
    raw::{End, Raw},
};

const CONNECT: &str = "CONNECT price:80 HTTP/1.1\r\nhost: price:80\r\n\r\n";
/// No protocol that can be told from its first bytes.
const QUESTION: &[u8] = b"\0\x01how much?\xff\r\n\r\n";
const ANSWER: &[u8] = b"\x02\0that much\xfe";
const REST: &[u8] = b"\xfdand that is all";

/// The port of `price` declares `protocol`.
async fn declared(protocol: AppProtocol) -> Pair {
    let pair = Pair::start().await;
    let mut service = pair.service(Vec::new());
    service.ports[0].protocol = protocol;
    pair.publish(2, service, &[pair.endpoint()]);
    pair
}

/// A client in whose tunnel `first` was said, together with the CONNECT or else after its answer.
async fn tunnel(pair: &Pair, first: &[u8], at_once: bool) -> Raw {
    let mut client = pair.client().await;
    let (with, after) = if at_once { (first, &b""[..]) } else { (&b""[..], first) };
    client.send([CONNECT.as_bytes(), with].concat()).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    client.send(after).await;
    client
}

/// What was in the tunnel of `client` is over, and is known as one connection of so many bytes, in the caller's log and on its
/// edge. The CONNECT itself is a request that goes no further.
async fn is_recorded(pair: &Pair, client: &Raw, sent: usize, received: usize) {
    let address = client.address().to_string();
    let about = [("downstream.addr", address.as_str()), ("direction", "outbound")];
    let line = log::line(&[about[0], about[1], ("class", "tcp")]).await;
    let told = |name: &str| line.get(name).map(String::as_str);
    assert_eq!(
        (told("destination"), told("port"), told("generation")),
        (Some("demo/price"), Some("80"), Some("2"))
    );
    assert_eq!(told("upstream.identity"), Some("spiffe://outrigger.local/ns/demo/sa/price"));
    assert_eq!((told("status"), told("reason")), (None, None), "{line:?}");
    assert_eq!((told("received"), told("bytes")), (Some(&*sent.to_string()), Some(&*received.to_string())));
    let connect = log::line(&[about[0], about[1], ("method", "CONNECT")]).await;
    let told = |name: &str| connect.get(name).map(String::as_str);
    assert_eq!((told("authority"), told("status"), told("class")), (Some("price:80"), Some("200"), None));
    let edges = pair.front.telemetry.edges();
    let edge = &edges[0];
    assert_eq!(
        (edges.len(), edge.key.class, edge.requests, edge.failures),
        (1, Class::Tcp, 1, 0),
        "{edges:?}"
    );
    assert_eq!(edge.key.destination, Some(("demo/price".parse().unwrap(), 80)));
}

/// It is known beside the application too.
fn is_counted(beside: &str) {
    let counted = "outrigger_requests_total{direction=\"inbound\",status=\"none\",reason=\"\"} 1";
    assert!(beside.lines().any(|line| line == counted), "{beside}");
}

#[tokio::test]
async fn opaque_bytes_cross_in_both_directions_and_each_ends_by_itself() {
    for (protocol, question) in [
        (AppProtocol::Tcp, QUESTION),
        // What is declared is not looked at.
        (AppProtocol::Tcp, b"GET / HTTP/1.1\r\nhost: price\r\n\r\n"),
        (AppProtocol::Detect, QUESTION),
    ] {
        for (at_once, client_ends) in [(false, true), (false, false), (true, true), (true, false)] {
            let pair = declared(protocol).await;
            let mut client = tunnel(&pair, question, at_once).await;
            let mut app = pair.app.accept().await;
            assert_eq!(app.exactly(question.len()).await, question);
            app.send(ANSWER).await;
            assert_eq!(client.exactly(ANSWER.len()).await, ANSWER);
            let (one, other) = if client_ends { (&mut client, &mut app) } else { (&mut app, &mut client) };
            one.half_close().await;
            assert_eq!(other.rest().await, (Vec::new(), End::Clean), "{protocol:?}");
            other.send(REST).await;
            assert_eq!(one.exactly(REST.len()).await, REST);
            other.half_close().await;
            assert_eq!(one.rest().await, (Vec::new(), End::Clean), "{protocol:?}");
            let (sent, received) = if client_ends { (0, REST.len()) } else { (REST.len(), 0) };
            is_recorded(&pair, &client, question.len() + sent, ANSWER.len() + received).await;
            is_counted(&pair.price.ended().await);
        }
    }
}

#[tokio::test]
async fn a_server_that_has_the_first_word_is_heard_at_once_where_tcp_is_declared() {
    let pair = declared(AppProtocol::Tcp).await;
    let mut client = tunnel(&pair, b"", false).await;
    let mut app = pair.app.accept().await;
    app.send(ANSWER).await;
    assert_eq!(client.exactly(ANSWER.len()).await, ANSWER);
    assert_eq!(pair.front.metric("outrigger_detection_timeouts_total{direction=\"outbound\"}"), 0.0);
    client.send(QUESTION).await;
    client.half_close().await;
    assert_eq!(app.rest().await, (QUESTION.to_vec(), End::Clean));
    app.send(REST).await;
    app.half_close().await;
    assert_eq!(client.rest().await, (REST.to_vec(), End::Clean));
    is_recorded(&pair, &client, QUESTION.len(), ANSWER.len() + REST.len()).await;
    is_counted(&pair.price.ended().await);
}

/// The port of `price` declares `protocol`, and there may be one connection to it.
async fn one_connection(protocol: AppProtocol, options: &Options) -> Pair {
    let pair = Pair::with(options).await;
    let mut service = pair.service(Vec::new());
    service.ports[0].protocol = protocol;
    let limits = TrafficLimits { connections: 1, ..TrafficLimits::default() };
    let resilience = Resilience { limits, ..Resilience::default() };
    let set = EndpointSet { resilience, ..endpoint_set(&[pair.endpoint()]) };
    pair.publish_set(2, service, set, |_| {});
    pair
}

#[tokio::test]
async fn where_one_connection_is_all_that_there_may_be_an_idle_one_makes_room_for_bytes() {
    let pair = one_connection(AppProtocol::Detect, &Options::default()).await;
    for _ in 0..2 {
        let mut client = pair.client().await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (_, head) = pair.exchange(&mut client, GET, answer).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut client = tunnel(&pair, QUESTION, true).await;
        let mut app = pair.app.accept().await;
        assert_eq!(app.exactly(QUESTION.len()).await, QUESTION);
        client.half_close().await;
        app.half_close().await;
        assert_eq!(client.rest().await, (Vec::new(), End::Clean));
    }
}

#[tokio::test]
async fn bytes_for_which_there_is_no_room_wait_for_it_and_are_told_why_there_was_none() {
    let wait = Duration::from_millis(200);
    let limits = Limits { queue_timeout: wait, ..Limits::default() };
    let pair = one_connection(AppProtocol::Tcp, &Options { limits, ..Options::default() }).await;
    let mut held = tunnel(&pair, QUESTION, true).await;
    let mut app = pair.app.accept().await;
    assert_eq!(app.exactly(QUESTION.len()).await, QUESTION);
    let mut client = tunnel(&pair, QUESTION, true).await;
    assert_eq!(client.rest().await, (Vec::new(), End::Reset));
    let address = client.address().to_string();
    let line = log::line(&[("downstream.addr", &address), ("direction", "outbound"), ("class", "tcp")]).await;
    assert_eq!(line.get("reason").map(String::as_str), Some("connection_limit"));
    let queued = line["phases_us"].split(' ').find_map(|phase| phase.strip_prefix("queue=")).unwrap();
    assert!(queued.parse::<u128>().unwrap() >= wait.as_micros(), "{line:?}");
    // Whoever is there is not bothered.
    app.send(ANSWER).await;
    assert_eq!(held.exactly(ANSWER.len()).await, ANSWER);
}
