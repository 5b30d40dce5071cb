//! HTTP/2 clients that break the rules, on purpose or not: a defined answer or a clean end, and nobody else pays for it.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason as Code;
use outrigger_proxy::{http::Limits, settings::InboundProtocol};

use crate::support::{
    OK, Options, Pair, header, log,
    raw::soon,
    streams::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PUSH_PROMISE,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, post, request,
    },
};

/// Clients may speak HTTP/2; the application does not.
pub(crate) async fn pair() -> Pair {
    with(Limits::default()).await
}

pub(crate) async fn with(limits: Limits) -> Pair {
    Pair::with(&Options { limits, protocol: InboundProtocol::Http1, ..Options::default() }).await
}

pub(crate) async fn logged(address: std::net::SocketAddr, reason: &str) {
    log::line(&[("downstream.addr", &address.to_string()), ("reason", reason)]).await;
}

/// The other requests of the pair are answered.
pub(crate) async fn still_serves(pair: &Pair) {
    let mut client = pair.client().await;
    client.send("GET /after HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    assert!(app.head().await.starts_with("GET /after "));
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn frames_that_break_the_connection_end_it_with_their_code_and_are_logged() {
    let pair = pair().await;
    let big = vec![0; 140_000];
    let headers = block(&request("GET", "/"));
    for (what, kind, flags, stream, payload) in [
        ("DATA on an idle stream", DATA, 0, 1, &b"x"[..]),
        ("DATA on the connection itself", DATA, 0, 0, b"x"),
        ("HEADERS on the connection itself", HEADERS, END_HEADERS, 0, &headers),
        ("a stream of the server's", HEADERS, END_HEADERS, 2, &headers),
        ("more padding than payload", HEADERS, END_HEADERS | PADDED, 1, b"\x09x"),
        ("a field that cannot be decoded", HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        ("an index that is not there", HEADERS, END_HEADERS, 1, b"\xfe"),
        ("a table larger than allowed", HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\x7f\x82"),
        ("a CONTINUATION of nothing", CONTINUATION, END_HEADERS, 1, &headers),
        ("a reset of an idle stream", RST_STREAM, 0, 1, b"\0\0\0\x08"),
        ("a reset of the connection", RST_STREAM, 0, 0, b"\0\0\0\x08"),
        ("a reset of the wrong size", RST_STREAM, 0, 1, b"\0\0\0"),
        ("settings of a stream", SETTINGS, 0, 1, b""),
        ("settings of the wrong size", SETTINGS, 0, 0, b"\0\x03\0\0\0"),
        ("an acknowledgement with settings", SETTINGS, ACK, 0, b"\0\x03\0\0\0\x01"),
        ("push neither on nor off", SETTINGS, 0, 0, b"\0\x02\0\0\0\x02"),
        ("a window that is too large", SETTINGS, 0, 0, b"\0\x04\x80\0\0\0"),
        ("frames that are too small", SETTINGS, 0, 0, b"\0\x05\0\0\x3f\xff"),
        ("a push", PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02\x82"),
        ("a ping of a stream", PING, 0, 1, b"12345678"),
        ("a ping of the wrong size", PING, 0, 0, b"1234567"),
        ("a window that grows by nothing", WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
        ("a window that overflows", WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
        ("a window of an idle stream", WINDOW_UPDATE, 0, 1, b"\0\0\0\x01"),
        ("a window of the wrong size", WINDOW_UPDATE, 0, 0, b"\0\0\x01"),
        ("a frame that is too large", DATA, 0, 1, &big),
    ] {
        let mut client = pair.frames().await;
        client.send(kind, flags, stream, payload).await;
        let code = client.goaway().await;
        // The parser knows few other codes (RFC 9113 §7 has more exact ones for some of these).
        let expected = match what {
            "a window that overflows" => Code::FLOW_CONTROL_ERROR,
            "a frame that is too large" => Code::FRAME_SIZE_ERROR,
            _ => Code::PROTOCOL_ERROR,
        };
        assert_eq!(code, Some(expected), "{what}");
        logged(client.address(), "bad_request").await;
    }
    assert!(!pair.app.is_called().await);
    still_serves(&pair).await;
}

#[tokio::test]
async fn a_preface_that_is_none_is_refused() {
    let pair = pair().await;
    let mut client = pair.client().await;
    let address = client.address();
    client.send("PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 400 "));
    logged(address, "bad_request").await;
    still_serves(&pair).await;
}

#[tokio::test]
async fn heads_that_are_no_request_are_reset_and_the_connection_goes_on() {
    let pair = pair().await;
    let mut client = pair.frames().await;
    let fine = request("GET", "/");
    let with = |name, value| [&fine[..], &[(name, value)]].concat();
    let without = |name| fine.iter().copied().filter(|(found, _)| *found != name).collect::<Vec<_>>();
    let line = |[method, scheme, authority, path]: [&'static str; 4]| {
        vec![(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
    };
    let mut stream = 1;
    for fields in [
        without(":method"),
        without(":scheme"),
        without(":path"),
        with(":method", "GET"),
        with(":path", "/other"),
        with(":authority", "other"),
        with(":status", "200"),
        [&[("x-first", "1")], &fine[..]].concat(),
        with("connection", "close"),
        with("keep-alive", "timeout=5"),
        with("proxy-connection", "close"),
        with("transfer-encoding", "chunked"),
        with("upgrade", "websocket"),
        with("te", "gzip"),
        line(["GET", "http", "price", ""]),
        line(["GET", "http", "price", "/a b"]),
        // Each would be another target in the request line that the application reads.
        line(["GET", "http", "price", "other.example/"]),
        line(["GET", "http", "price", "http://other.example/"]),
        line(["GET", "http", "price", ":80/"]),
        line(["GET", "http", "price", "/\r\nx: y"]),
        line(["GET", "http", "pri ce", "/"]),
        line(["GET", "ht tp", "price", "/"]),
        with("content-length", "5"),
        with("content-length", "x"),
    ] {
        client.headers(END_STREAM, stream, &fields).await;
        let frame = client.next().await.unwrap_or_else(|| panic!("closed after {fields:?}"));
        assert_eq!((frame.kind, frame.stream), (RST_STREAM, stream), "{fields:?}");
        assert_eq!(frame.code(), Code::PROTOCOL_ERROR, "{fields:?}");
        stream += 2;
    }
    assert!(!pair.app.is_called().await);
    client.get(stream, "/fine").await;
    let mut app = pair.app.accept().await;
    assert!(app.head().await.starts_with("GET /fine HTTP/1.1\r\n"));
    app.send(OK).await;
    assert_eq!(client.until(HEADERS).await.status(), 200);
}

#[tokio::test]
async fn fields_that_are_none_end_the_connection() {
    let pair = pair().await;
    let fine = request("GET", "/");
    let with = |name, value| [&fine[..], &[(name, value)]].concat();
    for fields in [
        with(":unknown", "x"),
        with("X-Upper", "1"),
        with("x-nul", "a\0b"),
        with("x-return", "a\rb"),
        with("x-line", "a\r\nx-other: b"),
        with("x name", "1"),
        with("x:name", "1"),
        with("x\r\nname", "1"),
        with("", "1"),
        vec![(":method", "G ET"), (":scheme", "http"), (":authority", "price"), (":path", "/")],
    ] {
        let mut client = pair.frames().await;
        client.headers(END_STREAM, 1, &fields).await;
        assert_eq!(client.goaway().await, Some(Code::PROTOCOL_ERROR), "{fields:?}");
        logged(client.address(), "bad_request").await;
    }
    assert!(!pair.app.is_called().await);
    still_serves(&pair).await;
}

#[tokio::test]
async fn heads_that_could_mean_two_things_are_answered_400() {
    let pair = pair().await;
    let mut client = pair.frames().await;
    let fine = request("GET", "/");
    let with = |name, value| [&fine[..], &[(name, value)]].concat();
    let mut stream = 1;
    for (fields, status) in [
        (with("host", "other"), 400),
        ([&with("host", "price")[..], &[("host", "price")]].concat(), 400),
        (with("host", "a b"), 400),
        (vec![(":method", "GET"), (":scheme", "http"), (":path", "/")], 400),
        (vec![(":method", "GET"), (":scheme", "http"), (":authority", "me@price"), (":path", "/")], 400),
        ([&with("content-length", "0")[..], &[("content-length", "0")]].concat(), 400),
        (vec![(":method", "GET"), (":scheme", "https"), (":authority", "price"), (":path", "/")], 501),
        // Would be no target at all in a request line.
        (request("GET", "?a").to_vec(), 400),
        (request("GET", "*").to_vec(), 400),
        (vec![(":method", "CONNECT"), (":authority", "price:80")], 501),
    ] {
        client.headers(END_STREAM, stream, &fields).await;
        let answer = soon(&format!("an answer to {fields:?}"), client.next()).await;
        let answer = answer.unwrap_or_else(|| panic!("closed after {fields:?}"));
        assert_eq!((answer.kind, answer.stream), (HEADERS, stream), "{fields:?} {answer:?}");
        assert_eq!(answer.status(), status, "{fields:?}");
        while client.until(DATA).await.flags & END_STREAM == 0 {}
        let reason = if status == 400 { "bad_request" } else { "unsupported_protocol" };
        logged(client.address(), reason).await;
        stream += 2;
    }
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn extended_connect_is_refused() {
    let pair = pair().await;
    let mut client = pair.frames().await;
    let fields = [&request("CONNECT", "/chat")[..], &[(":protocol", "websocket")]].concat();
    client.headers(0, 1, &fields).await;
    let answer = client.next().await.unwrap();
    match answer.kind {
        RST_STREAM => assert_eq!(answer.code(), Code::PROTOCOL_ERROR),
        _ => assert_eq!(answer.status(), 501),
    }
    assert!(!pair.app.is_called().await);
}

#[tokio::test]
async fn a_host_that_agrees_and_a_path_of_options_pass() {
    let pair = pair().await;
    let mut client = pair.frames().await;
    let fields = [&request("OPTIONS", "*")[..], &[("host", "price")]].concat();
    client.headers(END_STREAM, 1, &fields).await;
    let mut app = pair.app.accept().await;
    let head = app.head().await;
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), Some("price"));
    app.send(OK).await;
    assert_eq!(client.until(HEADERS).await.status(), 200);
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_never_looks_whole() {
    let pair = pair().await;
    for (length, body) in [("5", "abc"), ("2", "abc")] {
        let mut client = pair.frames().await;
        let fields = [&request("POST", "/")[..], &[("content-length", length)]].concat();
        client.headers(0, 1, &fields).await;
        client.send(DATA, END_STREAM, 1, body).await;
        let answer = client.next().await.unwrap();
        assert_eq!((answer.kind, answer.code()), (RST_STREAM, Code::PROTOCOL_ERROR), "{length}");
        // It may have begun; it must not end.
        if let Some(seen) = seen_by_the_application(&pair).await {
            assert!(seen.len() < length.parse().unwrap(), "{length}: {seen:?}");
        }
    }
}

/// What comes of a request that may or may not arrive: its body, up to the end of the connection.
async fn seen_by_the_application(pair: &Pair) -> Option<Vec<u8>> {
    let accepted = tokio::time::timeout(Duration::from_millis(300), pair.app.accept()).await;
    let mut app = accepted.ok()?;
    let (all, _) = app.rest().await;
    let at = all.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(all[at + 4..].to_vec())
}

#[tokio::test]
async fn an_upload_that_is_reset_never_looks_whole_whatever_the_code() {
    let pair = pair().await;
    for code in [Code::NO_ERROR, Code::CANCEL, Code::INTERNAL_ERROR, Code::REFUSED_STREAM] {
        let mut client = pair.streams().await;
        let mut sent = client.send(post("/"), false).await;
        sent.body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let mut app = pair.app.accept().await;
        app.head().await;
        app.until("3\r\nabc\r\n").await;
        sent.body.send_reset(code);
        let (rest, _) = app.rest().await;
        assert_eq!(rest, b"", "{code}");
        logged(client.address, "client_closed").await;
    }
}

#[tokio::test]
async fn an_upload_that_is_reset_in_the_write_that_brings_its_data_never_looks_whole() {
    let pair = pair().await;
    for code in [Code::NO_ERROR, Code::CANCEL] {
        let mut client = pair.frames().await;
        client.headers(0, 1, &request("POST", "/")).await;
        let mut app = pair.app.accept().await;
        app.head().await;
        let data = frame(DATA, 0, 1, b"abc");
        let reset = frame(RST_STREAM, 0, 1, &u32::from(code).to_be_bytes());
        client.raw().send([data, reset].concat()).await;
        let (rest, _) = app.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{code}: {}", String::from_utf8_lossy(&rest));
        logged(client.address(), "client_closed").await;
    }
}

#[tokio::test]
async fn pseudo_headers_in_trailers_reach_nobody() {
    let pair = pair().await;
    let mut client = pair.frames().await;
    client.headers(0, 1, &[&request("POST", "/")[..], &[("trailer", "x-sum")]].concat()).await;
    client.send(DATA, 0, 1, "abc").await;
    let mut app = pair.app.accept().await;
    app.until("3\r\nabc\r\n").await;
    // The parser drops it without a word; what is left is a request.
    client.headers(END_STREAM, 1, &[(":path", "/other"), ("x-sum", "1")]).await;
    assert_eq!(app.until("\r\n\r\n").await, "0\r\nx-sum: 1\r\n\r\n");
    app.send(OK).await;
    assert_eq!(client.until(HEADERS).await.status(), 200);
}

#[tokio::test]
async fn frames_on_a_stream_that_is_over_cost_nobody_anything() {
    let pair = pair().await;
    for (what, kind, flags, payload) in [
        ("DATA", DATA, 0, &b"x"[..]),
        ("HEADERS", HEADERS, END_HEADERS | END_STREAM, b"\x82"),
        ("CONTINUATION", CONTINUATION, END_HEADERS, b"\x82"),
    ] {
        let mut client = pair.frames().await;
        client.get(1, "/").await;
        let mut app = pair.app.accept().await;
        app.head().await;
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        client.until(HEADERS).await;
        client.send(kind, flags, 1, payload).await;
        // Either the stream or the connection may be blamed (RFC 9113 §5.1).
        let code = soon(what, async {
            match client.next().await {
                Some(frame) if frame.kind == RST_STREAM || frame.kind == GOAWAY => frame.code(),
                other => panic!("{what}: {other:?}"),
            }
        })
        .await;
        assert!(matches!(code, Code::STREAM_CLOSED | Code::PROTOCOL_ERROR), "{what}: {code}");
    }
    still_serves(&pair).await;
}

#[tokio::test]
async fn a_client_that_ignores_the_window_is_reset_and_no_more_than_the_window_is_held() {
    let window = 64 * 1024;
    let pair = with(Limits { http2_window: window, ..Limits::default() }).await;
    let mut client = pair.frames().await;
    client.headers(0, 1, &request("POST", "/")).await;
    // The application reads nothing.
    let mut app = pair.app.accept().await;
    app.head().await;
    let mut seen = None;
    // What the kernel and the windows on the way take, and then no more.
    for _ in 0..4096 {
        if client.raw().try_send(&frame(DATA, 0, 1, &[0; 16 * 1024])).await.is_err() {
            break;
        }
        if let Some(found) = client.waiting(RST_STREAM).await {
            seen = Some(found);
            break;
        }
    }
    let seen = seen.expect("64 MiB were taken beyond the window");
    assert_eq!(seen.code(), Code::FLOW_CONTROL_ERROR);
    logged(client.address(), "bad_request").await;
    drop(app);
    still_serves(&pair).await;
}

#[tokio::test]
async fn a_list_of_fields_beyond_the_limit_has_its_reason_and_beyond_twice_the_parser_answers() {
    let limits = Limits { head_bytes: 8 * 1024, ..Limits::default() };
    let pair = with(limits).await;
    let mut client = pair.frames().await;
    let long = "a".repeat(9_000);
    client.headers(END_STREAM, 1, &[&request("GET", "/")[..], &[("x-long", &long)]].concat()).await;
    assert_eq!(client.until(HEADERS).await.status(), 431);
    logged(client.address(), "head_too_large").await;
    let many: Vec<(&str, &str)> =
        request("GET", "/").into_iter().chain(std::iter::repeat_n(("x", "y"), 101)).collect();
    client.headers(END_STREAM, 3, &many).await;
    assert_eq!(client.until(HEADERS).await.status(), 431);
    let longer = "a".repeat(17_000);
    let fields = [&request("GET", "/")[..], &[("x-long", &longer)]].concat();
    let block = block(&fields);
    client.send(HEADERS, END_STREAM, 5, &block[..16_000]).await;
    client.send(CONTINUATION, END_HEADERS, 5, &block[16_000..]).await;
    let answer = client.until(HEADERS).await;
    assert_eq!((answer.status(), answer.stream), (431, 5));
    // The connection is in order.
    client.get(7, "/fine").await;
    let mut app = pair.app.accept().await;
    assert!(app.head().await.starts_with("GET /fine "));
    app.send(OK).await;
    assert_eq!(client.until(HEADERS).await.status(), 200);
}

#[tokio::test]
async fn requests_beyond_the_streams_that_are_allowed_are_refused_and_none_of_the_others_is() {
    let pair = with(Limits { http2_streams: 4, ..Limits::default() }).await;
    let mut client = pair.frames().await;
    let mut apps = Vec::new();
    for stream in [1, 3, 5, 7] {
        client.get(stream, "/held").await;
        let mut app = pair.app.accept().await;
        app.head().await;
        apps.push(app);
    }
    client.get(9, "/more").await;
    let refused = client.next().await.unwrap();
    assert_eq!((refused.kind, refused.stream, refused.code()), (RST_STREAM, 9, Code::REFUSED_STREAM));
    for app in &mut apps {
        app.send(OK).await;
    }
    for _ in 0..4 {
        assert_eq!(client.until(HEADERS).await.status(), 200);
    }
}
