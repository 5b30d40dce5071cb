//! A machine that is gone without a word: no FIN, no RST, no answer.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::service;
use crate::support::{
    Application, Mesh, Proxy,
    application::{Asked, Body, body},
    network::Machines,
    process::eventually,
};

const PEER_TIMEOUT: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_millis(500);
/// For what a busy machine takes beyond a bound.
const SLACK: Duration = Duration::from_secs(3);

const POLICIES: &str = "
---
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: both, namespace: demo}
spec:
  ports: [{port: 80, name: http, protocol: HTTP}]
  serviceAccounts: [far, near]
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: far, namespace: demo}
spec:
  targetRefs: [{name: far}]
  timeouts: {idle: 2s}
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: both, namespace: demo}
spec:
  targetRefs: [{name: both}]
  timeouts: {connect: 500ms}
  retry: {}
";

/// Answers `/stream` with a body that begins and does not go on, everything else with its name.
fn answer(name: &'static str) -> impl Fn(&Asked) -> Response<Body> {
    move |asked| {
        if asked.uri().path() != "/stream" {
            return Response::new(body(name));
        }
        let begin = stream::iter([Ok(Frame::data("begin".into()))]);
        Response::new(BodyExt::boxed(StreamBody::new(Box::pin(begin.chain(stream::pending())))))
    }
}

/// A request on a connection of its own, of which the rest follows.
async fn begin(front: &Proxy, head: &str) -> TcpStream {
    let mut client = TcpStream::connect(front.outbound).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    client
}

