//! The guard against slow, silent and oversized heads.

use http::{Response, StatusCode};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::{
    http::{Closing, ResponseBody, serve_http1},
    signal::Signal,
    telemetry::{Direction, Exchange, Party, Record, Telemetry},
};

impl Transport for DuplexStream {
    fn reset_on_close(&self) {}
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_not_idle() {
    assert_eq!(read_slowly("").await, "");
}

#[tokio::test(start_paused = true)]
async fn the_next_head_is_not_late_before_the_answer_is_there() {
    assert!(read_slowly("GET").await.starts_with("HTTP/1.1 408 "));
}

/// Takes longer than any timeout to read an answer, having sent `behind` after the request; returns what came after it.
async fn read_slowly(behind: &str) -> String {
    let limits = Limits::default();
    let telemetry = Telemetry::new(&mut Registry::default(), None);
    let (mut client, server) = duplex(1024);
    let io = Guarded::http1(server, Bytes::new(), &limits);
    let link = Arc::clone(io.link());
    let body = Bytes::from(vec![b'x'; 64 * 1024]);
    let service = |_request| {
        let record = Record::new(Direction::Outbound, Party::downstream(([127, 0, 0, 1], 1).into(), None));
        let mut exchange = Exchange::begin(&telemetry, &link, record);
        exchange.answered(StatusCode::OK, &http::HeaderMap::new(), Instant::now());
        let response = Response::new(ResponseBody::own(body.clone(), Some(exchange)));
        async move { response }
    };
    let talk = async {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        client.write_all(behind.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let mut part = [0; 1024];
        while !got.ends_with(&body) {
            // Up to the last few bytes, which are the server's own to wait for.
            if got.len() < body.len() - 4096 {
                tokio::time::sleep(limits.idle_timeout).await;
            }
            let read = client.read(&mut part).await.unwrap();
            assert!(read > 0, "cut off after {} bytes", got.len());
            got.extend_from_slice(&part[..read]);
        }
        // Only now.
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        rest
    };
    let closing = Closing::new(&Signal::default());
    tokio::join!(serve_http1(io, &limits, &closing, service), talk).1
}
