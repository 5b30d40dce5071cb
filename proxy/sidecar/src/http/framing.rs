//! Follows where requests begin and end on a connection, beside the parser that serves them. It serves nothing itself:
//! it tells the timeouts in which part of a message the peer is, and it finds the ambiguous framing that the parser
//! repairs in silence: a length beside chunked coding, or two lengths (RFC 9112 §6.1, §6.3). Proxies that repair it
//! differently are how one request becomes two, so such a connection is refused.

/// Bytes of a line that are kept: enough for the name and value of the two fields that matter.
const LINE: usize = 64;

/// Where the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// Between two requests.
    Between,
    /// In a head.
    Head,
    /// In a body, or in what is not HTTP any more.
    Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Line,
    Length(u64),
    ChunkSize {
        size: u64,
        in_size: bool,
    },
    /// The data of a chunk and the line end after it.
    Chunk(u64),
    Trailer {
        empty: bool,
    },
    Opaque,
}

/// The framing of the requests of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    line: [u8; LINE],
    /// Bytes of the line so far, also those beyond [`LINE`].
    line_length: usize,
    first_line: bool,
    connect: bool,
    lengths: u8,
    length: u64,
    chunked: bool,
    ambiguous: bool,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self {
            state: State::Between,
            line: [0; LINE],
            line_length: 0,
            first_line: true,
            connect: false,
            lengths: 0,
            length: 0,
            chunked: false,
            ambiguous: false,
        }
    }

    pub(super) fn position(&self) -> Position {
        match self.state {
            State::Between => Position::Between,
            State::Line => Position::Head,
            State::Length(_)
            | State::ChunkSize { .. }
            | State::Chunk(_)
            | State::Trailer { .. }
            | State::Opaque => Position::Body,
        }
    }

    /// Whether a head so far could be understood in two ways. Once it is, it stays.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// Takes what was read next.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            match self.state {
                State::Between if matches!(first, b'\r' | b'\n') => bytes = rest,
                State::Between => self.begin_head(),
                State::Line => bytes = self.feed_line(bytes),
                State::Length(left) => {
                    let (left, rest) = skip(left, bytes);
                    bytes = rest;
                    self.state = if left == 0 { State::Between } else { State::Length(left) };
                }
                State::ChunkSize { size, in_size } => {
                    self.state = chunk_size(size, in_size, first);
                    bytes = rest;
                }
                State::Chunk(left) => {
                    let (left, rest) = skip(left, bytes);
                    bytes = rest;
                    self.state = match left {
                        0 => State::ChunkSize { size: 0, in_size: true },
                        left => State::Chunk(left),
                    };
                }
                State::Trailer { empty } => {
                    self.state = match (first, empty) {
                        (b'\n', true) => State::Between,
                        (b'\n', false) => State::Trailer { empty: true },
                        (b'\r', empty) => State::Trailer { empty },
                        _ => State::Trailer { empty: false },
                    };
                    bytes = rest;
                }
                State::Opaque => return,
            }
        }
    }

    fn begin_head(&mut self) {
        self.state = State::Line;
        self.line_length = 0;
        self.first_line = true;
        self.connect = false;
        self.lengths = 0;
        self.chunked = false;
    }

    /// Takes one line or what there is of it; returns what follows.
    fn feed_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, rest) = match end {
            Some(end) => (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default()),
            None => (bytes, &[][..]),
        };
        if let Some(free) = self.line.get_mut(self.line_length.min(LINE)..) {
            let kept = free.len().min(line.len());
            if let (Some(to), Some(from)) = (free.get_mut(..kept), line.get(..kept)) {
                to.copy_from_slice(from);
            }
        }
        self.line_length = self.line_length.saturating_add(line.len());
        if end.is_some() {
            self.end_line();
        }
        rest
    }

    fn end_line(&mut self) {
        let line = self.line;
        let mut line = line.get(..self.line_length.min(LINE)).unwrap_or_default();
        let whole = self.line_length <= LINE;
        if whole {
            line = line.strip_suffix(b"\r").unwrap_or(line);
        }
        self.line_length = 0;
        if line.is_empty() {
            return self.end_head();
        }
        if self.first_line {
            self.first_line = false;
            self.connect = line.starts_with(b"CONNECT ");
            return;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths = self.lengths.saturating_add(1);
            match whole.then(|| length(value)).flatten() {
                Some(length) => self.length = length,
                None => self.ambiguous = true,
            }
        }
    }

    fn end_head(&mut self) {
        if self.lengths > 1 || (self.chunked && self.lengths > 0) {
            self.ambiguous = true;
        }
        self.state = if self.connect || self.ambiguous {
            State::Opaque
        } else if self.chunked {
            State::ChunkSize { size: 0, in_size: true }
        } else if self.lengths == 1 && self.length > 0 {
            State::Length(self.length)
        } else {
            State::Between
        };
    }
}

