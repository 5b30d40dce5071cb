//! Applications that have no room for more connections than they work on: `listen(1)`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use outrigger_proxy::settings::InboundProtocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::support::{
    GET, Options, Pair, Side, endpoint, header, log,
    streams::{Answer, Client, get, post},
};

/// So long the application works on a request: a hundred a second.
const TAKES: Duration = Duration::from_millis(10);

fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    // Room for one more than it says.
    socket.listen(1).unwrap()
}

/// The sidecar of an application that listens there, where `pair.front` finds it.
async fn sidecar(app: &TcpListener) -> (Pair, Side) {
    let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
    let pair = Pair::with(&options).await;
    let side = Side::start(pair.price.identity.clone(), &[app.local_addr().unwrap()], &options);
    let found = endpoint(side.path.inbound()[0], &pair.authority, "price");
    pair.publish(2, pair.service(Vec::new()), &[found]);
    (pair, side)
}

#[tokio::test]
async fn a_client_whose_application_has_no_room_for_a_connection_is_told_when_to_come_back() {
    let app = listen();
    let address = app.local_addr().unwrap();
    let (pair, _side) = sidecar(&app).await;
    let _full = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];

    let (mut client, mut streams) = (pair.client().await, pair.streams().await);
    client.send(GET).await;
    let mut call = post("/demo.Price/Get");
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let called = streams.send(call, true).await.answer().await.unwrap();
    let head = client.head().await;

    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let seconds: u32 = header(&head, "retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds) && !head.contains("outrigger-"), "{head}");
    assert_eq!(called.header("grpc-status"), Some("14"));
    let millis: u32 = called.header("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((1000..=2020).contains(&millis), "{millis}");
    // It would wait for another second there.
    assert_eq!(pair.front.metric("outrigger_retries_total"), 0.0);
    let from = client.address().to_string();
    let seen = [("downstream.addr", &*from), ("direction", "outbound"), ("reason", "connect_timeout")];
    log::line(&seen).await;
}

/// One request at a time, on a connection of its own.
async fn work(app: TcpListener) {
    while let Ok((mut stream, _)) = app.accept().await {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
        sleep(TAKES).await;
        let _gone =
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
    }
}

#[tokio::test]
async fn where_most_instances_hang_everything_is_answered_by_the_one_that_does_not() {
    let (hung, working) = ([listen(), listen()], TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (pair, side) = sidecar(&working).await;
    tokio::spawn(work(working));
    let (mut full, mut sides) = (Vec::new(), vec![side]);
    for app in &hung {
        let address = app.local_addr().unwrap();
        full.extend([TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()]);
        let options = Options { protocol: InboundProtocol::Http1, ..Options::default() };
        sides.push(Side::start(pair.price.identity.clone(), &[address], &options));
    }
    let found = sides.iter().map(|side| endpoint(side.path.inbound()[0], &pair.authority, "price"));
    pair.publish(3, pair.service(Vec::new()), &found.collect::<Vec<_>>());

    let mut client = pair.streams().await;
    for _ in 0..4 {
        let mut asked = JoinSet::new();
        for _ in 0..12 {
            let sent = client.send(get("/"), true).await;
            asked.spawn(async move { sent.answer().await.unwrap().status() });
        }
        let answers = asked.join_all().await;
        assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    }
}

async fn ask(client: &mut Client) -> Answer {
    client.send(get("/"), true).await.answer().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_for_it_is_refused_at_once_and_everything_is_answered_when_it_is_over() {
    let app = listen();
    let (pair, _side) = sidecar(&app).await;
    tokio::spawn(work(app));
    let mut clients = [pair.streams().await, pair.streams().await, pair.streams().await];
    for _ in 0..60 {
        assert_eq!(ask(&mut clients[0]).await.status(), 200);
    }

    // Three times what it can do, until it has been refused for a while.
    let begin = Instant::now();
    let refusing = Arc::new(AtomicBool::new(false));
    let mut asked = JoinSet::new();
    let mut number = 0;
    let mut rest = 200_u32;
    while rest > 0 && number < 9000 {
        sleep_until(begin + TAKES * number / 3).await;
        let client = &mut clients[usize::try_from(number).unwrap() % 3];
        let (sent, refuses) = (client.send(get("/"), true).await, Arc::clone(&refusing));
        asked.spawn(async move {
            let begin = Instant::now();
            let answer = sent.answer().await.unwrap();
            if answer.text().starts_with("outrigger: overloaded:") {
                refuses.store(true, Ordering::Relaxed);
            }
            (answer, begin.elapsed())
        });
        number += 1;
        rest -= u32::from(refusing.load(Ordering::Relaxed));
    }
    let took = begin.elapsed();

    let (mut answered, mut refused) = (0, Vec::new());
    for (answer, waited) in asked.join_all().await {
        if answer.status() == 200 {
            answered += 1;
            continue;
        }
        assert_eq!(answer.status(), 503);
        assert!(answer.header("retry-after").is_some(), "{}", answer.text());
        match answer.text().split(": ").nth(1) {
            Some("overloaded") => refused.push(waited),
            reason => assert_eq!(reason, Some("connect_timeout")),
        }
    }
    refused.sort();
    assert!(refused.len() > 50, "{} of {number} within {took:?}", refused.len());
    assert!(refused[refused.len() / 2] < Duration::from_millis(300), "{refused:?}");
    assert!(answered > number / 8, "{answered} of {number} within {took:?}");
    for _ in 0..60 {
        assert_eq!(ask(&mut clients[0]).await.status(), 200);
    }
}