/// What a client reads up to `end`, or the end of its connection, in whatever way.
async fn read_to(client: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(end) {
        match timeout(Duration::from_secs(10), client.read_buf(&mut read)).await.expect("no end") {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    String::from_utf8(read).unwrap()
}

/// Why a request ended, as its access log says.
async fn reason(front: &Proxy, id: &str) -> String {
    let line = eventually("line of the access log", async || {
        let named = |line: &Value| line["request_id"] == id;
        front.log().lines().filter_map(|line| serde_json::from_str(line).ok()).find(named)
    });
    line.await["reason"].as_str().unwrap().to_owned()
}

/// A long upload, of which a piece follows the other, until its answer; `under_way` is told when it is.
async fn upload(front: &Proxy, under_way: oneshot::Sender<()>) -> String {
    let mut client = begin(
        front,
        "POST http://far/ HTTP/1.1\r\nhost: far\r\nx-request-id: upload\r\ncontent-length: 60000\r\n\r\n",
    )
    .await;
    let (mut reader, mut writer) = client.split();
    let writing = async {
        let mut under_way = Some(under_way);
        for piece in 0..100 {
            let _answered = writer.write_all(&[b'x'; 100]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if piece == 3 {
                under_way.take().unwrap().send(()).unwrap();
            }
        }
    };
    let mut head = [0; 12];
    tokio::select! {
        read = reader.read_exact(&mut head) => read.unwrap(),
        () = writing => panic!("never answered"),
    };
    String::from_utf8_lossy(&head).into_owned()
}

async fn scenario(machines: &Machines) {
    let mesh = Mesh::reachable_at(Machines::HERE).await;
    let listener = machines.listener_there();
    listener.set_nonblocking(true).unwrap();
    let far_app = Application::at(TcpListener::from_std(listener).unwrap(), answer("far"));
    let inbound = format!("{}:0={},name=http", Machines::THERE, far_app.address);
    let token = mesh.token("far-1", "far", &[]).await;
    let program = machines.program_there("outrigger-proxy");
    let named = ("far-1", Some(&*token));
    let _far = Proxy::start_as(&mesh, named, program, Machines::THERE, &["--inbound", &inbound]).await;
    let near_app = Application::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer("near"));
    let _near = mesh.join("near-1", "near", &[], Some(near_app.address)).await;
    let settings = mesh.path("front.toml");
    fs::write(&settings, "[limits]\npeer_timeout = \"1s\"\n").unwrap();
    let front = mesh.join_with("front-1", "front", &["--settings", &settings.to_string_lossy()]).await;
    let http = "port: 80, name: http, protocol: HTTP";
    mesh.apply(&(service("far", http) + "---" + &service("near", http) + POLICIES)).await.ok();

    // Connections to both, which are idle then.
    for name in ["far", "near"] {
        eventually("answer of each", async || {
            let answer = front.client().get("http://both/").await.unwrap();
            (answer.text() == name).then_some(())
        })
        .await;
    }
    let mut streaming =
        begin(&front, "GET http://far/stream HTTP/1.1\r\nhost: far\r\nx-request-id: stream\r\n\r\n").await;
    read_to(&mut streaming, "begin").await;
    let (under_way, is_under_way) = oneshot::channel();
    let uploading = upload(&front, under_way);
    let gone = async {
        is_under_way.await.unwrap();
        machines.vanish();
        Instant::now()
    };
    let others = async |since: Instant| {
        let mut slowest = Duration::ZERO;
        while since.elapsed() < PEER_TIMEOUT * 2 {
            let begin = Instant::now();
            assert_eq!(front.client().get("http://near/").await.unwrap().text(), "near");
            slowest = slowest.max(begin.elapsed());
            // Whoever meets the connection that was idle is held for as long as a peer may be silent.
            let begin = Instant::now();
            assert_eq!(front.client().get("http://both/").await.unwrap().text(), "near");
            assert!(begin.elapsed() < PEER_TIMEOUT + CONNECT + SLACK, "{:?}", begin.elapsed());
        }
        slowest
    };
    let after = async {
        let gone = gone.await;
        let streamed = async {
            assert!(!read_to(&mut streaming, "0\r\n\r\n").await.contains("0\r\n\r\n"), "it looks whole");
            gone.elapsed()
        };
        let (streamed, slowest) = tokio::join!(streamed, others(gone));
        assert!(streamed < IDLE + SLACK, "{streamed:?}");
        assert!(slowest < PEER_TIMEOUT, "others were held for {slowest:?}");
        gone
    };
    let uploaded = async { (uploading.await, Instant::now()) };
    let ((head, at), gone) = tokio::join!(uploaded, after);
    assert_eq!(head, "HTTP/1.1 502");
    assert!(at - gone < PEER_TIMEOUT + SLACK, "{:?}", at - gone);
    assert_eq!(reason(&front, "upload").await, "upstream_reset");
    assert!(matches!(&*reason(&front, "stream").await, "stream_timeout" | "response_truncated"));
    // New connections are not made any more either, and that is known sooner.
    let begin = Instant::now();
    assert_eq!(front.client().get("http://far/").await.unwrap().status, 503);
    assert!(begin.elapsed() < Duration::from_secs(1) * 3 + SLACK, "{:?}", begin.elapsed());
}

#[test]
fn a_machine_that_vanishes_holds_what_it_had_for_a_bounded_time_and_nobody_else() {
    let machines = Machines::new();
    machines.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(scenario(&machines));
    });
}

/// As much longer than the caller's policy says the callee's sidecar lets a body stand still.
const CALLEES_SLACK: Duration = Duration::from_secs(1);

/// Longer than an acknowledgement may be put off (200 ms).
const QUIET: Duration = Duration::from_millis(500);

const UPLOADS: &str = "
---
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: bounded, namespace: demo}
spec:
  ports: [{port: 80, name: http, protocol: HTTP}]
  serviceAccounts: [price]
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: bounded, namespace: demo}
spec:
  targetRefs: [{name: bounded}]
  timeouts: {idle: 2s}
";

/// Something that an application learnt of an upload.
#[derive(Debug)]
struct Learnt {
    path: String,
    what: What,
    at: Instant,
}

#[derive(Debug, PartialEq)]
enum What {
    Piece,
    End,
    Broken,
}

