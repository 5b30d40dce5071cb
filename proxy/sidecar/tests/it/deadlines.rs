//! How long there is for a request, as whoever gets it next is told: never longer than it is waited for (SEMANTICS H.1).

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Request};
use outrigger_core::{
    deadline::header::{OUTRIGGER_TIMEOUT, parse},
    model::{Resilience, Retry, Timeouts},
};
use outrigger_proxy::{http::Limits, settings::InboundProtocol};
use outrigger_tls::mesh::{self, ALPN_H2};
use tokio::{io::copy_bidirectional, net::TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    mesh_leg::with,
    support::{
        OK, Options, Pair, endpoint, header,
        raw::{Raw, Server, soon},
        streams::{Client, Sent, get},
    },
};

/// Longer than any test lasts: nothing is to run out.
const LONG: &str = "70s";
/// So much of it passes before the request goes on.
const WAIT: Duration = Duration::from_millis(50);
/// Each of the two sidecars cuts less than a millisecond off.
const CUT: Duration = Duration::from_millis(2);

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn read(value: &HeaderValue) -> Duration {
    parse(value).unwrap()
}

/// How long a head says that there is.
fn left(head: &str) -> Option<Duration> {
    header(head, OUTRIGGER_TIMEOUT.as_str()).map(|value| read(&HeaderValue::from_str(value).unwrap()))
}

#[tokio::test]
async fn the_application_is_told_the_least_of_what_the_caller_says_and_what_is_configured() {
    let long = "outrigger-timeout: 70s\r\n";
    for (said, request, per_try, least) in [
        (long, None, None, Some(70)),
        (long, None, Some(10), Some(10)),
        (long, Some(30), None, Some(30)),
        (long, Some(30), Some(10), Some(10)),
        (long, Some(100), Some(90), Some(70)),
        ("", Some(30), None, Some(30)),
        ("", None, Some(10), Some(10)),
        ("outrigger-timeout: 90s\r\noutrigger-timeout: 1m10s\r\n", None, None, Some(70)),
        ("outrigger-timeout: soon\r\n", None, Some(10), Some(10)),
        ("outrigger-timeout: soon\r\n", None, None, None),
        ("", None, None, None),
    ] {
        let case = (said, request, per_try);
        let pair = with(Limits::default()).await;
        let [request, per_try] = [request, per_try].map(|timeout| timeout.map(seconds));
        let timeouts = Timeouts { request, per_try, ..Timeouts::default() };
        pair.resilient(2, &[pair.endpoint()], Resilience { timeouts, ..Resilience::default() });
        // As a stream among others, and on a connection of its own.
        for (method, body) in [("GET", "\r\n"), ("PUT", "transfer-encoding: chunked\r\n\r\n0\r\n\r\n")] {
            let mut client = pair.client().await;
            let asked = Instant::now();
            client.send(format!("{method} / HTTP/1.1\r\nhost: price\r\n{said}{body}")).await;
            let mut app = pair.app.accept().await;
            let (left, took) = (left(&app.head().await), asked.elapsed());
            match (left, least.map(seconds)) {
                (Some(left), Some(least)) => {
                    assert!(left <= least, "{method} {case:?}: {left:?}");
                    assert!(left + took + CUT > least, "{method} {case:?}: {left:?} after {took:?}");
                }
                (left, least) => assert_eq!(left, least, "{method} {case:?}"),
            }
        }
    }
}

#[tokio::test]
async fn so_is_the_next_sidecar() {
    let pair = Pair::start().await;
    let peer = Server::listen().await;
    let timeouts = Timeouts { per_try: Some(seconds(10)), ..Timeouts::default() };
    let resilience = Resilience { timeouts, ..Resilience::default() };
    pair.resilient(2, &[endpoint(peer.address(), &pair.authority, "price")], resilience);
    let mut client = pair.client().await;
    client.send(format!("GET / HTTP/1.1\r\nhost: price\r\noutrigger-timeout: {LONG}\r\n\r\n")).await;
    let acceptor = TlsAcceptor::from(mesh::server_config(&pair.price.identity, &[ALPN_H2]));
    let stream = soon("a handshake", acceptor.accept(peer.accept_stream().await)).await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, _respond) = soon("a request", connection.accept()).await.unwrap().unwrap();
    let left = told(request.headers());
    assert!(left > Duration::ZERO && left <= seconds(10), "{left:?}");
}

