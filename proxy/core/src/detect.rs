//! The first bytes of a connection -> what is spoken on it.
//!
//! [`decide`] looks at what was read so far, however it was cut, and never takes a verdict back. It is strict: what is not
//! certainly HTTP or TLS is opaque and is carried as bytes, which harms no protocol. It costs one pass over what was read.

/// So many bytes decide at the latest; nothing after them is looked at. As much as a request line may have.
pub const MAX_READ: usize = 16 * 1024;

/// Longest method taken for one. Of those registered one is longer, `UPDATEREDIRECTREF` (RFC 4437).
const MAX_METHOD: usize = 16;

/// RFC 9113 §3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9112 §2.3. The minor version is not ours to judge.
const HTTP1_VERSION: &[u8] = b"HTTP/1.";

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Not enough bytes yet.
    More,
    /// HTTP/1.0 or 1.1: the bytes begin with a method, a target and the version.
    Http1,
    /// HTTP/2 with prior knowledge: the bytes begin with its preface.
    Http2,
    /// TLS: the bytes begin with the record of a ClientHello.
    Tls,
    /// Anything else.
    Opaque,
}

/// What the first bytes of a connection say.
pub fn decide(read: &[u8]) -> Verdict {
    let read = read.get(..MAX_READ).unwrap_or(read);
    let verdict = match read.first() {
        None => Verdict::More,
        Some(0x16) => tls(read),
        Some(_) if read.starts_with(HTTP2_PREFACE) => Verdict::Http2,
        // A cut preface is also a cut request line; only a whole line tells them apart.
        Some(_) if HTTP2_PREFACE.starts_with(read) => Verdict::More,
        Some(_) => http1(read),
    };
    if verdict == Verdict::More && read.len() == MAX_READ { Verdict::Opaque } else { verdict }
}

/// Which version of HTTP begins, where it is known to be HTTP: [`Verdict::Http1`] for everything that is not the preface of
/// [`Verdict::Http2`], so that the parser says what is wrong with it; [`Verdict::More`] while it could be either.
pub fn version(read: &[u8]) -> Verdict {
    if read.starts_with(HTTP2_PREFACE) {
        Verdict::Http2
    } else if HTTP2_PREFACE.starts_with(read) {
        Verdict::More
    } else {
        Verdict::Http1
    }
}

/// `method SP target SP HTTP/1.` (RFC 9112 §3). No empty line may come before it: that leniency is for what follows an
/// earlier message on the connection (§2.2), and here nothing does.
///
/// Text protocols end their first line before they come to a version (`PING\r\n`, `EHLO example.com\r\n`), or never
/// begin with a token and a space; so none of them has to wait for the timeout.
fn http1(read: &[u8]) -> Verdict {
    let Some(method) = read.iter().take(MAX_METHOD + 1).position(|byte| !is_token(*byte)) else {
        return if read.len() > MAX_METHOD { Verdict::Opaque } else { Verdict::More };
    };
    let Some(rest) = after_space(read, method) else { return Verdict::Opaque };
    let Some(target) = rest.iter().position(|byte| !is_target(*byte)) else { return Verdict::More };
    match after_space(rest, target) {
        Some(version) if version.starts_with(HTTP1_VERSION) => Verdict::Http1,
        Some(version) if HTTP1_VERSION.starts_with(version) => Verdict::More,
        _ => Verdict::Opaque,
    }
}