/// An application that takes uploads as they come, and tells what it learns of them; it answers when they have ended.
fn application(listener: TcpListener) -> mpsc::UnboundedReceiver<Learnt> {
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let tell = tell.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let learnt = |what| Learnt { path: path.clone(), what, at: Instant::now() };
                    let end = loop {
                        match request.frame().await {
                            Some(Ok(_)) => tell.send(learnt(What::Piece)).unwrap(),
                            Some(Err(_)) => break What::Broken,
                            None => break What::End,
                        }
                    };
                    tell.send(learnt(end)).unwrap();
                    Ok::<_, Infallible>(Response::new(body("taken")))
                }
            });
            // A connection that the peer breaks is what is tested.
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    told
}

/// A connection of a client at the other machine to its sidecar, on which this was sent.
async fn send_there(machines: &Machines, front: &Proxy, bytes: &str) -> TcpStream {
    let client = machines.connection_there(front.outbound);
    client.set_nonblocking(true).unwrap();
    let mut client = TcpStream::from_std(client).unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    client
}

async fn upload_scenario(machines: &Machines) {
    let mesh = Mesh::reachable_at(Machines::HERE).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let inbound = format!("{}:0={},name=http", Machines::HERE, listener.local_addr().unwrap());
    let mut told = application(listener);
    let settings = mesh.path("price.toml");
    fs::write(&settings, "[limits]\npeer_timeout = \"1s\"\n").unwrap();
    let flags = ["--inbound", &inbound, "--settings", &settings.to_string_lossy()];
    let price = mesh.join_with("price-1", "price", &flags).await;
    let token = mesh.token("far-1", "far", &[]).await;
    let (named, program) = (("far-1", Some(&*token)), machines.program_there("outrigger-proxy"));
    let far = Proxy::start_as(&mesh, named, program, Machines::THERE, &[] as &[&str]).await;
    mesh.apply(&(service("price", "port: 80, name: http, protocol: HTTP") + UPLOADS)).await.ok();

    // One that shares a connection, whose end is the connection's, and one that has a connection of its own, whose end is
    // the caller's policy.
    let mut clients = Vec::new();
    for head in [
        "POST http://price/shared HTTP/1.1\r\nhost: price\r\nx-request-id: shared\r\ncontent-length: 60000\r\n\r\nhello",
        "POST http://bounded/own HTTP/1.1\r\nhost: bounded\r\nx-request-id: own\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        clients.push(send_there(machines, &far, head).await);
        let learnt = timeout(Duration::from_secs(10), told.recv()).await.expect("no upload").unwrap();
        assert_eq!(learnt.what, What::Piece);
    }
    // The hard case: the caller has acknowledged everything, so that nothing is sent again and missed.
    tokio::time::sleep(QUIET).await;
    machines.vanish();
    let gone = Instant::now();
    let mut took = BTreeMap::new();
    while took.len() < clients.len() {
        let learnt = timeout(Duration::from_secs(10), told.recv()).await;
        let learnt = learnt.unwrap_or_else(|_| panic!("only of {took:?} it was told")).unwrap();
        assert_eq!(learnt.what, What::Broken, "{learnt:?}");
        took.insert(learnt.path, learnt.at - gone);
    }
    assert!(took["/shared"] < PEER_TIMEOUT + SLACK, "{took:?}");
    assert!(took["/own"] < IDLE + CALLEES_SLACK + SLACK, "{took:?}");
    assert_eq!(reason(&price, "shared").await, "client_closed");
    assert_eq!(reason(&price, "own").await, "body_timeout");
    // Nobody else is worse off.
    let front = mesh.join("front-1", "front", &[], None).await;
    assert_eq!(front.client().get("http://price/").await.unwrap().text(), "taken");
}

#[test]
fn a_caller_that_vanishes_in_the_middle_of_an_upload_is_given_up_in_a_bounded_time_and_its_callee_told_why() {
    let machines = Machines::new();
    machines.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(upload_scenario(&machines));
    });
}
