//! HTTP/1 clients that break the rules: whatever reaches the application can be understood in one way only.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use outrigger_core::model::AppProtocol;
use outrigger_proxy::{http::Limits, settings::InboundProtocol};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{
    OK, Options, Pair, header, log,
    raw::{End, Raw, soon},
    strict,
};

/// A pair whose application takes only what is beyond doubt, and answers 200 to it. Every connection of the client's
/// leads there, whatever its requests say.
struct Judged {
    pair: Arc<Pair>,
    /// What was not.
    dirty: Arc<Mutex<Vec<String>>>,
    _app: AbortOnDropHandle<()>,
}

impl Judged {
    async fn start() -> Self {
        let limits = Limits {
            head_timeout: Duration::from_secs(2),
            body_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(2),
            queue_timeout: Duration::from_secs(10),
            continue_timeout: Duration::from_millis(50),
            ..Limits::default()
        };
        let services = vec!["127.0.0.1:0=price"];
        let options = Options { limits, services, protocol: InboundProtocol::Http1, ..Options::default() };
        let pair = Pair::with(&options).await;
        let mut service = pair.service(Vec::new());
        service.ports[0].protocol = AppProtocol::Http1;
        pair.publish(2, service, &[pair.endpoint()]);
        let pair = Arc::new(pair);
        let dirty = Arc::new(Mutex::new(Vec::new()));
        let (server, found) = (Arc::clone(&pair), Arc::clone(&dirty));
        let app = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let mut connection = server.app.accepted().await;
                let found = Arc::clone(&found);
                open.spawn(async move {
                    loop {
                        match strict::request(&mut connection).await {
                            Ok(true) if connection.try_send(OK).await.is_ok() => {}
                            Ok(_) => return,
                            Err(what) => return found.lock().unwrap().push(what),
                        }
                    }
                });
            }
        });
        Self { pair, dirty, _app: AbortOnDropHandle::new(app) }
    }

    /// The statuses of what comes back on a connection with `bytes`, up to its end.
    async fn answers(pair: &Pair, bytes: &[u8]) -> Vec<u16> {
        let mut client = Raw::connect(pair.front.path.services()[0]).await;
        // It may be cut before it has said all of it.
        let _cut = client.try_send(bytes).await;
        let (all, _) = client.rest().await;
        String::from_utf8_lossy(&all)
            .split("HTTP/1.")
            .skip(1)
            .filter_map(|answer| answer.get(2..5)?.parse().ok())
            .collect()
    }

    /// The same of many at once, by their names.
    async fn all(&self, cases: Vec<(String, Vec<u8>)>) -> BTreeMap<String, Vec<u16>> {
        let mut running = JoinSet::new();
        for (name, bytes) in cases {
            let pair = Arc::clone(&self.pair);
            running.spawn(async move { (name, Self::answers(&pair, &bytes).await) });
        }
        running.join_all().await.into_iter().collect()
    }

    fn nothing_is_dirty(&self) {
        let dirty = self.dirty.lock().unwrap();
        assert!(dirty.is_empty(), "{}", dirty.join("\n"));
    }
}

/// The files of gunicorn's corpus in `folder`, by name.
fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let root: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/it/data/gunicorn", folder].iter().collect();
    let mut cases: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, bytes_of(&std::fs::read(path).unwrap()))
        })
        .collect();
    cases.sort();
    cases
}

/// What a file of the corpus stands for.
fn bytes_of(text: &[u8]) -> Vec<u8> {
    let mut rest: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\n').collect();
    let mut bytes = Vec::new();
    while !rest.is_empty() {
        let (byte, length) = match rest.as_slice() {
            [b'\\', b'r', ..] => (b'\r', 2),
            [b'\\', b'n', ..] => (b'\n', 2),
            [b'\\', b't', ..] => (b'\t', 2),
            [b'\\', b'0', ..] => (0, 2),
            [b'\\', b'x', high, low, ..] => {
                (u8::from_str_radix(str::from_utf8(&[*high, *low]).unwrap(), 16).unwrap(), 4)
            }
            [byte, ..] => (*byte, 1),
            [] => unreachable!(),
        };
        bytes.push(byte);
        rest.drain(..length);
    }
    bytes
}

