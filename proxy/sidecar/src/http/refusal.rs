//! What the parser of HTTP/2 refuses, understood from the words in which it says so. It returns nothing of a stream that it
//! resets, and of a connection that it ends the code and not the cause.
//!
//! Its words are no interface. The tests bring about each of the refusals over real sockets, and fail where the words changed.

/// What a refusal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// One stream; the others go on.
    Stream,
    /// The connection, with all of its streams.
    Connection,
}

impl Ended {
    const ALL: [Self; 2] = [Self::Stream, Self::Connection];

    /// As in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Connection => "connection",
        }
    }
}

/// What was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A head, or what was to be trailers, is none (RFC 9113 §8.1 to §8.3).
    MalformedHead,
    /// A body that is not as long as was said, or a length that is no number (RFC 9113 §8.1.1).
    ContentLength,
    /// Trailers that are not the end of their stream (RFC 9113 §8.1).
    MalformedTrailers,
    /// A list of fields beyond what was allowed (RFC 9113 §10.5.1).
    HeadTooLarge,
    /// A frame of a stream that is over, and forgotten (RFC 9113 §5.1).
    StreamClosed,
    /// More than the window, or a window beyond its bounds (RFC 9113 §6.9).
    FlowControl,
    /// A frame that is none (RFC 9113 §4.2, §6).
    MalformedFrame,
    /// Fields that cannot be decoded (RFC 9113 §4.3).
    Compression,
    /// Too much of what costs more than it is worth (RFC 9113 §10.5).
    Flood,
    /// Any other breach of the protocol: mostly a frame that may not come there, or not now.
    Protocol,
}

impl Fault {
    const ALL: [Self; 10] = [
        Self::MalformedHead,
        Self::ContentLength,
        Self::MalformedTrailers,
        Self::HeadTooLarge,
        Self::StreamClosed,
        Self::FlowControl,
        Self::MalformedFrame,
        Self::Compression,
        Self::Flood,
        Self::Protocol,
    ];

    /// As in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::MalformedHead => "malformed_head",
            Self::ContentLength => "content_length",
            Self::MalformedTrailers => "malformed_trailers",
            Self::HeadTooLarge => "head_too_large",
            Self::StreamClosed => "stream_closed",
            Self::FlowControl => "flow_control",
            Self::MalformedFrame => "malformed_frame",
            Self::Compression => "compression",
            Self::Flood => "flood",
            Self::Protocol => "protocol",
        }
    }

    /// From the error that ends a connection, where nobody said a cause; `None`: it ends in order, or the peer wants it so. Of
    /// the error's text the end is the parser's, and what comes before may be the peer's.
    pub(super) fn of_end(error: &str) -> Option<Self> {
        let error = error.strip_suffix(')').unwrap_or(error);
        let (error, initiator) = error.rsplit_once(", ").unwrap_or((error, ""));
        let code = error.rsplit_once(", ").map_or(error, |(_, code)| code);
        match (code, initiator) {
            ("NO_ERROR", _) | (_, "Remote") => None,
            ("FRAME_SIZE_ERROR", _) => Some(Self::MalformedFrame),
            ("FLOW_CONTROL_ERROR", _) => Some(Self::FlowControl),
            ("COMPRESSION_ERROR", _) => Some(Self::Compression),
            ("ENHANCE_YOUR_CALM", _) => Some(Self::Flood),
            // A code that is new to us is one all the same.
            _ => Some(Self::Protocol),
        }
    }
}

/// A kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) ended: Ended,
    pub(crate) fault: Fault,
}

impl Refusal {
    /// So many kinds there are.
    pub(super) const KINDS: usize = Ended::ALL.len() * Fault::ALL.len();

    pub(super) fn place(self) -> usize {
        self.ended as usize * Fault::ALL.len() + self.fault as usize
    }
}

/// What the parser says with some words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// It resets a stream.
    Reset(Fault),
    /// Why it is about to end the connection.
    Cause(Fault),
    /// It ends the connection: in order as well.
    End,
}

const STREAM: &str = "stream error ";
const CONNECTION: &str = "connection error ";

/// How the words begin after [`STREAM`] and a code.
const RESETS: &[(&str, Fault)] = &[
    ("malformed header block", Fault::MalformedHead),
    ("malformed CONTINUATION frame", Fault::MalformedHead),
    ("cannot use :", Fault::MalformedHead),
    ("missing :status", Fault::MalformedHead),
    ("error building request", Fault::MalformedHead),
    ("could not parse content-length", Fault::ContentLength),
    ("conflicting content-length", Fault::ContentLength),
    ("recv_headers with END_STREAM: content-length", Fault::ContentLength),
    ("recv_data: content-length", Fault::ContentLength),
    ("recv_trailers: content-length", Fault::ContentLength),
    ("recv_headers: trailers frame was not EOS", Fault::MalformedTrailers),
    ("recv_headers: frame is over size", Fault::HeadTooLarge),
    ("invalid HEADERS dependency ID", Fault::MalformedFrame),
    ("PRIORITY invalid dependency ID", Fault::MalformedFrame),
];

/// The same after [`CONNECTION`].
const CAUSES: &[(&str, Fault)] = &[
    ("failed to load", Fault::MalformedFrame),
    ("invalid stream ID 0", Fault::MalformedFrame),
    ("failed HPACK decoding", Fault::Compression),
    ("decoded header list size over abuse limit", Fault::Flood),
    ("decoded CONTINUATION header list size over abuse limit", Fault::Flood),
    ("CONTINUATION frame header block size over ignorable limit", Fault::Flood),
    ("window_size", Fault::FlowControl),
];

