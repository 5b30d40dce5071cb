//! What arrives is what was sent: the corners of HTTP/1.1 in which a parser between two peers drops or adds something.

use http::{HeaderName, HeaderValue};
use outrigger_core::model::{ExternalTraffic, HeaderMutation, HttpFilter};

use crate::{
    routing::rule,
    support::{Pair, header, raw::End},
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
