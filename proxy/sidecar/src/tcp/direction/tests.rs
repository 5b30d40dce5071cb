//! A direction, step by step: what is carried, and how it ends.

use std::{collections::VecDeque, task::Waker};

use proptest::prelude::*;

use super::*;

/// What a connection does when it is polled.
#[derive(Debug, Clone)]
enum Step {
    Pause,
    /// Gives, or takes, so many bytes.
    Bytes(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![Just(Step::Pause), (1..3 * BUFFER).prop_map(Step::Bytes)];
    prop::collection::vec(step, 0..20)
}

/// Gives the bytes 0, 1, .. 250, 0, .. by its steps, then the end.
struct Reader {
    steps: VecDeque<Step>,
    given: usize,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.steps.pop_front() {
            None => Poll::Ready(Ok(())),
            Some(Step::Pause) => Poll::Pending,
            Some(Step::Bytes(length)) => {
                let now = length.min(buffer.remaining());
                if now < length {
                    self.steps.push_front(Step::Bytes(length - now));
                }
                let bytes: Vec<_> = (self.given..self.given + now).map(pattern).collect();
                buffer.put_slice(&bytes);
                self.given += now;
                Poll::Ready(Ok(()))
            }
        }
    }
}

fn pattern(position: usize) -> u8 {
    u8::try_from(position % 251).unwrap()
}

/// Takes by its steps, then everything; what it took reaches the peer when it is flushed.
struct Writer {
    steps: VecDeque<Step>,
    taken: Vec<u8>,
    flushed: usize,
    ended: bool,
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.ended && !bytes.is_empty());
        let most = match self.steps.pop_front() {
            Some(Step::Pause) => return Poll::Pending,
            Some(Step::Bytes(length)) => length,
            None => bytes.len(),
        };
        let taken = &bytes[..most.min(bytes.len())];
        self.taken.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushed = self.taken.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        assert!(!self.ended, "ended twice");
        self.ended = true;
        self.flushed = self.taken.len();
        Poll::Ready(Ok(()))
    }
}

proptest! {
    #[test]
    fn whatever_the_two_sides_do_all_bytes_arrive_in_order_within_the_bound(
        before in 0..2 * BUFFER,
        reads in steps(),
        writes in steps(),
    ) {
        let length = |step: &Step| match step { Step::Pause => 0, Step::Bytes(length) => *length };
        let total = before + reads.iter().map(length).sum::<usize>();
        let polls = reads.len() + writes.len() + 1;
        let mut copying = Copying::new((0..before).map(pattern).collect());
        let mut reader = Reader { steps: reads.into(), given: before };
        let mut writer = Writer { steps: writes.into(), taken: Vec::new(), flushed: 0, ended: false };
        let mut cx = Context::from_waker(Waker::noop());
        // A poll that does not end it used up at least one step.
        for _ in 0..polls {
            let polled = copying.poll(&mut cx, &mut reader, &mut writer);
            let held = reader.given - writer.taken.len();
            prop_assert!(held <= BUFFER.max(before), "{held} bytes held");
            prop_assert_eq!(held, copying.pending.len());
            // Where it waits for the reader, nothing is held back by the writer.
            prop_assert!(held > 0 || writer.flushed == writer.taken.len());
            if polled.is_ready() {
                prop_assert!(matches!(polled, Poll::Ready(Ok(()))));
                break;
            }
        }
        prop_assert!(copying.is_over() && writer.ended);
        prop_assert_eq!(copying.bytes(), u64::try_from(total).unwrap());
        let whole: Vec<_> = (0..total).map(pattern).collect();
        prop_assert!(writer.taken == whole);
    }
}
