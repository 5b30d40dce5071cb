//! What the parser of HTTP/2 refuses by itself is counted by its reason, and said in the log: on each leg, of each kind.

use std::time::Duration;

use outrigger_proxy::http::Limits;
use outrigger_tls::mesh::{self, ALPN_H2};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};

use crate::{
    hostile_http2::{pair, with},
    support::{
        GET, OK, Options, Pair, Side, endpoint, log,
        raw::{Raw, Server, soon},
        streams::{
            ACK, App, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING,
            PREFACE, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get, request,
        },
    },
};

/// Where a connection is: its direction, and what its peer is there.
type Leg = (&'static str, &'static str);

const CLIENT: Leg = ("outbound", "downstream");

/// The line of the log that says so, and the count.
async fn told(side: &Side, peer: &str, (direction, role): Leg, ended: &str, reason: &str) -> log::Line {
    let line = log::line(&[
        ("message", "HTTP/2 refused"),
        ("direction", direction),
        ("role", role),
        ("peer.addr", peer),
        ("ended", ended),
        ("reason", reason),
    ])
    .await;
    let metric = format!(
        "outrigger_http2_refused_total{{direction=\"{direction}\",role=\"{role}\",ended=\"{ended}\",reason=\"{reason}\"}}"
    );
    assert!(side.metric(&metric) >= 1.0, "{metric}: {}", side.metrics());
    line
}

#[tokio::test]
async fn heads_that_are_no_request_are_counted_and_logged_with_their_reason() {
    let fine = request("GET", "/");
    let with = |name, value| [&fine[..], &[(name, value)]].concat();
    for (fields, reason, detail) in [
        (fine[1..].to_vec(), "malformed_head", "malformed headers: missing method"),
        (with(":status", "200"), "malformed_head", "cannot use :status header for requests"),
        (with("connection", "close"), "malformed_head", "malformed header block"),
        (with(":path", "/other"), "malformed_head", "malformed header block"),
        (request("GET", "/?secret =1").to_vec(), "malformed_head", "malformed headers: malformed path"),
        (with("content-length", "x"), "content_length", "could not parse content-length"),
        (
            with("content-length", "5"),
            "content_length",
            "recv_headers with END_STREAM: content-length is not zero",
        ),
        (
            [&with("content-length", "0")[..], &[("content-length", "1")]].concat(),
            "content_length",
            "conflicting content-length headers",
        ),
    ] {
        let pair = pair().await;
        let mut client = pair.frames().await;
        client.headers(END_STREAM, 1, &fields).await;
        assert_eq!(client.next().await.unwrap().kind, RST_STREAM, "{fields:?}");
        let line = told(&pair.front, &client.address().to_string(), CLIENT, "stream", reason).await;
        assert_eq!(line["detail"], detail, "{fields:?}");
        // Once, and with nothing that the client said.
        let counted = pair.front.metrics();
        let counted =
            counted.lines().filter(|line| line.starts_with("outrigger_http2_refused_total")).count();
        assert_eq!((counted, line["times"].as_str()), (1, "1"), "{fields:?}");
        assert!(!line.values().any(|value| value.contains("secret")), "{line:?}");
    }
}

#[tokio::test]
async fn a_list_of_fields_that_the_parser_answers_is_counted_and_logged() {
    let pair = with(Limits { head_bytes: 8 * 1024, ..Limits::default() }).await;
    let mut client = pair.frames().await;
    let long = "a".repeat(17_000);
    let block = block(&[&request("GET", "/")[..], &[("x-long", &long)]].concat());
    client.send(HEADERS, END_STREAM, 1, &block[..16_000]).await;
    client.send(CONTINUATION, END_HEADERS, 1, &block[16_000..]).await;
    assert_eq!(client.until(HEADERS).await.status(), 431);
    told(&pair.front, &client.address().to_string(), CLIENT, "stream", "head_too_large").await;
}

