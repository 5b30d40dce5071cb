//! What arrives is what was sent: the corners of HTTP/1.1 in which a parser between two peers drops or adds something. And
//! what does not, as the roadmap has it among the known limits: exactly that.

use http::{HeaderName, HeaderValue};
use outrigger_core::model::{ExternalTraffic, HeaderMutation, HttpFilter};
use outrigger_proxy::settings::InboundProtocol;

use crate::{
    mesh_leg,
    routing::rule,
    support::{
        Options, Pair, header,
        raw::End,
        streams::{App, get, piece, post, whole},
    },
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_body_of_unknown_length_arrives_whatever_the_method() {
    let pair = Pair::start().await;
    for method in ["GET", "DELETE", "OPTIONS", "SEARCH"] {
        let mut client = pair.client().await;
        client
            .send(format!(
                "{method} / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ))
            .await;
        let mut app = pair.app.accept().await;
        let head = app.head().await;
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"), "{head}");
        assert_eq!(app.until("0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n", "{method}");
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"), "{method}");
    }
}

#[tokio::test]
async fn a_rule_that_edits_headers_lets_none_of_the_connections_own_through() {
    let pair = Pair::start().await;
    let mut edited = rule("/");
    edited.filters = vec![HttpFilter::RequestHeaders(HeaderMutation {
        set: vec![
            (HeaderName::from_static("x-version"), HeaderValue::from_static("1")),
            (HeaderName::from_static("connection"), HeaderValue::from_static("x-request-id")),
        ],
        ..HeaderMutation::default()
    })];
    pair.publish(2, pair.service(vec![edited]), &[pair.endpoint()]);
    let mut client = pair.client().await;
    let request = "GET / HTTP/1.1\r\nhost: price\r\nconnection: x-private\r\nx-private: 1\r\n\r\n";
    let (seen, _) = pair.exchange(&mut client, request, OK).await;
    assert_eq!(header(&seen, "x-version"), Some("1"));
    assert_eq!(header(&seen, "x-private"), None, "{seen}");
}

#[tokio::test]
async fn the_meshs_own_fields_cross_in_no_trailer() {
    let pair = Pair::start().await;
    let (mut client, mut app) = pair.asked("POST / HTTP/1.1\r\nhost: price\r\nte: trailers\r\nconnection: te\r\ntrailer: x-forwarded-client-cert, outrigger-hop, x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-forwarded-client-cert: URI=me\r\noutrigger-hop: 1\r\nx-sum: 1\r\n\r\n").await;
    assert_eq!(app.until("\r\n\r\n").await, "2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n");
    app.send("HTTP/1.1 200 OK\r\ntrailer: outrigger-timing, x-end\r\ntransfer-encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\noutrigger-timing: v=1\r\nx-end: 2\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(client.until("\r\n\r\n").await, "2\r\ncd\r\n0\r\nx-end: 2\r\n\r\n");
}

#[tokio::test]
async fn a_connection_whose_connect_was_refused_is_not_used_again() {
    let pair = Pair::start().await;
    for request in [
        "CONNECT www.example.org:443 HTTP/1.1\r\nhost: www.example.org:443\r\n\r\n",
        "CONNECT nobody:80 HTTP/1.1\r\nhost: nobody:80\r\n\r\n",
    ] {
        let mut client = pair.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert_eq!(header(&head, "connection"), Some("close"), "{head}");
        assert_eq!(client.rest().await.1, End::Clean);
    }
}

#[tokio::test]
async fn a_connect_has_no_body() {
    let pair = Pair::start().await;
    pair.publish_with(2, pair.service(Vec::new()), &[pair.endpoint()], |config| {
        config.external_traffic = ExternalTraffic::Connect443;
    });
    for framing in ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let mut client = pair.client().await;
        client.send(format!("CONNECT price:80 HTTP/1.1\r\nhost: price:80\r\n{framing}")).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{framing}: {head}");
    }
}

#[tokio::test]
async fn a_response_has_one_length_at_most() {
    for lengths in ["content-length: 2\r\ncontent-length: 2", "content-length: 2, 2"] {
        let pair = Pair::start().await;
        let mut client = pair.client().await;
        let answer = format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\nok");
        let (_, head) = pair.exchange(&mut client, "GET / HTTP/1.1\r\nhost: price\r\n\r\n", &answer).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{lengths}: {head}");
    }
}

#[tokio::test]
async fn of_trailers_in_http1_exactly_those_that_are_not_announced_are_lost() {
    const TRAILERS: &str = "2\r\nab\r\n0\r\nx-sum: 1\r\nx-other: 2\r\n\r\n";
    for (announced, crosses) in [
        ("trailer: x-sum, x-other\r\n", TRAILERS),
        ("trailer: x-sum\r\n", "2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n"),
        ("", "2\r\nab\r\n0\r\n\r\n"),
    ] {
        let pair = mesh_leg::pair().await;
        let request = "POST / HTTP/1.1\r\nhost: price\r\nte: trailers\r\nconnection: te\r\n";
        let (mut client, mut app) =
            pair.asked(format!("{request}{announced}transfer-encoding: chunked\r\n\r\n{TRAILERS}")).await;
        assert_eq!(String::from_utf8(app.exactly(crosses.len()).await).unwrap(), crosses, "{announced}");
        app.send(format!("HTTP/1.1 200 OK\r\n{announced}transfer-encoding: chunked\r\n\r\n{TRAILERS}")).await;
        client.head().await;
        assert_eq!(String::from_utf8(client.exactly(crosses.len()).await).unwrap(), crosses, "{announced}");
        // Nothing came behind it.
        client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
        assert!(pair.next_head(&mut app).await.starts_with("GET / "), "{announced}");
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"), "{announced}");
        // HTTP/2 announces none.
        let mut client = pair.streams().await;
        let sent = client.send(get("/"), true).await;
        pair.next_head(&mut app).await;
        app.send(format!("HTTP/1.1 200 OK\r\n{announced}transfer-encoding: chunked\r\n\r\n{TRAILERS}")).await;
        let (_, trailers) = whole(sent.response.await.unwrap().into_body()).await.unwrap();
        assert_eq!(trailers.unwrap().len(), 2, "{announced}");
    }
}

#[tokio::test]
async fn the_length_of_a_304_is_lost_to_an_http1_client_and_nothing_else_of_it() {
    let pair = mesh_leg::pair().await;
    let answer = "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 1234\r\n\r\n";
    let mut client = pair.client().await;
    let (_, head) = pair.exchange(&mut client, "GET / HTTP/1.1\r\nhost: price\r\n\r\n", answer).await;
    assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{head}");
    assert_eq!((header(&head, "etag"), header(&head, "content-length")), (Some("\"1\""), None), "{head}");
    // The connection is in order afterwards.
    let (_, head) = pair.exchange(&mut client, "GET / HTTP/1.1\r\nhost: price\r\n\r\n", OK).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let mut client = pair.streams().await;
    let sent = client.send(get("/"), true).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    app.send(answer).await;
    let got = sent.answer().await.unwrap();
    assert_eq!(got.status(), 304);
    assert_eq!((got.header("etag"), got.header("content-length")), (Some("\"1\""), Some("1234")), "{got:?}");
}

#[tokio::test]
async fn what_an_http2_client_expects_is_not_passed_on_and_its_body_is() {
    for protocol in [InboundProtocol::Http1, InboundProtocol::Http2] {
        let pair = Pair::with(&Options { protocol, ..Options::default() }).await;
        let mut client = pair.streams().await;
        let mut request = post("/");
        request.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
        let mut sent = client.send(request, false).await;
        sent.body.send_data("ab".into(), true).unwrap();
        let status = async { sent.answer().await.unwrap().status() };
        if protocol == InboundProtocol::Http1 {
            let mut app = pair.app.accept().await;
            let head = app.head().await;
            assert_eq!(header(&head, "expect"), None, "{head}");
            app.until("2\r\nab\r\n0\r\n\r\n").await;
            app.send(OK).await;
            assert_eq!(status.await, 200);
        } else {
            let mut app = App::accept(&pair.app).await;
            let mut call = app.call().await;
            assert_eq!(call.request.headers().get("expect"), None);
            assert_eq!(piece(call.request.body_mut()).await.unwrap().unwrap(), "ab");
            call.ok("");
            assert_eq!(status.await, 200);
        }
    }
}
