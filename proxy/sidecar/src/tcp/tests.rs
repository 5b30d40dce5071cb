//! Relays between real sockets.

use outrigger_tls::{
    mesh::{self, ALPN_TCP},
    testing::Authority,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;

mod piped;

const HOUR: Duration = Duration::from_secs(3600);

/// A wait that a test must not hang in.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), future).await.expect("waited in vain")
}

/// Both ends of a connection over loopback.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// The same with the mesh's TLS.
async fn secured() -> (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>) {
    let authority = Authority::new("outrigger.local");
    let identity = |account| authority.identity(authority.workload("demo", account));
    let (front, price) = (identity("front"), identity("price"));
    let client = mesh::client_config(&front, [price.id().unwrap()], &[ALPN_TCP]);
    let server = mesh::server_config(&price, &[ALPN_TCP]);
    let (near, far) = sockets().await;
    let connect = TlsConnector::from(client).connect(mesh::server_name(), near);
    let (near, far) = tokio::join!(connect, TlsAcceptor::from(server).accept(far));
    (near.unwrap(), far.unwrap())
}

fn start<D: Transport, U: Transport>(downstream: D, upstream: U) -> JoinHandle<Ended> {
    let (downstream, upstream) = (Side::new(downstream, Bytes::new()), Side::new(upstream, Bytes::new()));
    tokio::spawn(relay(downstream, upstream, HOUR, std::future::pending()))
}

/// A relay between a client and a server, all of it on sockets.
async fn plain() -> (TcpStream, TcpStream, JoinHandle<Ended>) {
    let (client, downstream) = sockets().await;
    let (upstream, server) = sockets().await;
    (client, server, start(downstream, upstream))
}

/// What comes, and the error that ends it if it is not a clean end.
async fn rest(io: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut read = Vec::new();
    let end = soon(io.read_to_end(&mut read)).await;
    (read, end.err().map(|error| error.kind()))
}

async fn is_reset(io: &mut (impl AsyncRead + Unpin)) {
    assert_eq!(rest(io).await, (Vec::new(), Some(io::ErrorKind::ConnectionReset)));
}

async fn expect(io: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    soon(io.read_exact(&mut read)).await.unwrap();
    assert_eq!(read, expected);
}

/// Half-closes one way, then the other; each is an end to the other side, and no more than that.
async fn closes_by_halves<C, S>(mut client: C, mut server: S, relay: JoinHandle<Ended>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, (b"question".to_vec(), None));
    for part in [&b"ans"[..], b"wer"] {
        server.write_all(part).await.unwrap();
        server.flush().await.unwrap();
        expect(&mut client, part).await;
    }
    server.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, (Vec::new(), None));
    let ended = soon(relay).await.unwrap();
    assert_eq!((ended.why, ended.sent, ended.received), (Why::Finished, 8, 6));
    assert!(ended.error.is_none());
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (client, server, relay) = plain().await;
    closes_by_halves(client, server, relay).await;
}

#[tokio::test]
async fn the_server_may_end_first() {
    let (mut client, mut server, relay) = plain().await;
    server.write_all(b"hello").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, (b"hello".to_vec(), None));
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, (b"late".to_vec(), None));
    let ended = soon(relay).await.unwrap();
    assert_eq!((ended.why, ended.sent, ended.received), (Why::Finished, 4, 5));
}

#[tokio::test]
async fn on_tls_an_end_is_close_notify_on_either_side() {
    let (client, downstream) = sockets().await;
    let (upstream, server) = secured().await;
    closes_by_halves(client, server, start(downstream, upstream)).await;
    let (client, downstream) = secured().await;
    let (upstream, server) = sockets().await;
    closes_by_halves(client, server, start(downstream, upstream)).await;
}

#[tokio::test]
async fn what_was_read_before_goes_first() {
    let (mut client, downstream) = sockets().await;
    let (upstream, mut server) = sockets().await;
    client.write_all(b"world").await.unwrap();
    server.write_all(b"friend").await.unwrap();
    let (downstream, upstream) =
        (Side::new(downstream, &b"hello "[..]), Side::new(upstream, &b"welcome "[..]));
    let relay = tokio::spawn(relay(downstream, upstream, HOUR, std::future::pending()));
    expect(&mut server, b"hello world").await;
    expect(&mut client, b"welcome friend").await;
    drop((client, server));
    let ended = soon(relay).await.unwrap();
    assert_eq!((ended.sent, ended.received), (11, 14));
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let (client, mut server, relay) = plain().await;
    client.set_zero_linger().unwrap();
    drop(client);
    is_reset(&mut server).await;
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.why, Why::DownstreamReset);
    assert_eq!(ended.error.unwrap().kind(), io::ErrorKind::ConnectionReset);

    let (mut client, server, relay) = plain().await;
    server.set_zero_linger().unwrap();
    drop(server);
    is_reset(&mut client).await;
    assert_eq!(soon(relay).await.unwrap().why, Why::UpstreamReset);
}

#[tokio::test]
async fn what_was_said_before_a_reset_is_delivered() {
    let (mut client, mut server, relay) = plain().await;
    client.write_all(b"a question that nobody reads").await.unwrap();
    assert!(server.peek(&mut [0]).await.unwrap() > 0);
    server.write_all(b"bye").await.unwrap();
    // With something unread, this is a reset (RFC 9293 §3.10.4, RFC 2525 §2.17).
    drop(server);
    assert_eq!(rest(&mut client).await, (b"bye".to_vec(), Some(io::ErrorKind::ConnectionReset)));
    let ended = soon(relay).await.unwrap();
    assert_eq!((ended.why, ended.received), (Why::UpstreamReset, 3));
}

