//! The headers in which a deadline travels, always as the time left, so that no clocks are compared: `grpc-timeout` with
//! gRPC requests (gRPC over HTTP/2, "Timeout"), `outrigger-timeout` with the others (a duration of GEP-2257).
//!
//! Both are written cut to their unit, never rounded up. A caller is not trusted to write them well: a malformed
//! `grpc-timeout` refuses the request as gRPC's servers do ([`Reason::BadRequest`](crate::reason::Reason::BadRequest),
//! which is INTERNAL in gRPC); a malformed header of our own is no deadline, and [`write()`] removes it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::duration;

/// gRPC's own.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Ours, on requests that are not gRPC.
pub const OUTRIGGER_TIMEOUT: HeaderName = HeaderName::from_static("outrigger-timeout");

/// Longest `outrigger-timeout` that is read, bytes.
pub const MAX_LENGTH: usize = 32;

/// "TimeoutValue: positive integer as ASCII string of at most 8 digits".
const GRPC_DIGITS: usize = 8;
const GRPC_MAX: u128 = 99_999_999;

/// From the finest, in nanoseconds.
const GRPC_UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3600 * 1_000_000_000),
];

/// A value that is no timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTimeout {
    /// A `grpc-timeout` that does not follow gRPC's grammar, or more than one of them.
    #[error("grpc-timeout is not one number of at most eight digits with a unit H, M, S, m, u or n")]
    Grpc,
    /// An `outrigger-timeout` that is no duration, or longer than [`MAX_LENGTH`].
    #[error("outrigger-timeout is not a duration")]
    Own,
}

/// How long the caller still waits; `None`: it does not say. The shortest, if it says more than one thing. `grpc`:
/// whether the request is gRPC ([`is_grpc`](crate::grpc::is_grpc)); `grpc-timeout` means nothing in others.
///
/// # Errors
/// When a gRPC request has a malformed `grpc-timeout`, or several.
pub fn read(headers: &HeaderMap, grpc: bool) -> Result<Option<Duration>, InvalidTimeout> {
    let own = headers.get_all(OUTRIGGER_TIMEOUT).iter().filter_map(|value| parse(value).ok()).min();
    if !grpc {
        return Ok(own);
    }
    let mut values = headers.get_all(GRPC_TIMEOUT).iter();
    let theirs = values.next().map(parse_grpc).transpose()?;
    if values.next().is_some() {
        return Err(InvalidTimeout::Grpc);
    }
    // None is less than any time.
    Ok(theirs.into_iter().chain(own).min())
}

/// Says on a request that is sent on how long there is left for it: in `grpc-timeout` if it is gRPC, else in
/// `outrigger-timeout`. What the latter said before is gone in any case.
pub fn write(headers: &mut HeaderMap, grpc: bool, remaining: Option<Duration>) {
    match remaining {
        Some(remaining) if grpc => {
            headers.remove(OUTRIGGER_TIMEOUT);
            headers.insert(GRPC_TIMEOUT, encode_grpc(remaining));
        }
        // In the place of what it said before.
        Some(remaining) => drop(headers.insert(OUTRIGGER_TIMEOUT, encode(remaining))),
        None => drop(headers.remove(OUTRIGGER_TIMEOUT)),
    }
}

/// Reads a `grpc-timeout`. Zero, which the grammar does not have, is one that has passed.
///
/// # Errors
/// When it does not follow the grammar.
pub fn parse_grpc(value: &HeaderValue) -> Result<Duration, InvalidTimeout> {
    let (unit, digits) = value.as_bytes().split_last().ok_or(InvalidTimeout::Grpc)?;
    if !(1..=GRPC_DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(InvalidTimeout::Grpc);
    }
    let (_, nanos) = GRPC_UNITS.iter().find(|(name, _)| name == unit).ok_or(InvalidTimeout::Grpc)?;
    let number = digits.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    Ok(Duration::from_nanos(*nanos).saturating_mul(number))
}

/// Writes a `grpc-timeout` in the finest unit that has room, so that less than 1/10^5 is cut off; at most 99 999 999 hours.
/// It is another one in each request, and would push what is sent often out of HPACK's table: so it is kept out (RFC 7541 §7.1.3).
pub fn encode_grpc(remaining: Duration) -> HeaderValue {
    let nanos = remaining.as_nanos();
    let (unit, number) = GRPC_UNITS
        .iter()
        .map(|(unit, size)| (*unit, nanos / u128::from(*size)))
        .find(|(_, number)| *number <= GRPC_MAX)
        .unwrap_or((b'H', GRPC_MAX));
    let mut value = ascii(format!("{number}{}", char::from(unit)));
    value.set_sensitive(true);
    value
}

/// Reads an `outrigger-timeout`. Zero is one that has passed.
///
/// # Errors
/// When it is no duration, or longer than [`MAX_LENGTH`].
pub fn parse(value: &HeaderValue) -> Result<Duration, InvalidTimeout> {
    if value.len() > MAX_LENGTH {
        return Err(InvalidTimeout::Own);
    }
    let text = value.to_str().map_err(|_not_text| InvalidTimeout::Own)?;
    duration::parse(text).map_err(|duration::InvalidDuration| InvalidTimeout::Own)
}

