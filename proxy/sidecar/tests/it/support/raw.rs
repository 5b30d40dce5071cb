//! Peers that send and read exactly what a test says. Every wait ends after a while, with a panic.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::log;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// How the other side ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Reset,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        log::forget(stream.local_addr().unwrap());
        Self::new(stream)
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("a write", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// The same, where the other side may be gone.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("a write", self.stream.write_all(bytes.as_ref())).await
    }

    /// Sends `bytes` again and again, `most` at most, until the other side is gone or takes nothing for `patience`;
    /// returns how much it took.
    pub(crate) async fn send_at_most(&mut self, bytes: &[u8], most: usize, patience: Duration) -> usize {
        let (mut sent, mut at) = (0, 0);
        while sent < most {
            match timeout(patience, self.stream.write(&bytes[at..])).await {
                Ok(Ok(written)) => {
                    sent += written;
                    at = (at + written) % bytes.len();
                }
                _ => break,
            }
        }
        sent
    }

    /// What has arrived already.
    pub(crate) fn arrived(&mut self) -> &[u8] {
        while matches!(self.stream.try_read_buf(&mut self.unread), Ok(1..)) {}
        &self.unread
    }

    /// Sends until the other side takes no more; returns how much it took.
    pub(crate) async fn send_until_stuck(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Ok(written) = timeout(Duration::from_millis(500), self.stream.write(&bytes[sent..])).await {
            sent += written.unwrap();
            if sent == bytes.len() {
                break;
            }
        }
        sent
    }

    /// Says no more.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next close is a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.unread.reserve(16 * 1024);
        soon("bytes", self.stream.read_buf(&mut self.unread)).await
    }

    /// Whether the other side closes instead of sending more.
    pub(crate) async fn is_over(&mut self) -> bool {
        self.unread.is_empty() && !matches!(self.fill().await, Ok(1..))
    }

    /// The next head, with its empty line.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// The next line without its CRLF, which a LF alone does not end; `None` if the connection ends before, or says
    /// nothing for long.
    pub(crate) async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|window| window == b"\r\n") {
                let rest = self.unread.split_off(at + 2);
                let mut line = std::mem::replace(&mut self.unread, rest);
                line.truncate(at);
                return Some(line);
            }
            self.unread.reserve(16 * 1024);
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
            if !matches!(read, Ok(Ok(1..))) {
                return None;
            }
        }
    }

    /// The next head; `None` if the connection ends before.
    pub(crate) async fn try_head(&mut self) -> Option<String> {
        loop {
            if self.unread.windows(4).any(|window| window == b"\r\n\r\n") {
                return Some(self.head().await);
            }
            if !matches!(self.fill().await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Everything up to and including `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.unread.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
            }
            let read = self.fill().await.unwrap();
            assert!(read > 0, "closed before {end:?}: {:?}", String::from_utf8_lossy(&self.unread));
        }
    }

    /// The next `length` bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            let read = self.fill().await.unwrap();
            assert!(read > 0, "closed after {} of {length} bytes", self.unread.len());
        }
        let rest = self.unread.split_off(length);
        std::mem::replace(&mut self.unread, rest)
    }

    /// The next `length` bytes; `None` if the connection ends before.
    pub(crate) async fn try_exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            if !matches!(self.fill().await, Ok(1..)) {
                return None;
            }
        }
        let rest = self.unread.split_off(length);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    /// What still comes, and how it ends.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.fill().await {
                Ok(0) => return (std::mem::take(&mut self.unread), End::Clean),
                Ok(_) => {}
                Err(_) => return (std::mem::take(&mut self.unread), End::Reset),
            }
        }
    }
}

/// An application.
pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        log::forget(listener.local_addr().unwrap());
        Self(listener)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn into_listener(self) -> TcpListener {
        self.0
    }

    pub(crate) async fn accept(&self) -> Raw {
        Raw::new(self.accept_stream().await)
    }

    pub(crate) async fn accept_stream(&self) -> TcpStream {
        soon("a connection to the application", self.0.accept()).await.unwrap().0
    }

    /// The next connection, however long it takes.
    pub(crate) async fn accepted(&self) -> Raw {
        Raw::new(self.0.accept().await.unwrap().0)
    }

    /// Whether a connection waits to be accepted now.
    pub(crate) async fn is_called(&self) -> bool {
        timeout(Duration::from_millis(200), self.0.accept()).await.is_ok()
    }
}