#[tokio::test]
async fn what_is_wrong_later_in_a_stream_is_counted_and_logged() {
    let length = [&request("POST", "/")[..], &[("content-length", "5")]].concat();
    for (what, rest, reason) in [
        ("a body that is too short", frame(DATA, END_STREAM, 1, b"abc"), "content_length"),
        ("a body that is too long", frame(DATA, 0, 1, b"abcdef"), "content_length"),
        (
            "trailers instead of the rest of it",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[("x", "1")])),
            "content_length",
        ),
        (
            "trailers that are no end",
            frame(HEADERS, END_HEADERS, 1, &block(&[("x", "1")])),
            "malformed_trailers",
        ),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"), "flow_control"),
        ("a stream that depends on itself", frame(PRIORITY, 0, 1, b"\0\0\0\x01\x10"), "malformed_frame"),
    ] {
        let pair = pair().await;
        let mut client = pair.frames().await;
        client.headers(0, 1, &length).await;
        let mut app = pair.app.accept().await;
        app.head().await;
        client.raw().send(rest).await;
        let reset = soon(what, client.until(RST_STREAM)).await;
        assert_eq!(reset.stream, 1, "{what}");
        let address = client.address().to_string();
        told(&pair.front, &address, CLIENT, "stream", reason).await;
        // The request that was under way has a record of its own.
        let record = log::line(&[("downstream.addr", &address), ("path", "/")]).await;
        assert!(matches!(record["reason"].as_str(), "client_closed" | "bad_request"), "{what}: {record:?}");
    }
}

#[tokio::test]
async fn a_frame_on_a_stream_that_is_over_is_counted_and_logged() {
    let pair = pair().await;
    let mut client = pair.frames().await;
    client.get(1, "/").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    app.send(OK).await;
    while client.until(DATA).await.flags & END_STREAM == 0 {}
    client.send(DATA, 0, 1, "x").await;
    client.until(RST_STREAM).await;
    told(&pair.front, &client.address().to_string(), CLIENT, "stream", "stream_closed").await;
}

#[tokio::test]
async fn a_connection_that_is_ended_is_counted_and_logged_once_with_its_cause() {
    for (what, bytes, reason) in [
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), "protocol"),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 1, b"\0\0\0\x08"), "protocol"),
        ("an index that is not there", frame(HEADERS, END_HEADERS, 1, b"\xfe"), "compression"),
        ("settings of the wrong size", frame(SETTINGS, 0, 0, b"\0\x03\0\0\0"), "malformed_frame"),
        ("a ping of the wrong size", frame(PING, 0, 0, b"1234567"), "malformed_frame"),
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 140_000]), "malformed_frame"),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), "flow_control"),
        (
            "a head that never ends",
            [frame(HEADERS, 0, 1, b"\x82"), frame(CONTINUATION, 0, 1, b"").repeat(1000)].concat(),
            "flood",
        ),
    ] {
        let pair = pair().await;
        let mut client = pair.frames().await;
        // It may be ended before all of it was taken.
        let _sent = client.raw().try_send(bytes).await.is_ok();
        client.goaway().await;
        let line = told(&pair.front, &client.address().to_string(), CLIENT, "connection", reason).await;
        assert_eq!(line["times"], "1", "{what}");
        let metrics = pair.front.metrics();
        let counted: Vec<_> =
            metrics.lines().filter(|line| line.starts_with("outrigger_http2_refused_total")).collect();
        assert!(matches!(counted[..], [one] if one.ends_with(" 1")), "{what}: {counted:?}");
    }
}

#[tokio::test]
async fn a_flood_of_what_is_refused_is_counted_whole_and_logged_sparingly() {
    let pair = pair().await;
    let mut client = pair.frames().await;
    for stream in (1..=1001).step_by(2) {
        client.headers(END_STREAM, stream, &[(":path", "/")]).await;
        client.until(RST_STREAM).await;
    }
    // What came before it on the connection is counted by then.
    client.get(1003, "/fine").await;
    let mut app = pair.app.accept().await;
    app.head().await;
    let counted = pair.front.metric(
        "outrigger_http2_refused_total{direction=\"outbound\",role=\"downstream\",ended=\"stream\",reason=\"malformed_head\"}",
    );
    assert_eq!(counted, 501.0);
    let peer = client.address().to_string();
    let lines = log::count(&[("message", "HTTP/2 refused"), ("peer.addr", &peer)]);
    assert!((1..=100).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn what_a_peer_of_the_mesh_sends_is_counted_and_logged_as_inbound() {
    let pair = pair().await;
    let expected = [pair.authority.workload_id("demo", "price")];
    let config = mesh::client_config(&pair.front.identity, expected, &[ALPN_H2]);
    let stream = TcpStream::connect(pair.price.path.inbound()[0]).await.unwrap();
    let address = stream.local_addr().unwrap().to_string();
    let connector = TlsConnector::from(config);
    let mut stream = soon("a handshake", connector.connect(mesh::server_name(), stream)).await.unwrap();
    let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[(":path", "/")]));
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &head].concat()).await.unwrap();
    let leg = ("inbound", "downstream");
    told(&pair.price, &address, leg, "stream", "malformed_head").await;
    stream.write_all(&frame(PING, 0, 0, b"short")).await.unwrap();
    told(&pair.price, &address, leg, "connection", "malformed_frame").await;
}

