//! A protocol in which the server has the first word, as in SMTP: nothing of the client's tells what it is.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::service;
use crate::support::{Mesh, Proxy};

const TIMEOUTS: &str = "outrigger_detection_timeouts_total{direction=\"outbound\"}";

/// A server that greets, and answers a line with that line backwards, until its client says no more.
async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                stream.write_all(b"220 ready\r\n").await?;
                let mut line = String::new();
                while stream.read_line(&mut line).await? > 0 {
                    let answer: String = line.trim_end().chars().rev().collect();
                    stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
                    line.clear();
                }
                stream.write_all(b"221 bye\r\n").await
            });
        }
    });
    address
}

/// Talks to the server through the mesh; returns how long its first word took.
async fn talk(front: &Proxy) -> Duration {
    let began = Instant::now();
    let mut client = BufReader::new(TcpStream::connect(front.services[0]).await.unwrap());
    let mut line = String::new();
    client.read_line(&mut line).await.unwrap();
    let took = began.elapsed();
    assert_eq!(line, "220 ready\r\n");
    client.write_all(b"HELO front\r\n").await.unwrap();
    line.clear();
    client.read_line(&mut line).await.unwrap();
    assert_eq!(line, "tnorf OLEH\r\n");
    // It says no more, and hears the rest.
    client.shutdown().await.unwrap();
    line.clear();
    client.read_to_string(&mut line).await.unwrap();
    assert_eq!(line, "221 bye\r\n");
    took
}

#[tokio::test]
async fn who_waits_for_the_servers_first_word_gets_it_at_once_where_that_is_declared() {
    let mesh = Mesh::start().await;
    let inbound = format!("127.0.0.1:0={},name=smtp,protocol=tcp", greeter().await);
    let _mail = mesh.join_with("mail-1", "mail", &["--inbound", &inbound]).await;
    let front = mesh.join_with("front-1", "front", &["--outbound-service", "127.0.0.1:0=mail.demo"]).await;

    mesh.apply(&service("mail", "port: 25, name: smtp")).await.ok();
    let took = talk(&front).await;
    assert!(took >= Duration::from_secs(1), "not before the detection timeout: {took:?}");
    assert_eq!(front.metric(TIMEOUTS).await, 1.0);

    mesh.apply(&service("mail", "port: 25, name: smtp, protocol: TCP")).await.ok();
    talk(&front).await;
    assert_eq!(front.metric(TIMEOUTS).await, 1.0, "nothing was waited for");
}
