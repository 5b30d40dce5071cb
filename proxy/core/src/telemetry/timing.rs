//! The header in which an inbound sidecar tells the outbound one where its time went:
//! `outrigger-timing: v=1, total=1234, upload=0, app=1100, waiting=900`, microseconds, a dictionary in the sense of
//! RFC 9651. `waiting` is left out when it is not known.
//!
//! It travels on the mutual-TLS hop only; still, a peer is not trusted to write it well.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use itoa::Buffer as Digits;

/// Name of the response header.
pub const HEADER: HeaderName = HeaderName::from_static("outrigger-timing");

/// Longest value that is read, bytes.
pub const MAX_LENGTH: usize = 128;

/// No figure is larger: about 11 days.
const MAX_FIGURE: Duration = Duration::from_micros(999_999_999_999);

/// The inbound's time, up to the final response head. `upload` and `app` are parts of `total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Request head read -> final response head handed to the mesh connection.
    pub total: Duration,
    /// Head handed to the application -> last request byte or response head, whichever came first.
    pub upload: Duration,
    /// End of the upload -> final response head.
    pub app: Duration,
    /// The part of `app` during which the application waited for its own calls; `None`: not known.
    pub waiting: Option<Duration>,
}

/// Why a value was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTiming {
    /// Longer than [`MAX_LENGTH`].
    #[error("the timing header is too long")]
    TooLong,
    /// Written by another version of the format.
    #[error("the timing header has another version")]
    Version,
    /// Not `key=number, ...`, a number out of bounds, or a key twice.
    #[error("the timing header is malformed")]
    Malformed,
    /// A figure is missing.
    #[error("the timing header lacks a figure")]
    Missing,
    /// `upload` and `app` together exceed `total`, or `waiting` exceeds `app`.
    #[error("the timing header contradicts itself")]
    Contradiction,
}

/// Writes figures as a header value; each cut to whole microseconds, and `waiting` to `app`.
pub fn encode(figures: &Figures) -> HeaderValue {
    let mut text = String::with_capacity(MAX_LENGTH);
    let waiting = figures.waiting.map(|waiting| (", waiting=", waiting.min(figures.app)));
    let others = [("v=1, total=", figures.total), (", upload=", figures.upload), (", app=", figures.app)];
    for (name, time) in others.into_iter().chain(waiting) {
        let micros = u64::try_from(time.min(MAX_FIGURE).as_micros()).unwrap_or(u64::MAX);
        text.push_str(name);
        text.push_str(Digits::new().format(micros));
    }
    // Only ASCII digits, letters, '=', ',' and ' ': always a header value.
    HeaderValue::from_str(&text).unwrap_or_else(|_never| HeaderValue::from_static("v=0"))
}

/// Reads a header value. Keys that it does not know are skipped, so that a later proxy may say more.
///
/// # Errors
/// By cause; the request's time after the hand-over is then charged to
/// [`Phase::Upstream`](super::Phase::Upstream).
pub fn parse(value: &HeaderValue) -> Result<Figures, InvalidTiming> {
    if value.len() > MAX_LENGTH {
        return Err(InvalidTiming::TooLong);
    }
    let [mut version, mut total, mut upload, mut app, mut waiting] = [None; 5];
    // Byte by byte: what searches in long texts takes longer for members as short as these.
    for member in value.as_bytes().split(|byte| *byte == b',') {
        // Of white space only blanks and tabs are text.
        let member = member.trim_ascii();
        let equals = member.iter().position(|byte| *byte == b'=').ok_or(InvalidTiming::Malformed)?;
        let (key, number) = member.split_at(equals);
        let number = number.get(1..).unwrap_or_default();
        let slot = match key {
            b"v" => &mut version,
            b"total" => &mut total,
            b"upload" => &mut upload,
            b"app" => &mut app,
            b"waiting" => &mut waiting,
            _ => continue,
        };
        if slot.replace(parse_number(number)?).is_some() {
            return Err(InvalidTiming::Malformed);
        }
    }
    if version != Some(1) {
        return Err(InvalidTiming::Version);
    }
    let figure = |micros: Option<u64>| micros.map(Duration::from_micros).ok_or(InvalidTiming::Missing);
    let figures = Figures {
        total: figure(total)?,
        upload: figure(upload)?,
        app: figure(app)?,
        waiting: waiting.map(Duration::from_micros),
    };
    if figures.upload + figures.app > figures.total
        || figures.waiting.is_some_and(|waiting| waiting > figures.app)
    {
        return Err(InvalidTiming::Contradiction);
    }
    Ok(figures)
}