#[tokio::test]
async fn what_an_application_answers_is_counted_and_logged_as_inbound_and_upstream() {
    let pair = Pair::start().await;
    let mut client = pair.streams().await;
    let sent = client.send(get("/"), true).await;
    let mut app = Frames::server(pair.app.accept().await).await;
    let stream = app.until(HEADERS).await.stream;
    app.headers(END_STREAM, stream, &[("x-status", "200")]).await;
    assert_eq!(sent.answer().await.unwrap().status(), 502);
    let (leg, peer) = (("inbound", "upstream"), pair.app.address().to_string());
    told(&pair.price, &peer, leg, "stream", "malformed_head").await;
    app.send(PING, 0, 0, b"short").await;
    while app.until(GOAWAY).await.code() != h2::Reason::PROTOCOL_ERROR {}
    told(&pair.price, &peer, leg, "connection", "malformed_frame").await;
}

/// A request of a new client at a peer of the mesh that is written by hand: the client, the address of the peer, and its
/// connection.
async fn asked_over_the_mesh(pair: &Pair) -> (Raw, String, TlsStream<TcpStream>) {
    let server = Server::listen().await;
    let peer = endpoint(server.address(), &pair.authority, "price");
    pair.publish(2, pair.service(Vec::new()), &[peer]);
    let mut client = pair.client().await;
    client.send(GET).await;
    let acceptor = TlsAcceptor::from(mesh::server_config(&pair.price.identity, &[ALPN_H2]));
    let accepted = acceptor.accept(server.accept_stream().await);
    let mut stream = soon("a handshake", accepted).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
    let mut read = vec![0; PREFACE.len()];
    stream.read_exact(&mut read).await.unwrap();
    let mut head = [0; 9];
    while head[3] != HEADERS {
        soon("a request", stream.read_exact(&mut head)).await.unwrap();
        read.resize(usize::from(head[1]) << 8 | usize::from(head[2]), 0);
        stream.read_exact(&mut read).await.unwrap();
    }
    (client, server.address().to_string(), stream)
}

#[tokio::test]
async fn what_a_peer_of_the_mesh_answers_is_counted_and_logged_as_outbound_and_upstream() {
    let pair = Pair::start().await;
    let (mut client, address, mut stream) = asked_over_the_mesh(&pair).await;
    let answer = block(&[("x-status", "200")]);
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &answer)).await.unwrap();
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    told(&pair.front, &address, ("outbound", "upstream"), "stream", "malformed_head").await;
}

/// How a peer may leave: in order, or refusing us, with words that look like the parser's.
const LEAVES: [(h2::Reason, &str); 2] =
    [(h2::Reason::NO_ERROR, ""), (h2::Reason::ENHANCE_YOUR_CALM, ", PROTOCOL_ERROR, Library)")];

/// The payload of a GOAWAY (RFC 9113 §6.8) that gives no stream up.
fn leave((code, why): (h2::Reason, &str)) -> Vec<u8> {
    [&i32::MAX.to_be_bytes()[..], &u32::from(code).to_be_bytes(), why.as_bytes()].concat()
}