/// Those that begin neither so nor so.
const OTHERS: &[(&str, Said)] = &[
    ("malformed headers:", Said::Reset(Fault::MalformedHead)),
    ("recv_headers for old stream", Said::Reset(Fault::StreamClosed)),
    ("recv_data for old stream", Said::Reset(Fault::StreamClosed)),
    ("recv_stream_window_update !!", Said::Reset(Fault::FlowControl)),
    ("too_many_continuations", Said::Cause(Fault::Flood)),
    ("too many small DATA frames", Said::Cause(Fault::Flood)),
    ("recv_reset; remotely-reset pending-accept streams reached limit", Said::Cause(Fault::Flood)),
    ("reset_on_recv_stream_err; locally-reset streams reached limit", Said::Cause(Fault::Flood)),
    ("locally-reset streams reached limit", Said::Cause(Fault::Flood)),
    ("stream ID implicitly closed", Said::Cause(Fault::Protocol)),
    ("Connection::poll; connection error", Said::End),
];

/// What is said with `words`; `None`: nothing of a refusal.
pub(super) fn understand(words: &str) -> Option<Said> {
    // A cause that is new to us is a breach of the protocol all the same.
    let fault = |rest: &str, known| find(after_code(rest), known).unwrap_or(Fault::Protocol);
    if let Some(rest) = words.strip_prefix(STREAM) {
        Some(Said::Reset(fault(rest, RESETS)))
    } else if let Some(rest) = words.strip_prefix(CONNECTION) {
        Some(Said::Cause(fault(rest, CAUSES)))
    } else {
        find(words, OTHERS)
    }
}

/// What of `words` can be shown to anybody: their beginning, which is the parser's own and not the peer's.
pub(super) fn gist(words: &str) -> &str {
    let rest = words.strip_prefix(STREAM).or_else(|| words.strip_prefix(CONNECTION));
    let own = rest.map_or(words, after_code);
    own.split(['(', ';']).next().unwrap_or_default().trim()
}

fn after_code(words: &str) -> &str {
    words.split_once(" -- ").map_or(words, |(_code, rest)| rest)
}

fn find<T: Copy>(words: &str, known: &[(&str, T)]) -> Option<T> {
    known.iter().find(|(begin, _)| words.starts_with(begin)).map(|(_, meant)| *meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_place_of_its_own() {
        let of = |ended| Fault::ALL.map(|fault| Refusal { ended, fault }.place());
        let places = Ended::ALL.map(of).concat();
        assert_eq!(places, (0..Refusal::KINDS).collect::<Vec<_>>());
    }

    #[test]
    fn words_are_understood_by_how_they_begin_and_shown_without_what_the_peer_said() {
        for (words, said, shown) in [
            (
                "stream error PROTOCOL_ERROR -- conflicting content-length headers; stream=StreamId(1);",
                Some(Said::Reset(Fault::ContentLength)),
                "conflicting content-length headers",
            ),
            (
                "malformed headers: malformed path (\"/?secret=1\"): invalid uri character",
                Some(Said::Reset(Fault::MalformedHead)),
                "malformed headers: malformed path",
            ),
            (
                "connection error FLOW_CONTROL_ERROR -- window_size (WindowSize(1)) < sz (2);",
                Some(Said::Cause(Fault::FlowControl)),
                "window_size",
            ),
            ("Connection::poll; connection error", Some(Said::End), "Connection::poll"),
            ("received settings ACK; applying Settings", None, "received settings ACK"),
            ("", None, ""),
        ] {
            assert_eq!(understand(words), said, "{words}");
            assert_eq!(gist(words), shown, "{words}");
        }
    }

    #[test]
    fn an_error_that_is_new_is_one_all_the_same() {
        let stream = "stream error PROTOCOL_ERROR -- something new;";
        assert_eq!(understand(stream), Some(Said::Reset(Fault::Protocol)));
        let connection = "connection error PROTOCOL_ERROR -- something new;";
        assert_eq!(understand(connection), Some(Said::Cause(Fault::Protocol)));
    }

    #[test]
    fn a_code_alone_says_something() {
        for (code, fault) in [
            ("FRAME_SIZE_ERROR", Fault::MalformedFrame),
            ("FLOW_CONTROL_ERROR", Fault::FlowControl),
            ("COMPRESSION_ERROR", Fault::Compression),
            ("ENHANCE_YOUR_CALM", Fault::Flood),
            ("PROTOCOL_ERROR", Fault::Protocol),
            ("Reason(0x1f)", Fault::Protocol),
        ] {
            for initiator in ["Library", "User"] {
                let error = format!("GoAway(b\"\", {code}, {initiator})");
                assert_eq!(Fault::of_end(&error), Some(fault), "{error}");
            }
        }
        assert_eq!(Fault::of_end("something new"), Some(Fault::Protocol));
        assert_eq!(Fault::of_end(""), Some(Fault::Protocol));
    }

    #[test]
    fn an_end_in_order_and_one_that_the_peer_wants_are_no_refusals_whatever_the_peer_says() {
        for data in ["", ", PROTOCOL_ERROR, Library)", "NO_ERROR, Remote)"] {
            for end in
                ["NO_ERROR, Library", "NO_ERROR, User", "NO_ERROR, Remote", "ENHANCE_YOUR_CALM, Remote"]
            {
                let error = format!("GoAway(b\"{data}\", {end})");
                assert_eq!(Fault::of_end(&error), None, "{error}");
            }
            let error = format!("GoAway(b\"{data}\", COMPRESSION_ERROR, Library)");
            assert_eq!(Fault::of_end(&error), Some(Fault::Compression), "{error}");
        }
    }
}