/// What follows the space at `end` of a word that is not empty.
fn after_space(bytes: &[u8], end: usize) -> Option<&[u8]> {
    let (word, rest) = bytes.split_at_checked(end)?;
    if word.is_empty() { None } else { rest.strip_prefix(b" ") }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Everything visible, and what is not ASCII: a sloppy client's target is the HTTP parser's to refuse.
fn is_target(byte: u8) -> bool {
    byte.is_ascii_graphic() || !byte.is_ascii()
}

/// A record of type handshake, version 3.0 to 3.4, at most 2^14 bytes, that begins a ClientHello (RFC 8446 §4, §5.1).
fn tls(read: &[u8]) -> Verdict {
    const HEADER: usize = 6;
    let plausible = |(place, byte): (usize, &u8)| match place {
        0 => *byte == 0x16,
        1 => *byte == 3,
        2 => *byte <= 4,
        3 => *byte <= 0x40,
        5 => *byte == 1,
        _ => true,
    };
    if !read.iter().take(HEADER).enumerate().all(plausible) {
        Verdict::Opaque
    } else if read.len() < HEADER {
        Verdict::More
    } else {
        Verdict::Tls
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_http_is_version_1_as_soon_as_it_cannot_be_the_preface() {
        for (read, expected) in [
            (&b""[..], Verdict::More),
            (b"P", Verdict::More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Verdict::More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Verdict::Http2),
            (b"PO", Verdict::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSX", Verdict::Http1),
            (b"\x16", Verdict::Http1),
        ] {
            assert_eq!(version(read), expected, "{read:?}");
        }
    }

    #[test]
    fn http_is_told_by_its_request_line() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "M-SEARCH * HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "CONNECT price.shop:80 HTTP/1.1\r\n",
            "GET http://price.shop/quote?a=b HTTP/1.1\r\n",
            "GET /caf\u{e9} HTTP/1.1\r\n",
            "BASELINE-CONTROL /a HTTP/1.1\r\n",
            "x / HTTP/1.",
        ] {
            assert_eq!(decide(line.as_bytes()), Verdict::Http1, "{line:?}");
        }
    }

    #[test]
    fn http2_is_told_by_its_whole_preface() {
        let mut bytes = HTTP2_PREFACE.to_vec();
        assert_eq!(decide(&bytes), Verdict::Http2);
        bytes.extend([0, 0, 18, 4]);
        assert_eq!(decide(&bytes), Verdict::Http2);
        for end in 0..HTTP2_PREFACE.len() {
            assert_eq!(decide(&HTTP2_PREFACE[..end]), Verdict::More, "{end}");
        }
        assert_eq!(decide(b"PRI * HTTP/2.0\r\n\r\nXX"), Verdict::Opaque);
        assert_eq!(decide(b"PRI * HTTP/1.1\r\n"), Verdict::Http1);
    }

    #[test]
    fn tls_is_told_by_the_record_of_a_client_hello() {
        for version in 0..=4 {
            assert_eq!(decide(&[0x16, 3, version, 2, 0, 1]), Verdict::Tls, "{version}");
        }
        for end in 0..6 {
            assert_eq!(decide(&[0x16, 3, 1, 2, 0, 1][..end]), Verdict::More, "{end}");
        }
        for other in [
            &[0x16, 2][..],
            &[0x16, 3, 5],
            &[0x16, 3, 1, 0x41],
            &[0x16, 3, 1, 2, 0, 2],
            &[0x15, 3, 1, 0, 2],
            &[0x17, 3, 3, 0, 2],
        ] {
            assert_eq!(decide(other), Verdict::Opaque, "{other:?}");
        }
    }

    #[test]
    fn other_protocols_are_opaque_at_their_first_message() {
        for (name, bytes) in [
            ("Redis, inline", &b"PING\r\n"[..]),
            ("Redis, inline with arguments", b"SET key value\r\n"),
            ("Redis, RESP", b"*1\r\n$4\r\nPING\r\n"),
            ("PostgreSQL, startup", b"\0\0\0\x54\0\x03\0\0user\0me\0"),
            ("PostgreSQL, SSLRequest", b"\0\0\0\x08\x04\xd2\x16\x2f"),
            ("MongoDB", b"\x41\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0"),
            ("MySQL, handshake response", b"\x54\0\0\x01\x8d\xa6\xff\x09"),
            ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
            ("SSH, with a comment", b"SSH-2.0-Go comment\r\n"),
            ("SMTP", b"EHLO mail.example.com\r\n"),
            ("SMTP, pipelined", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"),
            ("IMAP", b"a1 LOGIN me secret\r\n"),
            ("Kafka", b"\0\0\0\x1a\0\x12\0\x03\0\0\0\x01"),
            ("AMQP", b"AMQP\0\0\x09\x01"),
            ("MQTT", b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0"),
            ("memcached", b"get key\r\n"),
            ("NATS", b"CONNECT {\"verbose\":false}\r\n"),
            ("STOMP", b"CONNECT\naccept-version:1.2\n\n\0"),
            ("RTSP", b"OPTIONS rtsp://camera/ RTSP/1.0\r\n"),
            ("SIP", b"INVITE sip:a@b SIP/2.0\r\n"),
            ("PROXY protocol", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
            ("LDAP", b"\x30\x0c\x02\x01\x01\x60\x07"),
            ("DNS over TCP", b"\0\x1d\x12\x34\x01\0"),
            ("HTTP/0.9", b"GET /\r\n"),
            ("HTTP/3 by mistake", b"GET / HTTP/3\r\n"),
            ("an empty line", b"\r\nGET / HTTP/1.1\r\n"),
            ("two spaces", b"GET  / HTTP/1.1\r\n"),
            ("no method", b" / HTTP/1.1\r\n"),
            ("a method of 17", b"ABCDEFGHIJKLMNOPQ"),
        ] {
            assert_eq!(decide(bytes), Verdict::Opaque, "{name}");
        }
    }

    #[test]
    fn an_endless_target_is_opaque_at_the_bound() {
        let mut bytes = b"GET /".to_vec();
        bytes.resize(MAX_READ - 1, b'a');
        assert_eq!(decide(&bytes), Verdict::More);
        bytes.push(b'a');
        assert_eq!(decide(&bytes), Verdict::Opaque);
        bytes.extend(b" HTTP/1.1\r\n");
        assert_eq!(decide(&bytes), Verdict::Opaque);
    }

    /// Bytes that come close to each verdict, which random ones hardly would.
    fn close_to_something() -> impl Strategy<Value = Vec<u8>> {
        let begin = prop_oneof![
            Just(HTTP2_PREFACE.to_vec()),
            Just(b"GET /quote HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
            Just(vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]),
            Just(Vec::new()),
        ];
        (begin, any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..24)).prop_map(
            |(mut begin, keep, rest)| {
                begin.truncate(keep.index(begin.len() + 1));
                begin.extend(rest);
                begin
            },
        )
    }

    proptest! {
        #[test]
        fn the_verdict_does_not_depend_on_how_the_bytes_are_cut(
            bytes in close_to_something(),
            cut: prop::sample::Index,
        ) {
            let early = decide(&bytes[..cut.index(bytes.len() + 1)]);
            prop_assert!(early == Verdict::More || early == decide(&bytes));
        }

        #[test]
        fn every_request_line_is_http(
            method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,16}",
            target in "[!-~]{1,64}",
            minor in 0..10_u8,
        ) {
            let line = format!("{method} {target} HTTP/1.{minor}\r\n");
            prop_assert_eq!(decide(line.as_bytes()), Verdict::Http1);
        }
    }
}