/// Ends `side`, which has refused nothing until then: not of `peer`, nor of anybody else.
async fn refused_nothing(side: Side, peer: impl ToString) {
    let metrics = side.ended().await;
    let counted = metrics.lines().find(|line| line.starts_with("outrigger_http2_refused_total"));
    assert_eq!(counted, None);
    assert_eq!(log::count(&[("message", "HTTP/2 refused"), ("peer.addr", &peer.to_string())]), 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_not_refused() {
    for leaves in LEAVES {
        let pair = pair().await;
        let mut client = pair.frames().await;
        client.send(GOAWAY, 0, 0, leave(leaves)).await;
        assert_eq!(client.goaway().await, Some(h2::Reason::NO_ERROR), "{leaves:?}");
        refused_nothing(pair.front, client.address()).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_request_is_not_refused() {
    for leaves in LEAVES {
        let pair = pair().await;
        let mut client = pair.frames().await;
        client.get(1, "/").await;
        let mut app = pair.app.accept().await;
        app.head().await;
        client.send(GOAWAY, 0, 0, leave(leaves)).await;
        app.send(OK).await;
        while client.until(DATA).await.flags & END_STREAM == 0 {}
        assert_eq!(client.goaway().await, Some(h2::Reason::NO_ERROR), "{leaves:?}");
        refused_nothing(pair.front, client.address()).await;
    }
}

#[tokio::test]
async fn a_peer_of_the_mesh_that_leaves_is_not_refused() {
    for leaves in LEAVES {
        let pair = Pair::start().await;
        let (mut client, address, mut stream) = asked_over_the_mesh(&pair).await;
        let answer = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[(":status", "204")]));
        stream.write_all(&[answer, frame(GOAWAY, 0, 0, &leave(leaves))].concat()).await.unwrap();
        assert!(client.head().await.starts_with("HTTP/1.1 204 "), "{leaves:?}");
        soon("the end", stream.read_to_end(&mut Vec::new())).await.unwrap();
        refused_nothing(pair.front, address).await;
    }
}

#[tokio::test]
async fn an_application_that_leaves_is_not_refused() {
    for leaves in LEAVES {
        let pair = Pair::start().await;
        let mut client = pair.streams().await;
        let sent = client.send(get("/"), true).await;
        let mut app = Frames::server(pair.app.accept().await).await;
        let stream = app.until(HEADERS).await.stream;
        app.headers(END_STREAM, stream, &[(":status", "204")]).await;
        app.send(GOAWAY, 0, 0, leave(leaves)).await;
        assert_eq!(sent.answer().await.unwrap().status(), 204, "{leaves:?}");
        assert_eq!(app.goaway().await, Some(h2::Reason::NO_ERROR), "{leaves:?}");
        refused_nothing(pair.price, app.address()).await;
    }
}

#[tokio::test]
async fn a_client_that_asks_nothing_for_too_long_is_told_to_leave_and_not_refused() {
    let pair = with(Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() }).await;
    let mut client = pair.frames().await;
    let ping = client.until(PING).await;
    client.send(PING, ACK, 0, ping.payload).await;
    assert_eq!(client.goaway().await, Some(h2::Reason::NO_ERROR));
    refused_nothing(pair.front, client.address()).await;
}

#[tokio::test]
async fn a_peer_of_the_mesh_of_which_nothing_is_asked_for_too_long_is_left_and_not_refused() {
    let limits = Limits { pool_idle: Duration::from_millis(100), ..Limits::default() };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    let (mut client, address, mut stream) = asked_over_the_mesh(&pair).await;
    let answer = block(&[(":status", "204")]);
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &answer)).await.unwrap();
    assert!(client.head().await.starts_with("HTTP/1.1 204 "));
    soon("the end", stream.read_to_end(&mut Vec::new())).await.unwrap();
    refused_nothing(pair.front, address).await;
}

/// A pair and its peers, all of whose connections have one whole exchange behind them.
async fn in_order() -> (Pair, Client, App) {
    let pair = Pair::start().await;
    let mut client = pair.streams().await;
    let first = client.send(get("/"), true).await;
    let mut app = App::accept(&pair.app).await;
    app.call().await.ok("ok");
    assert_eq!(first.answer().await.unwrap().status(), 200);
    (pair, client, app)
}

#[tokio::test]
async fn nothing_is_counted_of_what_is_in_order() {
    let (pair, client, _app) = Box::pin(in_order()).await;
    for side in [&pair.front, &pair.price] {
        assert!(!side.metrics().contains("outrigger_http2_refused_total{"), "{}", side.metrics());
    }
    let Pair { front, price, app, .. } = pair;
    let address = client.address;
    client.leave().await;
    refused_nothing(front, address).await;
    refused_nothing(price, app.address()).await;
}

#[tokio::test]
async fn nothing_is_counted_of_what_a_drain_ends() {
    let (pair, client, _app) = Box::pin(in_order()).await;
    let Pair { front, price, app, .. } = pair;
    // First the one that is asked: the other one hears of it, then.
    refused_nothing(price, app.address()).await;
    refused_nothing(front, client.address).await;
}