/// At most 12 digits: fits [`MAX_FIGURE`] and can overflow nothing.
fn parse_number(text: &[u8]) -> Result<u64, InvalidTiming> {
    if !(1..=12).contains(&text.len()) {
        return Err(InvalidTiming::Malformed);
    }
    text.iter().try_fold(0, |number, byte| match byte.wrapping_sub(b'0') {
        digit @ 0..=9 => Ok(number * 10 + u64::from(digit)),
        _ => Err(InvalidTiming::Malformed),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Figures, InvalidTiming> {
        parse(&HeaderValue::from_str(text).unwrap())
    }

    #[test]
    fn hostile_values_are_refused_by_cause() {
        use InvalidTiming as No;
        for (text, cause) in [
            ("", No::Malformed),
            ("v=1", No::Missing),
            ("v=1, total=3, upload=1", No::Missing),
            ("v=2, total=3, upload=1, app=1", No::Version),
            ("total=3, upload=1, app=1", No::Version),
            ("v=1, total=3, upload=2, app=2", No::Contradiction),
            ("v=1, total=3, upload=1, app=1, waiting=2", No::Contradiction),
            ("v=1, total=3, upload=1, app=1, waiting=x", No::Malformed),
            ("v=1, total=3, upload=1, app=1, waiting=1, waiting=1", No::Malformed),
            ("v=1, total=3, total=3, upload=1, app=1", No::Malformed),
            ("v=1, total=-3, upload=1, app=1", No::Malformed),
            ("v=1, total=+3, upload=1, app=1", No::Malformed),
            ("v=1, total=1e9, upload=1, app=1", No::Malformed),
            ("v=1, total=, upload=1, app=1", No::Malformed),
            ("v=1, total=1000000000000, upload=1, app=1", No::Malformed),
            ("v=1, total=18446744073709551616, upload=1, app=1", No::Malformed),
            ("v=1,, total=3, upload=1, app=1", No::Malformed),
        ] {
            assert_eq!(parsed(text), Err(cause), "{text}");
        }
        assert_eq!(parsed(&"v".repeat(129)), Err(No::TooLong));
        assert_eq!(parse(&HeaderValue::from_bytes(b"\xff").unwrap()), Err(No::Malformed));
    }

    #[test]
    fn a_later_key_is_skipped() {
        let figures = parsed("v=1,total=30 ,\tupload=1, app=20, parsing=7").unwrap();
        assert_eq!(figures.total, Duration::from_micros(30));
        assert_eq!(figures.app, Duration::from_micros(20));
        assert_eq!(figures.waiting, None);
    }

    #[test]
    fn what_is_not_known_is_not_written() {
        let micros = Duration::from_micros;
        let mut figures = Figures { total: micros(30), upload: micros(1), app: micros(20), waiting: None };
        assert_eq!(encode(&figures), "v=1, total=30, upload=1, app=20");
        figures.waiting = Some(Duration::ZERO);
        assert_eq!(encode(&figures), "v=1, total=30, upload=1, app=20, waiting=0");
        // Calls that began with the upload still: what lies before its end is not the application's time.
        figures.waiting = Some(micros(21));
        assert_eq!(parse(&encode(&figures)).unwrap().waiting, Some(micros(20)));
    }

    proptest! {
        #[test]
        fn figures_survive_a_round_trip_to_the_microsecond(
            parts in proptest::array::uniform3(0..1_u64 << 36),
            waiting in proptest::option::of(0..1_u64 << 36),
        ) {
            let micros = Duration::from_micros;
            let [upload, app, rest] = parts;
            let waiting = waiting.map(|waiting| micros(waiting.min(app)));
            let figures =
                Figures { total: micros(upload + app + rest), upload: micros(upload), app: micros(app), waiting };
            let value = encode(&figures);
            prop_assert!(value.len() <= MAX_LENGTH);
            prop_assert_eq!(parse(&value), Ok(figures));
        }

        #[test]
        fn parts_below_a_microsecond_never_contradict_the_total(upload in 0..1_u64 << 20, app in 0..1_u64 << 20) {
            let nanos = Duration::from_nanos;
            let (total, upload, app) = (nanos(upload + app), nanos(upload), nanos(app));
            let figures = Figures { total, upload, app, waiting: Some(app) };
            prop_assert!(parse(&encode(&figures)).is_ok());
        }

        #[test]
        fn no_value_panics(bytes in proptest::collection::vec(32_u8..=255, 0..140)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _any = parse(&value);
            }
        }
    }
}
