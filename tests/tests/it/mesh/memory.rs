//! What a thousand clients that mean no good make a proxy hold: no more than its limits say (docs/reference/resilience.md,
//! "What a proxy holds").

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::PRICE;
use crate::support::{Application, Mesh, Proxy};

const CLIENTS: usize = 1000;
const ALL: u64 = CLIENTS as u64;
const KIB: u64 = 1024;

/// The default of `limits.max_head_bytes`.
const HEAD: u64 = 64 * KIB;
/// Of an HTTP/1 connection in each direction: a head, or a piece of a body.
const BUFFER: u64 = HEAD + 8 * KIB;
/// A body that waits: a buffer and a piece, as the allocator rounds them; from and to the own application.
const WAITING: u64 = 160 * KIB;
const WAITING_THERE: u64 = 320 * KIB;
/// Encrypted, read ahead or not yet written.
const ENCRYPTED: u64 = 64 * KIB;
/// What a connection and the request on it are beside their buffers.
const CONNECTION: u64 = 32 * KIB;
/// What an HTTP/2 stream may have on the way unread.
const WINDOW: u64 = 256 * KIB;

/// A mesh of `front`, which calls, and `price` before `app`.
async fn mesh(app: SocketAddr) -> (Mesh, Proxy, Proxy) {
    let mesh = Mesh::start().await;
    let price = mesh.join("price-1", "price", &[], Some(app)).await;
    let front = mesh.join("front-1", "front", &[], None).await;
    mesh.apply(PRICE).await.ok();
    (mesh, price, front)
}

/// A connection to the forward proxy that takes as little as the kernel allows.
async fn client(front: &Proxy, head: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(front.outbound).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Answers each connection with a body that never ends; returns where it listens, and counts what was taken.
async fn endless() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, taken) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&taken);
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            connections.spawn(async move {
                let mut head = [0; 4096];
                let _some = stream.read(&mut head).await;
                let _begun = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
                while let Ok(written) = stream.write(&[b'x'; 64 * 1024]).await {
                    counted.fetch_add(written as u64, Ordering::Relaxed);
                }
            });
        }
    });
    (address, taken)
}

/// Until more than `each` has moved of every client's bytes, as `moved` counts them, and nothing more does.
async fn held_up(moved: &AtomicU64, each: u64) {
    let stuck = async {
        loop {
            let before = moved.load(Ordering::Relaxed);
            sleep(Duration::from_secs(2)).await;
            if before > ALL * each && moved.load(Ordering::Relaxed) == before {
                break;
            }
        }
    };
    timeout(Duration::from_secs(60), stuck).await.expect("nobody was ever held up");
}

/// Since `before` each proxy has grown by less than so much for each client, and its two connections.
fn grew_less(proxies: [&Proxy; 2], before: [u64; 2], each: [u64; 2]) {
    for ((proxy, before), each) in proxies.into_iter().zip(before).zip(each) {
        let (grown, each) = (proxy.memory("VmHWM") - before, each + CONNECTION * 2);
        assert!(grown < ALL * each, "{} KiB each, {} allowed", grown / ALL / KIB, each / KIB);
    }
}

#[tokio::test]
async fn a_thousand_slow_readers_of_large_bodies_cost_their_windows() {
    let (app, taken) = endless().await;
    let (_mesh, price, front) = mesh(app).await;
    let before = [&front, &price].map(|proxy| proxy.memory("VmRSS"));
    let mut held = Vec::new();
    for _ in 0..CLIENTS {
        held.push(client(&front, "GET http://price/ HTTP/1.1\r\nhost: price\r\n\r\n").await);
    }
    held_up(&taken, WINDOW).await;
    // The one has the stream's window and the client's connection, the other what it could not send of it, in pieces that
    // were read into buffers of up to twice their length.
    let each = [WINDOW + WAITING, WINDOW * 2 + WAITING_THERE];
    grew_less([&front, &price], before, each);
}

#[tokio::test]
async fn a_thousand_large_uploads_that_nobody_reads_cost_their_buffers() {
    // Takes connections, and nothing that comes on them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let reading = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let (_mesh, price, front) = mesh(app).await;
    let before = [&front, &price].map(|proxy| proxy.memory("VmRSS"));
    let given = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let head = "POST http://price/ HTTP/1.1\r\nhost: price\r\ncontent-length: 1000000000\r\n\r\n";
        let (mut stream, given) = (client(&front, head).await, Arc::clone(&given));
        clients.spawn(async move {
            while let Ok(written) = stream.write(&[b'x'; 64 * 1024]).await {
                given.fetch_add(written as u64, Ordering::Relaxed);
            }
        });
    }
    held_up(&given, WAITING).await;
    // The one has the client's connection and its own to the other, the other that and the application's.
    let each = [WAITING * 2 + ENCRYPTED, WAITING + ENCRYPTED + WAITING_THERE];
    grew_less([&front, &price], before, each);
    reading.abort();
}

#[tokio::test]
async fn a_thousand_halves_of_heads_cost_their_buffers() {
    const HALF: usize = 32 * 1024;
    let app = Application::start("a price").await;
    let (_mesh, _price, front) = mesh(app.address).await;
    let before = front.memory("VmRSS");
    let half = format!("GET http://price/ HTTP/1.1\r\nhost: price\r\nx: {}", "x".repeat(HALF));
    let held = join_all((0..CLIENTS).map(|_| client(&front, &half))).await;
    // Whoever comes after all of them was read after them.
    assert_eq!(front.client().get("http://price/").await.unwrap().text(), "a price");
    let grown = front.memory("VmHWM") - before;
    let each = BUFFER + CONNECTION;
    assert!(grown < ALL * each, "{} KiB each, {} allowed", grown / ALL / KIB, each / KIB);
    drop(held);
}

#[tokio::test]
async fn a_flood_of_requests_beyond_what_may_wait_is_refused_and_costs_its_connections() {
    const STREAMS: usize = 256;
    const PENDING: usize = 16;
    // Takes requests and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mesh, _price, front) = mesh(listener.local_addr().unwrap()).await;
    mesh.apply(
        "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: price, namespace: demo}
spec:
  targetRefs: [{name: price}]
  timeouts: {connect: 30s}
  limits: {connections: 1, pending: 16}
",
    )
    .await
    .ok();
    let before = front.memory("VmRSS");
    let request = "GET http://price/ HTTP/1.1\r\nhost: price\r\nconnection: close\r\n\r\n";
    let mut clients = join_all((0..CLIENTS).map(|_| client(&front, request))).await;
    let answers: FuturesUnordered<_> = clients
        .iter_mut()
        .map(async |client| {
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        })
        .collect();
    // All but those that are under way: at once, or when the time to wait is over.
    let refused = answers.take(CLIENTS - STREAMS).collect::<Vec<String>>();
    let refused = timeout(Duration::from_secs(30), refused).await.expect("more are under way than may be");
    let waited = refused.iter().filter(|answer| answer.contains("connection_limit")).count();
    assert!(waited <= PENDING, "{waited} waited");
    let other = |answer: &&String| !answer.contains("connection_limit") && !answer.contains("pending_limit");
    assert_eq!(refused.iter().find(other), None);
    let grown = front.memory("VmHWM") - before;
    let each = BUFFER + CONNECTION;
    assert!(grown < ALL * each, "{} KiB each, {} allowed", grown / ALL / KIB, each / KIB);
}
