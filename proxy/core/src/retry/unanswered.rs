//! A request without an answer, whose connection to the application was reset: had the application read it?

/// What was sent of a request before its connection ended without a byte of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// Writes for it, those that failed too.
    pub writes: u32,
    /// Whether all of it was written, body and trailers included.
    pub whole: bool,
}

impl Unanswered {
    /// Whether a reset means that the application had read nothing, provided that it is gone by now: that nobody listens
    /// at its address any more.
    ///
    /// A system resets a connection when its owner closes it, or ends, and something is unread, or comes later (RFC 1122
    /// §4.2.2.13); what waits to be accepted is reset when the listener is closed. What was read to its end is closed
    /// without a reset, unless the owner asks for one, which a running application may do after it acted on a request,
    /// and one that is gone did not. A request that went out in one write comes in one piece on the same machine: it was
    /// read whole, and then there is no reset, or not at all.
    pub const fn reset_means_unread(self) -> bool {
        self.whole && self.writes == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_that_went_out_whole_and_at_once_is_unread_as_a_whole() {
        for (writes, whole, unread) in
            [(1, true, true), (0, true, false), (2, true, false), (1, false, false), (2, false, false)]
        {
            assert_eq!(Unanswered { writes, whole }.reset_means_unread(), unread, "{writes} {whole}");
        }
    }
}