/// How long a head says that there is, once.
fn told(headers: &HeaderMap) -> Duration {
    let said: Vec<&HeaderValue> = headers.get_all(OUTRIGGER_TIMEOUT).iter().collect();
    assert_eq!(said.len(), 1, "{said:?}");
    read(said[0])
}

fn timed(path: &str, timeout: &'static str) -> Request<()> {
    let mut request = get(path);
    request.headers_mut().insert(OUTRIGGER_TIMEOUT, HeaderValue::from_static(timeout));
    request
}

/// [`WAIT`] passes at all sidecars since they have the head of what `client` sent last: twice as long another request has, whose head
/// comes after that on the same connection, and which is given up.
async fn pass(client: &mut Client) {
    let given_up = client.send(timed("/given-up", "100ms"), true).await;
    assert_eq!(given_up.answer().await.unwrap().status(), 504);
}

/// The application has the head of the delayed request, and answers.
async fn told_what_is_left(sent: Sent, app: &mut Raw, head: &str) {
    assert!(head.starts_with("GET /delayed "), "{head}");
    let left = left(head).unwrap();
    assert!(left <= read(&HeaderValue::from_static(LONG)) - WAIT, "{left:?}");
    app.send(OK).await;
    assert_eq!(sent.answer().await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_a_connection_to_the_next_sidecar_took_is_not_there_any_more() {
    let pair = with(Limits::default()).await;
    let between = Server::listen().await;
    pair.resilient(2, &[endpoint(between.address(), &pair.authority, "price")], Resilience::default());
    let mut client = pair.streams().await;
    let sent = client.send(timed("/delayed", LONG), true).await;
    pass(&mut client).await;
    let mut far = TcpStream::connect(pair.price.path.inbound()[0]).await.unwrap();
    let mut near = between.accept_stream().await;
    tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
    let mut app = pair.app.accept().await;
    let head = app.head().await;
    told_what_is_left(sent, &mut app, &head).await;
}

/// Whose application has one request at a time; the next one waits for it.
async fn one_at_a_time() -> Pair {
    with(Limits { app_connections: 1, queue_timeout: seconds(10), ..Limits::default() }).await
}

#[tokio::test]
async fn what_the_next_sidecar_waited_for_the_application_is_not_there_any_more() {
    let pair = one_at_a_time().await;
    let (mut holder, mut app) = pair.asked("GET /held HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut client = pair.streams().await;
    let sent = client.send(timed("/delayed", LONG), true).await;
    pass(&mut client).await;
    app.send(OK).await;
    assert!(holder.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    let head = pair.next_head(&mut app).await;
    told_what_is_left(sent, &mut app, &head).await;
}

#[tokio::test]
async fn what_an_earlier_attempt_took_is_not_there_any_more() {
    let pair = one_at_a_time().await;
    let retry = Retry { backoff_base: Duration::from_millis(1), ..Retry::enabled() };
    pair.resilient(2, &[pair.endpoint()], Resilience { retry, ..Resilience::default() });
    let mut client = pair.streams().await;
    let sent = client.send(timed("/delayed", LONG), true).await;
    let mut app = pair.app.accept().await;
    assert!(app.head().await.starts_with("GET /delayed "));
    pass(&mut client).await;
    app.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let head = pair.next_head(&mut app).await;
    told_what_is_left(sent, &mut app, &head).await;
}

#[tokio::test]
async fn an_application_that_hands_it_on_leaves_less_at_each_hop() {
    let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
    let pair = Pair::with(&options).await;
    let (_stock, stock_app) = pair.stock(&options).await;
    let mut client = pair.client().await;
    let mut before = read(&HeaderValue::from_static(LONG));
    client.send(format!("GET / HTTP/1.1\r\nhost: price\r\noutrigger-timeout: {LONG}\r\n\r\n")).await;
    for (app, next) in [(&pair.app, Some(pair.price.path.outbound())), (&stock_app, None)] {
        let head = app.accept().await.head().await;
        let left = left(&head).unwrap();
        assert!(left > Duration::ZERO && left < before, "{left:?} of {before:?}");
        before = left;
        let Some(next) = next else { break };
        let said = header(&head, OUTRIGGER_TIMEOUT.as_str()).unwrap();
        client = Raw::connect(next).await;
        client.send(format!("GET / HTTP/1.1\r\nhost: stock\r\noutrigger-timeout: {said}\r\n\r\n")).await;
    }
}