/// The value after a `:`, if it is a length and nothing else.
fn length(value: &[u8]) -> Option<u64> {
    let digits = value.strip_prefix(b":")?.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Skips up to `left` bytes; returns how many are left to skip, and what follows.
fn skip(left: u64, bytes: &[u8]) -> (u64, &[u8]) {
    let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    let rest = bytes.get(skipped..).unwrap_or_default();
    (left.saturating_sub(skipped as u64), rest)
}

fn chunk_size(size: u64, in_size: bool, byte: u8) -> State {
    if byte == b'\n' {
        return match size {
            0 => State::Trailer { empty: true },
            // The chunk's own line end is two bytes; the parser takes no other.
            size => State::Chunk(size.saturating_add(2)),
        };
    }
    match (in_size, char::from(byte).to_digit(16)) {
        (true, Some(digit)) => {
            State::ChunkSize { size: size.saturating_mul(16).saturating_add(u64::from(digit)), in_size }
        }
        // An extension, or the line end.
        _ => State::ChunkSize { size, in_size: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(text: &str) -> Framing {
        let whole = {
            let mut framing = Framing::new();
            framing.feed(text.as_bytes());
            framing
        };
        let mut bytewise = Framing::new();
        for byte in text.as_bytes() {
            bytewise.feed(&[*byte]);
        }
        assert_eq!(whole.position(), bytewise.position(), "{text:?}");
        assert_eq!(whole.is_ambiguous(), bytewise.is_ambiguous(), "{text:?}");
        whole
    }

    #[test]
    fn a_message_is_followed_to_its_end() {
        for (text, position) in [
            ("", Position::Between),
            ("\r\n\r\n", Position::Between),
            ("G", Position::Head),
            ("GET / HTTP/1.1\r\nhost: a\r\n", Position::Head),
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Position::Between),
            ("GET / HTTP/1.1\nhost: a\n\n", Position::Between),
            ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab", Position::Body),
            ("POST / HTTP/1.1\r\nContent-Length:3 \r\n\r\nabc", Position::Between),
            ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcG", Position::Head),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", Position::Body),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1a;x=y\r\n", Position::Body),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Position::Between),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\nGET",
                Position::Head,
            ),
            ("CONNECT a:80 HTTP/1.1\r\n\r\n", Position::Body),
            ("CONNECT a:80 HTTP/1.1\r\n\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", Position::Body),
        ] {
            let framing = fed(text);
            assert_eq!(framing.position(), position, "{text:?}");
            assert!(!framing.is_ambiguous(), "{text:?}");
        }
    }

    #[test]
    fn two_ways_to_understand_a_length_are_ambiguous() {
        let padded = format!("POST / HTTP/1.1\r\ncontent-length: {}5\r\n\r\n", " ".repeat(80));
        for text in [
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: +3\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 3, 3\r\n\r\n",
            &padded,
            // The second of two pipelined requests.
            "GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n",
        ] {
            assert!(fed(text).is_ambiguous(), "{text:?}");
        }
    }

    #[test]
    fn fields_inside_a_body_are_not_fields() {
        let text = "POST / HTTP/1.1\r\ncontent-length: 38\r\n\r\ncontent-length: 1\r\ncontent-length: 2\r\n";
        assert!(!fed(text).is_ambiguous());
        assert_eq!(fed(text).position(), Position::Between);
    }
}