/// The same request with a Host, if it has none: so that it is not refused for that alone.
fn with_host(bytes: &[u8]) -> Vec<u8> {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    if head.to_ascii_lowercase().contains("\nhost") {
        return bytes.to_vec();
    }
    let at = text.find("\r\n").map_or(bytes.len(), |at| at + 2);
    [&bytes[..at], b"Host: price\r\n", &bytes[at..]].concat()
}

fn named(cases: &BTreeMap<String, Vec<u16>>, wanted: impl Fn(&[u16]) -> bool) -> BTreeSet<&str> {
    cases.iter().filter(|(_, answers)| wanted(answers)).map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn of_gunicorns_invalid_requests_none_reaches_the_application_as_it_is() {
    let judged = Judged::start().await;
    let cases: Vec<_> =
        corpus("invalid").into_iter().map(|(name, bytes)| (name, with_host(&bytes))).collect();
    assert_eq!(cases.len(), 81);
    let answers = judged.all(cases).await;
    judged.nothing_is_dirty();
    let passed = [
        // Valid by RFC 9110; gunicorn is stricter about methods, underscores, schemes and repeated fields, ...
        "003c",
        "019",
        "040",
        "041",
        "chunked_07",
        // ... and its limits are others.
        "006",
        "007",
        "008",
        "010",
        "011",
        "012",
        "017",
        "limit_header_default_01",
        // Clean when it arrives: a space after a chunk's size, trailers that frame or route, bare line feeds.
        "chunked_09",
        "rfc9110_trailer_forbidden_cl_01",
        "rfc9110_trailer_forbidden_host_01",
        "rfc9110_trailer_forbidden_te_01",
        "rfc9112_bare_lf_01",
    ];
    assert_eq!(named(&answers, |answers| answers.contains(&200)), BTreeSet::from(passed));
    // Nobody is left without an answer.
    assert_eq!(named(&answers, <[u16]>::is_empty), BTreeSet::new());
}

#[tokio::test]
async fn of_gunicorns_valid_requests_those_that_are_refused_are_known() {
    let judged = Judged::start().await;
    let cases: Vec<_> = corpus("valid").into_iter().map(|(name, bytes)| (name, with_host(&bytes))).collect();
    assert_eq!(cases.len(), 62);
    let answers = judged.all(cases).await;
    judged.nothing_is_dirty();
    let refused = [
        // No URI (RFC 3986); folded; a space before the colon; cut short.
        "014",
        "compat_obs_fold",
        "compat_obs_fold_huge",
        "028",
        "099",
        // The second request has no Host.
        "018",
        "022",
        "023",
        // Codings that are not carried.
        "025",
        "025_line",
        "029",
        "030",
        "rfc9112_smuggle_gzip_chunked_01",
        "rfc9112_smuggle_te_identity_chunked_01",
        // The PROXY protocol.
        "pp_01",
        "pp_02",
        "pp_04",
        "pp_05",
        // Said to a proxy, on a listener that is none; HTTPS without TLS; user information.
        "rfc9112_target_authority_connect_01",
        "rfc9112_target_authority_ipv6_01",
        "rfc9112_target_absolute_https_01",
        "rfc9112_target_absolute_userinfo_01",
    ];
    let fine = |answers: &[u16]| !answers.is_empty() && answers.iter().all(|answer| *answer == 200);
    assert_eq!(named(&answers, |answers| !fine(answers)), BTreeSet::from(refused));
}

type Cases = Vec<(&'static str, String)>;

/// A request of this line.
fn line(line: &str) -> String {
    format!("{line}\r\nhost: price\r\n\r\n")
}

/// One with these fields.
fn field(field: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: price\r\n{field}\r\n\r\n")
}

/// One whose chunks are these.
fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n{body}")
}

/// One with an empty body in chunks that says so in this way.
fn coded(coding: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: price\r\ntransfer-encoding:{coding}\r\n\r\n0\r\n\r\n")
}

/// Heads that are none.
fn heads() -> Cases {
    vec![
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned()),
        ("a version of words", line("GET / HTTP/x.y")),
        ("a version of the future", line("GET / HTTP/2.0")),
        ("a lower-case version", line("GET / http/1.1")),
        ("no target", line("GET  HTTP/1.1")),
        ("two targets", line("GET / /a HTTP/1.1")),
        ("a tab in the line", line("GET\t/ HTTP/1.1")),
        ("a tab in the target", line("GET /a\tb HTTP/1.1")),
        ("a NUL in the target", line("GET /a\0b HTTP/1.1")),
        ("a CR in the target", line("GET /a\rb HTTP/1.1")),
        ("a bare path", line("GET a HTTP/1.1")),
        ("a space before the line", line(" GET / HTTP/1.1")),
        ("a method that is none", line("GE{T / HTTP/1.1")),
        ("lines that end with CR", "GET / HTTP/1.1\rhost: price\r\r".to_owned()),
        ("a space before the colon", field("x-a : b")),
        ("a tab before the colon", field("x-a\t: b")),
        ("no name", field(": b")),
        ("no colon", field("x-a")),
        ("a folded field", field("x-a: b\r\n c")),
        ("a folded field with a tab", field("x-a: b\r\n\tc")),
        ("a NUL in a value", field("x-a: b\0c")),
        ("a CR in a value", field("x-a: b\rc")),
        ("a control in a value", field("x-a: b\x01c")),
        ("DEL in a value", field("x-a: b\x7fc")),
        ("a space in a name", field("x a: b")),
        ("a first line that is folded", "GET / HTTP/1.1\r\n host: price\r\n\r\n".to_owned()),
        ("no Host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("two Hosts", field("host: other")),
        ("a Host with a path", "GET / HTTP/1.1\r\nhost: price/evil\r\n\r\n".to_owned()),
        ("a Host with a list", "GET / HTTP/1.1\r\nhost: price, evil\r\n\r\n".to_owned()),
    ]
}

/// Bodies that could end at two places, or nowhere.
fn bodies() -> Cases {
    vec![
        ("a length beside chunks", field("content-length: 5\r\ntransfer-encoding: chunked")),
        ("chunks beside a length", field("transfer-encoding: chunked\r\ncontent-length: 5")),
        ("two lengths", field("content-length: 5\r\ncontent-length: 6")),
        ("a length twice", field("content-length: 0\r\ncontent-length: 0")),
        ("a list of lengths", field("content-length: 0, 0")),
        ("a length with a sign", field("content-length: +0")),
        ("a length in hexadecimal", field("content-length: 0x0")),
        ("an empty length", field("content-length:")),
        ("a length with a space", field("content-length: 1 1")),
        ("another coding", coded(" xchunked")),
        ("a coding with a parameter", coded(" chunked;q=1")),
        ("a coding with a vertical tab", coded(" \x0bchunked")),
        ("a coding in quotes", coded(" \"chunked\"")),
        ("a coding twice", coded(" chunked, chunked")),
        ("identity", coded(" identity")),
        ("chunks of HTTP/1.0", coded(" chunked").replace("HTTP/1.1", "HTTP/1.0")),
        ("a size with a prefix", chunked("0x5\r\nhello\r\n0\r\n\r\n")),
        ("a size with a sign", chunked("+5\r\nhello\r\n0\r\n\r\n")),
        ("a negative size", chunked("-5\r\nhello\r\n0\r\n\r\n")),
        ("a size with an underscore", chunked("0_5\r\nhello\r\n0\r\n\r\n")),
        ("a size that overflows", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("a size that ends with LF", chunked("5\nhello\r\n0\r\n\r\n")),
        ("an extension with LF", chunked("5;a\nb\r\nhello\r\n0\r\n\r\n")),
        ("an extension with CR", chunked("5;a\rb\r\nhello\r\n0\r\n\r\n")),
        ("data that ends with LF", chunked("5\r\nhello\n0\r\n\r\n")),
        ("more data than its size", chunked("5\r\nhelloworld\r\n0\r\n\r\n")),
        ("a trailer without a colon", chunked("0\r\nabc\r\n\r\n")),
        ("a trailer with a space", chunked("0\r\na b: c\r\n\r\n")),
    ]
}

/// What others tolerate, too, and what is made clean.
fn tolerated() -> Cases {
    vec![
        ("a fragment", line("GET /a#b HTTP/1.1")),
        ("another host in the target", line("GET http://price/ HTTP/1.1")),
        ("empty lines first", line("\r\n\r\nGET / HTTP/1.1")),
        ("lines that end with LF", "GET / HTTP/1.1\nhost: price\n\n".to_owned()),
        ("a name with a symbol", field("x!#$%&'*+.^_`|~: b")),
        ("a value beyond ASCII", field("x-a: \u{e9}")),
        ("a tab in a value", field("x-a: b\tc")),
        ("an extension", chunked("5;a=\"b;c\"\r\nhello\r\n0;d\r\n\r\n")),
        ("a size with zeros", chunked("00005\r\nhello\r\n000\r\n\r\n")),
        ("upper-case digits", chunked("A\r\nhellohello\r\n0\r\n\r\n")),
        ("a coding in capitals", coded(" CHUNKED")),
        ("a coding after a tab", coded("\tchunked")),
        ("h2c", field("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk")),
        ("fields of the connection", field("connection: x-a, host, content-length\r\nx-a: b")),
        ("a trailer that frames", chunked("0\r\ncontent-length: 5\r\n\r\n")),
    ]
}

#[tokio::test]
async fn what_the_rfcs_do_not_allow_is_refused_or_arrives_clean() {
    let judged = Judged::start().await;
    let bytes =
        |cases: Cases| cases.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect();
    for refused in [heads(), bodies()] {
        let answers = judged.all(bytes(refused)).await;
        let wrong: Vec<_> =
            answers.iter().filter(|(_, answers)| !matches!(answers[..], [400 | 501])).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    let answers = judged.all(bytes(tolerated())).await;
    let wrong: Vec<_> = answers.iter().filter(|(_, answers)| answers[..] != [200]).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    judged.nothing_is_dirty();
}

#[tokio::test]
async fn a_head_that_is_cut_short_is_none() {
    let judged = Judged::start().await;
    let whole = "POST /a HTTP/1.1\r\nhost: price\r\ncontent-length: 3\r\n\r\nabc";
    let cases: Vec<_> =
        (1..whole.len()).map(|end| (format!("{end:02}"), whole.as_bytes()[..end].to_vec())).collect();
    let answers = judged.all(cases).await;
    // Too late with the head, or with the body.
    let wrong: Vec<_> = answers.iter().filter(|(_, answers)| answers[..] != [408]).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    judged.nothing_is_dirty();
}

#[tokio::test]
async fn a_request_arrives_whole_however_it_is_cut() {
    let judged = Judged::start().await;
    let requests = "POST /a HTTP/1.1\r\nhost: price\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nPUT /b HTTP/1.1\r\nhost: price\r\ncontent-length: 3\r\n\r\nabcGET /c HTTP/1.1\r\nhost: price\r\nconnection: close\r\n\r\n";
    let mut client = Raw::connect(judged.pair.front.path.services()[0]).await;
    for byte in requests.as_bytes() {
        client.send([*byte]).await;
    }
    let (all, end) = client.rest().await;
    assert_eq!(String::from_utf8(all).unwrap().matches("HTTP/1.1 200 OK\r\n").count(), 3);
    assert_eq!(end, End::Clean);
    judged.nothing_is_dirty();
}

#[tokio::test]
async fn nothing_behind_an_upgrade_reaches_the_application_before_it_agrees() {
    // CVE-2026-2833.
    let ask = "GET /chat HTTP/1.1\r\nhost: price\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let behind = "GET /behind HTTP/1.1\r\nhost: price\r\n\r\n";
    let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
    let pair = Pair::with(&options).await;
    let mut client = pair.client().await;
    client.send(format!("{ask}{behind}")).await;
    let mut app = pair.app.accept().await;
    let head = app.head().await;
    assert_eq!((header(&head, "connection"), header(&head, "upgrade")), (Some("upgrade"), Some("websocket")));
    assert!(!pair.app.is_called().await);
    assert_eq!(app.arrived(), b"");
    // Refused: what is behind is a request of its own.
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    client.exactly(2).await;
    assert!(pair.next_head(&mut app).await.starts_with("GET /behind HTTP/1.1\r\n"));
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    client.exactly(2).await;
    // Agreed: it is the first of what follows.
    client.send(format!("{ask}{behind}")).await;
    pair.next_head(&mut app).await;
    assert!(!pair.app.is_called().await);
    assert_eq!(app.arrived(), b"");
    app.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi!")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(client.exactly(3).await, b"hi!");
    assert_eq!(app.exactly(behind.len()).await, behind.as_bytes());
}

#[tokio::test]
async fn a_body_that_is_shorter_than_it_says_never_looks_whole_and_one_that_is_longer_is_the_next_request() {
    let pair = Pair::with(&Options { protocol: InboundProtocol::Http1, ..Options::default() }).await;
    for length in [5, 100_000] {
        let (client, mut app) = pair
            .asked(format!("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: {length}\r\n\r\nabc"))
            .await;
        drop(client);
        assert!(app.rest().await.0.len() < length);
    }
    let (mut client, mut app) = pair.asked("POST / HTTP/1.1\r\nhost: price\r\ncontent-length: 2\r\n\r\nabc / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    assert_eq!(app.exactly(2).await, b"ab");
    app.send(OK).await;
    client.head().await;
    assert!(pair.next_head(&mut app).await.starts_with("c / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn an_answer_is_never_given_to_another_request() {
    // An application that answers more than it was asked: nobody gets what nobody asked for.
    let pair = Pair::with(&Options { protocol: InboundProtocol::Http1, ..Options::default() }).await;
    for surplus in [
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret",
        "surplus of a body",
        "\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret",
    ] {
        let (mut client, mut app) = pair.asked("GET /1 HTTP/1.1\r\nhost: price\r\n\r\n").await;
        app.send(format!("{OK}{surplus}")).await;
        client.head().await;
        assert_eq!(client.exactly(2).await, b"ok");
        client.send("GET /2 HTTP/1.1\r\nhost: price\r\n\r\n").await;
        let mut next = soon("the next request", pair.app.accept()).await;
        assert!(next.head().await.starts_with("GET /2 "), "{surplus:?}");
        next.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await;
        client.head().await;
        assert_eq!(client.exactly(2).await, b"no", "{surplus:?}");
        app.rest().await;
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_or_little_is_let_go_in_time() {
    let limits = Limits {
        head_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(2),
        ..Limits::default()
    };
    let pair = Pair::with(&Options { limits, ..Options::default() }).await;
    for (said, answer) in [
        ("", ""),
        // Could still be the preface of HTTP/2.
        ("P", "HTTP/1.1 408 "),
        ("PRI * HTTP/2.0\r\n\r\nSM", "HTTP/1.1 400 "),
        ("POST / HT", "HTTP/1.1 408 "),
    ] {
        let begin = std::time::Instant::now();
        let mut client = pair.client().await;
        client.send(said).await;
        let (all, end) = client.rest().await;
        let all = String::from_utf8(all).unwrap();
        assert!(all.starts_with(answer) && all.is_empty() == answer.is_empty(), "{said:?}: {all}");
        assert_eq!(end, End::Clean);
        // Not one timeout after the other.
        assert!(begin.elapsed() < Duration::from_millis(2900), "{said:?}: {:?}", begin.elapsed());
        if !answer.is_empty() {
            let address = client.address().to_string();
            log::line(&[("downstream.addr", &address), ("direction", "outbound")]).await;
        }
    }
}
