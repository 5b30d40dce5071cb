//! Relays between pipes in memory, under a stopped clock.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::io::{DuplexStream, ReadBuf, duplex};

use super::*;

/// Notes what is done to it.
struct Noted<T> {
    io: T,
    ends: Ends,
}

#[derive(Clone, Default)]
struct Ends {
    shut: Arc<AtomicBool>,
    reset: Arc<AtomicBool>,
}

impl<T> Noted<T> {
    fn new(io: T) -> (Self, Ends) {
        let ends = Ends::default();
        (Self { io, ends: ends.clone() }, ends)
    }
}

impl Ends {
    /// Whether an end was passed on, and whether it was reset.
    fn seen(&self) -> (bool, bool) {
        (self.shut.load(Ordering::Relaxed), self.reset.load(Ordering::Relaxed))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for Noted<T> {
    fn reset_on_close(&self) {
        self.ends.reset.store(true, Ordering::Relaxed);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Noted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Noted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ends.shut.store(true, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A relay between a client and a server, all of it in memory, and what became of the relay's own ends.
fn piped(
    [near, far]: [usize; 2],
    idle_timeout: Duration,
) -> (DuplexStream, DuplexStream, JoinHandle<Ended>, [Ends; 2]) {
    let (client, downstream) = duplex(near);
    let (upstream, server) = duplex(far);
    let ((downstream, downstream_ends), (upstream, upstream_ends)) =
        (Noted::new(downstream), Noted::new(upstream));
    let (downstream, upstream) = (Side::new(downstream, Bytes::new()), Side::new(upstream, Bytes::new()));
    let relay = tokio::spawn(relay(downstream, upstream, idle_timeout, std::future::pending()));
    (client, server, relay, [downstream_ends, upstream_ends])
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nothing_moved_in_either_direction_for_too_long() {
    let idle = Duration::from_secs(60);
    let (mut client, mut server, relay, ends) = piped([64, 64], idle);
    let started = Instant::now();
    for _ in 0..3 {
        sleep(Duration::from_secs(50)).await;
        client.write_all(b"ping").await.unwrap();
        expect(&mut server, b"ping").await;
        sleep(Duration::from_secs(50)).await;
        server.write_all(b"pong").await.unwrap();
        expect(&mut client, b"pong").await;
    }
    let ended = relay.await.unwrap();
    assert_eq!((ended.why, ended.sent, ended.received), (Why::Idle, 12, 12));
    assert_eq!(started.elapsed(), Duration::from_secs(300) + idle);
    assert_eq!(ends.map(|ends| ends.seen()), [(false, true); 2]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_slow_holds_the_writer_up_and_no_memory_beyond_the_bound() {
    let (mut client, mut server, relay, _) = piped([Pattern::BLOCK, 1000], HOUR);
    let much = [Pattern::new().0, Pattern::new().0].concat();
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), client.write(&much[taken..])).await {
        taken += written.unwrap();
    }
    assert_eq!(taken, Pattern::BLOCK + direction::BUFFER, "in the first pipe, and by one read");
    // A little goes on as soon as a little is read, and no idle relay is it meanwhile.
    let mut read = vec![0; taken];
    for part in read.chunks_mut(1000) {
        sleep(HOUR / 2).await;
        server.read_exact(part).await.unwrap();
    }
    assert!(read == much[..taken]);
    client.shutdown().await.unwrap();
    drop(server);
    let ended = relay.await.unwrap();
    assert_eq!((ended.why, ended.sent), (Why::Finished, u64::try_from(taken).unwrap()));
}

/// A socket whose peer is gone, as Linux shows it when a write is the first to meet that: the error is told once, then
/// comes what was there to read, then an end.
struct Gone {
    said: &'static [u8],
    told: bool,
}

impl AsyncRead for Gone {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.told {
            return Poll::Pending;
        }
        buffer.put_slice(std::mem::take(&mut self.said));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gone {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, _bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.told = true;
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_after_a_write_that_failed_is_none() {
    for upstream_is_gone in [true, false] {
        let (mut peer, near) = duplex(64);
        let ((near, near_ends), (gone, gone_ends)) =
            (Noted::new(near), Noted::new(Gone { said: b"bye", told: false }));
        let (near, gone) = (Side::new(near, &b"more"[..]), Side::new(gone, Bytes::new()));
        let ended = if upstream_is_gone {
            relay(near, gone, HOUR, std::future::pending()).await
        } else {
            relay(gone, near, HOUR, std::future::pending()).await
        };
        assert_eq!(ended.why, if upstream_is_gone { Why::UpstreamReset } else { Why::DownstreamReset });
        assert_eq!(ended.error.unwrap().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(near_ends.seen(), (false, true));
        assert_eq!(gone_ends.seen(), (false, true));
        assert_eq!(rest(&mut peer).await.0, b"bye");
    }
}

#[tokio::test]
async fn a_direction_that_never_pauses_leaves_something_to_the_other() {
    let (mut client, to_client) = duplex(64);
    let (from_server, mut server) = duplex(64);
    let downstream = Noted::new(tokio::io::join(tokio::io::repeat(1), to_client)).0;
    let upstream = Noted::new(tokio::io::join(from_server, tokio::io::sink())).0;
    let relay = start(downstream, upstream);
    server.write_all(b"enough").await.unwrap();
    expect(&mut client, b"enough").await;
    relay.abort();
}
