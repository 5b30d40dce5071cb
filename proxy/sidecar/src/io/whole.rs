//! Short messages that the parser writes in pieces, a head and a body, written as one: the kernel takes longer to look at a
//! list of pieces than it takes to copy them.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncWrite, ReadBuf};

/// As much is copied at most, bytes.
const SHORT: usize = 2048;

/// Writes `slices`, or a part of them, to `io`.
pub(crate) fn poll_write<T: AsyncWrite>(
    io: Pin<&mut T>,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [one] = slices {
        return io.poll_write(cx, one);
    }
    if slices.iter().map(|slice| slice.len()).sum::<usize>() > SHORT {
        return io.poll_write_vectored(cx, slices);
    }
    // Not zeroed first.
    let mut space = [MaybeUninit::uninit(); SHORT];
    let mut whole = ReadBuf::uninit(&mut space);
    for slice in slices {
        whole.put_slice(slice);
    }
    io.poll_write(cx, whole.filled())
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes `room` bytes of each write; says how it was written.
    struct Sink {
        room: usize,
        written: Vec<u8>,
        vectored: bool,
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.room);
            self.written.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.vectored = true;
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_a_beginning_of_the_pieces_in_their_order(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 0..5),
            room in 0..5000_usize,
        ) {
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let all = pieces.concat();
            let mut sink = Sink { room, written: Vec::new(), vectored: false };
            let polled = poll_write(Pin::new(&mut sink), &mut Context::from_waker(Waker::noop()), &slices);
            let Poll::Ready(Ok(taken)) = polled else { panic!("{polled:?}") };
            prop_assert_eq!(taken, all.len().min(room));
            prop_assert_eq!(&sink.written[..], &all[..taken]);
            prop_assert_eq!(sink.vectored, pieces.len() != 1 && all.len() > SHORT);
        }
    }
}
