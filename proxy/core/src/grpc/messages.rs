//! Counts the messages of a body as it passes, to tell calls with one message each way from streams.

/// Length of a message's prefix: a flag, then the length in four bytes, big endian ("Length-Prefixed-Message").
const PREFIX: u8 = 5;

/// How many messages a body has carried. It is fed the body's bytes in order, however they are cut, keeps five of them
/// at most, and gives up at the first that are not gRPC.
#[derive(Debug, Clone, Default)]
pub struct Messages {
    count: u64,
    garbled: bool,
    /// Bytes of the present message that are still to come; its prefix is complete.
    left: u32,
    /// Bytes of the next prefix that have come, 0 to 4, and the length as far as they say it.
    prefix: u8,
    length: u32,
}

impl Messages {
    /// Nothing passed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes of the body.
    pub fn push(&mut self, mut data: &[u8]) {
        while !self.garbled && !data.is_empty() {
            if self.left > 0 {
                let skipped = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= u32::try_from(skipped).unwrap_or(self.left);
                data = data.get(skipped..).unwrap_or_default();
            } else if let Some((byte, rest)) = data.split_first() {
                self.prefix_byte(*byte);
                data = rest;
            }
        }
    }

    /// How many messages have begun, each from the moment its prefix is complete; `None` once something came that is
    /// not gRPC.
    pub fn count(&self) -> Option<u64> {
        (!self.garbled).then_some(self.count)
    }

    /// Whether the bytes so far end with a whole message, or are none. A body that ends elsewhere was cut.
    pub fn is_whole(&self) -> bool {
        !self.garbled && self.left == 0 && self.prefix == 0
    }

    fn prefix_byte(&mut self, byte: u8) {
        if self.prefix == 0 {
            // "Compressed-Flag: 0 / 1".
            self.garbled = byte > 1;
            self.length = 0;
        } else {
            self.length = self.length << 8 | u32::from(byte);
        }
        self.prefix += 1;
        if self.prefix == PREFIX {
            self.prefix = 0;
            self.left = self.length;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let prefix = u32::try_from(length).unwrap().to_be_bytes();
        [&[0][..], &prefix, &vec![0xff; length]].concat()
    }

    fn counted(parts: &[&[u8]]) -> Messages {
        let mut messages = Messages::new();
        for part in parts {
            messages.push(part);
        }
        messages
    }

    #[test]
    fn a_message_counts_once_its_prefix_is_complete() {
        let bytes = message(3);
        let mut messages = Messages::new();
        messages.push(&bytes[..4]);
        assert_eq!(messages.count(), Some(0));
        messages.push(&bytes[4..6]);
        assert_eq!(messages.count(), Some(1));
        assert!(!messages.is_whole());
        messages.push(&bytes[6..]);
        assert!(messages.is_whole());
    }

    #[test]
    fn empty_messages_and_empty_bodies_are_whole() {
        assert!(counted(&[]).is_whole());
        let two = counted(&[&message(0), &message(0)]);
        assert_eq!(two.count(), Some(2));
        assert!(two.is_whole());
    }

    #[test]
    fn it_gives_up_on_what_is_not_grpc() {
        let mut messages = counted(&[&message(1), b"{\"error\":1}"]);
        assert_eq!(messages.count(), None);
        messages.push(&message(1));
        assert_eq!(messages.count(), None);
        assert!(!messages.is_whole());
    }

    #[test]
    fn a_message_of_4_gib_is_only_counted() {
        let mut messages = counted(&[&[0, 0xff, 0xff, 0xff, 0xff], &[7; 1000]]);
        messages.push(&[7; 1000]);
        assert_eq!(messages.count(), Some(1));
        assert!(!messages.is_whole());
    }

    proptest! {
        #[test]
        fn the_count_does_not_depend_on_how_the_body_is_cut(
            lengths in proptest::collection::vec(0..40_usize, 0..8),
            cut in 1..64_usize,
        ) {
            let body: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
            let messages = counted(&body.chunks(cut).collect::<Vec<_>>());
            prop_assert_eq!(messages.count(), Some(lengths.len() as u64));
            prop_assert!(messages.is_whole());
        }

        #[test]
        fn no_body_panics_and_cuts_do_not_matter(
            body in proptest::collection::vec(prop_oneof![0..3_u8, any::<u8>()], 0..64),
            cut in 1..16_usize,
        ) {
            let (whole, cut) = (counted(&[&body]), counted(&body.chunks(cut).collect::<Vec<_>>()));
            prop_assert_eq!(whole.count(), cut.count());
            prop_assert_eq!(whole.is_whole(), cut.is_whole());
        }
    }
}