#[tokio::test]
async fn tls_that_ends_without_close_notify_is_a_reset() {
    let (mut client, downstream) = sockets().await;
    let (upstream, mut server) = secured().await;
    let relay = start(downstream, upstream);
    server.write_all(b"half of what").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut client, b"half of what").await;
    // The socket ends cleanly, what is inside does not.
    drop(server);
    is_reset(&mut client).await;
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.why, Why::UpstreamReset);
    assert_eq!(ended.error.unwrap().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_reset_never_looks_like_an_end_on_tls() {
    for downstream_is_tls in [true, false] {
        let (why, end) = if downstream_is_tls {
            let (mut client, downstream) = secured().await;
            let (upstream, server) = sockets().await;
            let relay = start(downstream, upstream);
            server.set_zero_linger().unwrap();
            drop(server);
            (soon(relay).await.unwrap().why, rest(&mut client).await)
        } else {
            let (client, downstream) = sockets().await;
            let (upstream, mut server) = secured().await;
            let relay = start(downstream, upstream);
            client.set_zero_linger().unwrap();
            drop(client);
            (soon(relay).await.unwrap().why, rest(&mut server).await)
        };
        assert_eq!(why, if downstream_is_tls { Why::UpstreamReset } else { Why::DownstreamReset });
        assert_eq!(end, (Vec::new(), Some(io::ErrorKind::ConnectionReset)));
    }
}

#[tokio::test]
async fn one_that_is_told_to_end_resets_both() {
    let (mut client, downstream) = sockets().await;
    let (upstream, mut server) = sockets().await;
    let (downstream, upstream) = (Side::new(downstream, Bytes::new()), Side::new(upstream, Bytes::new()));
    let (cut, told) = tokio::sync::oneshot::channel::<()>();
    let relay = tokio::spawn(relay(downstream, upstream, HOUR, async move {
        told.await.unwrap();
    }));
    client.write_all(b"on").await.unwrap();
    expect(&mut server, b"on").await;
    cut.send(()).unwrap();
    let ended = soon(relay).await.unwrap();
    assert_eq!((ended.why, ended.sent, ended.error.is_none()), (Why::Cut, 2, true));
    is_reset(&mut client).await;
    is_reset(&mut server).await;
}

#[tokio::test]
async fn one_that_is_dropped_resets_both() {
    let (mut client, mut server, relay) = plain().await;
    client.write_all(b"on").await.unwrap();
    expect(&mut server, b"on").await;
    relay.abort();
    is_reset(&mut client).await;
    is_reset(&mut server).await;
}

#[test]
fn one_whose_worker_ends_resets_both() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (worker, other) = (runtime(), runtime());
    let (client, server) = worker.block_on(async {
        let (mut client, mut server, _relay) = plain().await;
        client.write_all(b"on").await.unwrap();
        expect(&mut server, b"on").await;
        (client.into_std().unwrap(), server.into_std().unwrap())
    });
    worker.shutdown_background();
    other.block_on(async {
        is_reset(&mut TcpStream::from_std(client).unwrap()).await;
        is_reset(&mut TcpStream::from_std(server).unwrap()).await;
    });
}

/// So that no comparison needs all bytes at once: the byte at `n` is `n % 251`.
struct Pattern(Vec<u8>);

impl Pattern {
    const BLOCK: usize = 64 * 1024;

    fn new() -> Self {
        Self((0..=250_u8).cycle().take(Self::BLOCK + 251).collect())
    }

    fn at(&self, position: usize, length: usize) -> &[u8] {
        &self.0[position % 251..][..length]
    }

    async fn write(&self, io: &mut (impl AsyncWrite + Unpin), length: usize) {
        for position in (0..length).step_by(Self::BLOCK) {
            io.write_all(self.at(position, Self::BLOCK.min(length - position))).await.unwrap();
        }
        io.shutdown().await.unwrap();
    }

    async fn read(&self, io: &mut (impl AsyncRead + Unpin)) -> usize {
        let (mut position, mut block) = (0, vec![0; Self::BLOCK]);
        loop {
            let read = io.read(&mut block).await.unwrap();
            if read == 0 {
                return position;
            }
            assert!(
                block[..read] == *self.at(position, read),
                "wrong between {position} and {}",
                position + read
            );
            position += read;
        }
    }
}

#[tokio::test]
async fn much_goes_both_ways_at_once_through_a_pair_and_arrives_as_it_was() {
    const LENGTH: usize = (64 << 20) + 7;
    let (client, downstream) = sockets().await;
    let (between, between_far) = secured().await;
    let (upstream, server) = sockets().await;
    let relays = (start(downstream, between), start(between_far, upstream));
    let pattern = Pattern::new();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let ((), (), at_client, at_server) = tokio::join!(
        pattern.write(&mut to_client, LENGTH),
        pattern.write(&mut to_server, LENGTH),
        pattern.read(&mut from_client),
        pattern.read(&mut from_server),
    );
    assert_eq!((at_client, at_server), (LENGTH, LENGTH));
    let length = u64::try_from(LENGTH).unwrap();
    for relay in [relays.0, relays.1] {
        let ended = soon(relay).await.unwrap();
        assert_eq!((ended.why, ended.sent, ended.received), (Why::Finished, length, length));
    }
}
