//! What is found out from bytes however they are cut, and what becomes of those that never come.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use prometheus_client::registry::Registry;
use proptest::prelude::*;
use tokio::{
    io::{AsyncWriteExt as _, ReadBuf, duplex},
    time::Instant,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(1);

/// Decided by the first line.
fn line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

async fn detect<T: AsyncRead + Unpin>(io: &mut T, read: &[u8]) -> io::Result<Detected<usize>> {
    let metrics = Metrics::new(&mut Registry::default());
    let detection = Detection { patience: PATIENCE, counted: Some((&metrics, Direction::Outbound)) };
    detection.run(io, BytesMut::from(read), line).await
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_there_decide_without_a_read() {
    let (mut near, _far) = duplex(64);
    let found = detect(&mut near, b"one\ntwo").await.unwrap();
    assert_eq!((&found.read[..], found.verdict), (&b"one\ntwo"[..], Ok(3)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_undecided_after_the_timeout_and_counted() {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let detection = Detection { patience: PATIENCE, counted: Some((&metrics, Direction::Inbound)) };
    let (mut near, mut far) = duplex(64);
    let started = Instant::now();
    far.write_all(b"beg").await.unwrap();
    let found = detection.run(&mut near, BytesMut::new(), line).await.unwrap();
    assert_eq!(started.elapsed(), PATIENCE);
    assert_eq!((&found.read[..], found.verdict), (&b"beg"[..], Err(Undecided::TimedOut)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("outrigger_detection_timeouts_total{direction=\"inbound\"} 1\n"), "{text}");
    // What comes later is still there.
    far.write_all(b"in\n").await.unwrap();
    let mut rest = [0; 3];
    near.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"in\n");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_drip_do_not_put_the_timeout_off() {
    let (mut near, mut far) = duplex(64);
    let started = Instant::now();
    let drip = async {
        loop {
            far.write_all(b".").await.unwrap();
            tokio::time::sleep(PATIENCE * 3 / 20).await;
        }
    };
    let found = tokio::select! {
        biased;
        found = detect(&mut near, b"") => found.unwrap(),
        () = drip => unreachable!(),
    };
    assert_eq!(started.elapsed(), PATIENCE);
    assert_eq!(found.verdict, Err(Undecided::TimedOut));
    assert_eq!(found.read.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_early_is_undecided_at_once() {
    for said in ["", "beg"] {
        let (mut near, mut far) = duplex(64);
        far.write_all(said.as_bytes()).await.unwrap();
        drop(far);
        let started = Instant::now();
        let found = detect(&mut near, b"").await.unwrap();
        assert_eq!((&found.read[..], found.verdict), (said.as_bytes(), Err(Undecided::Ended)));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_bound_is_read() {
    let (mut near, mut far) = duplex(2 * MAX_BYTES);
    far.write_all(&[b'.'; MAX_BYTES + 7]).await.unwrap();
    let found = detect(&mut near, b"...").await.unwrap();
    assert_eq!((found.read.len(), found.verdict), (MAX_BYTES, Err(Undecided::Full)));
    drop(far);
    let mut rest = Vec::new();
    near.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest.len(), 3 + 7);
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_error() {
    let mut broken = Pieces(VecDeque::from([Ok(b"beg".to_vec()), Err(io::ErrorKind::ConnectionReset)]));
    let error = detect(&mut broken, b"").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Reads as many pieces as there are, then the end.
struct Pieces(VecDeque<Result<Vec<u8>, io::ErrorKind>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0.pop_front() {
            Some(Ok(mut piece)) => {
                let rest = piece.split_off(piece.len().min(buffer.remaining()));
                buffer.put_slice(&piece);
                if !rest.is_empty() {
                    self.0.push_front(Ok(rest));
                }
                Poll::Ready(Ok(()))
            }
            Some(Err(kind)) => Poll::Ready(Err(kind.into())),
            None => Poll::Ready(Ok(())),
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_the_verdict_does_not_depend_on_the_cuts(
        before in prop::collection::vec(0..16_u8, 0..8),
        pieces in prop::collection::vec(prop::collection::vec(0..16_u8, 1..6000), 0..6),
    ) {
        let whole = [before.clone(), pieces.concat()].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let mut io = Pieces(pieces.into_iter().map(Ok).collect());
        let (found, rest) = runtime.unwrap().block_on(async {
            let found = detect(&mut io, &before).await.unwrap();
            let mut rest = Vec::new();
            io.read_to_end(&mut rest).await.unwrap();
            (found, rest)
        });
        prop_assert!(found.read.len() <= MAX_BYTES);
        prop_assert_eq!([&found.read[..], &rest].concat(), &whole[..]);
        let seen = &whole[..whole.len().min(MAX_BYTES)];
        match line(seen) {
            Some(at) => prop_assert_eq!(found.verdict, Ok(at)),
            None if seen.len() < MAX_BYTES => prop_assert_eq!(found.verdict, Err(Undecided::Ended)),
            None => prop_assert_eq!(found.verdict, Err(Undecided::Full)),
        }
    }
}