/// Writes an `outrigger-timeout`; less than a millisecond is cut off, at most 99 999 hours.
pub fn encode(remaining: Duration) -> HeaderValue {
    ascii(duration::format(remaining))
}

/// Digits and letters: always a header value.
fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_never| HeaderValue::from_static("0s"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn every_unit_of_grpc_is_read() {
        for (text, nanos) in [
            ("1n", 1),
            ("1u", 1_000),
            ("100m", 100_000_000),
            ("1S", 1_000_000_000),
            ("2M", 120_000_000_000),
            ("1H", 3_600_000_000_000),
            ("00000001S", 1_000_000_000),
            ("0S", 0),
        ] {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(parse_grpc(&value), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        let longest = Duration::from_secs(99_999_999 * 3600);
        assert_eq!(parse_grpc(&HeaderValue::from_static("99999999H")), Ok(longest));
    }

    #[test]
    fn what_grpc_does_not_allow_is_refused() {
        for text in
            ["", "S", "1", "1s", "1h", "1 S", " 1S", "1S ", "+1S", "-1S", "1.5S", "1SS", "100000000n", "1µ"]
        {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(parse_grpc(&value), Err(InvalidTimeout::Grpc), "{text}");
        }
    }

    #[test]
    fn grpc_is_written_in_the_finest_unit_that_has_room() {
        for (nanos, text) in [
            (0, "0n"),
            (99_999_999, "99999999n"),
            (100_000_001, "100000u"),
            (99_999_999_999, "99999999u"),
            (100_000_000_000, "100000m"),
            (3_600_000_000_000_000, "3600000S"),
        ] {
            assert_eq!(encode_grpc(Duration::from_nanos(nanos)), text, "{nanos}");
        }
        assert_eq!(encode_grpc(Duration::MAX), "99999999H");
    }

    #[test]
    fn the_shortest_that_the_caller_says_counts() {
        let both = headers(&[(GRPC_TIMEOUT, "2S"), (OUTRIGGER_TIMEOUT, "1s"), (OUTRIGGER_TIMEOUT, "3s")]);
        assert_eq!(read(&both, true), Ok(Some(Duration::from_secs(1))));
        assert_eq!(read(&headers(&[(GRPC_TIMEOUT, "2S")]), true), Ok(Some(Duration::from_secs(2))));
        assert_eq!(read(&headers(&[]), true), Ok(None));
        assert_eq!(read(&headers(&[(GRPC_TIMEOUT, "2S")]), false), Ok(None));
    }

    #[test]
    fn a_malformed_header_of_our_own_is_no_deadline_and_is_not_sent_on() {
        let mut headers = headers(&[(OUTRIGGER_TIMEOUT, "soon"), (OUTRIGGER_TIMEOUT, "1d")]);
        assert_eq!(read(&headers, false), Ok(None));
        write(&mut headers, false, None);
        assert!(headers.is_empty());
        let long = HeaderValue::from_str(&"0".repeat(MAX_LENGTH)).unwrap();
        assert_eq!(parse(&long), Err(InvalidTimeout::Own));
    }

    #[test]
    fn a_malformed_grpc_timeout_refuses_grpc_requests_only() {
        for bad in [headers(&[(GRPC_TIMEOUT, "1s")]), headers(&[(GRPC_TIMEOUT, "1S"), (GRPC_TIMEOUT, "1S")])]
        {
            assert_eq!(read(&bad, true), Err(InvalidTimeout::Grpc));
            assert_eq!(read(&bad, false), Ok(None));
        }
    }

    #[test]
    fn the_deadline_is_written_where_its_reader_looks() {
        let mut request = headers(&[(GRPC_TIMEOUT, "2S"), (OUTRIGGER_TIMEOUT, "1s")]);
        write(&mut request, true, Some(Duration::from_millis(900)));
        assert_eq!(request, headers(&[(GRPC_TIMEOUT, "900000u")]));
        assert!(request.values().all(HeaderValue::is_sensitive), "no use to a table of what is sent often");
        let mut request = headers(&[(OUTRIGGER_TIMEOUT, "1s")]);
        write(&mut request, false, Some(Duration::from_micros(900_900)));
        assert_eq!(request, headers(&[(OUTRIGGER_TIMEOUT, "900ms")]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_never_longer(
            nanos in prop_oneof![0..1_000_000_000_u64, 0..=99_999 * 3_600_000_000_000_u64],
        ) {
            let remaining = Duration::from_nanos(nanos);
            let grpc = parse_grpc(&encode_grpc(remaining)).unwrap();
            prop_assert!(grpc <= remaining);
            prop_assert!((remaining - grpc).as_nanos() * 100_000 <= remaining.as_nanos());
            let own = parse(&encode(remaining)).unwrap();
            prop_assert!(own <= remaining && remaining - own < Duration::from_millis(1));
            // A hop that only passes it on does not wear it away.
            prop_assert_eq!(parse_grpc(&encode_grpc(grpc)), Ok(grpc));
            prop_assert_eq!(parse(&encode(own)), Ok(own));
        }

        #[test]
        fn no_value_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _either = (parse_grpc(&value), parse(&value));
            }
        }

        #[test]
        fn what_the_grammar_of_grpc_allows_is_read(text in "[0-9]{1,8}[HMSmun]") {
            prop_assert!(parse_grpc(&HeaderValue::from_str(&text).unwrap()).is_ok());
        }
    }
}
