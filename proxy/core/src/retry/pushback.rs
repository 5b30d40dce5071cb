//! What a response says about trying again: `grpc-retry-pushback-ms` (gRFC A6), `retry-after` (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

/// A longer wait than this is left to the client: the answer that asks for it is delivered.
pub const MAX_PUSHBACK: Duration = Duration::from_secs(5);

/// gRPC's word, in milliseconds.
pub const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What a server asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Not to try again.
    Never,
    /// To try again after so long, not before.
    After(Duration),
}

/// What the headers of a response, or its trailers, ask for. gRPC's word goes before HTTP's: a number that is negative
/// or none at all means never. A `retry-after` that is neither seconds nor a date says nothing; a date is compared with
/// `wall`, this machine's clock.
pub fn pushback(fields: &HeaderMap, wall: SystemTime) -> Option<Pushback> {
    match (fields.get(GRPC_PUSHBACK), fields.get(RETRY_AFTER)) {
        (Some(millis), _) => Some(grpc(millis)),
        (None, Some(after)) => retry_after(after, wall).map(Pushback::After),
        (None, None) => None,
    }
}

fn grpc(millis: &HeaderValue) -> Pushback {
    let millis: Option<u64> =
        millis.to_str().ok().filter(|text| is_number(text)).and_then(|text| text.parse().ok());
    millis.map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis)))
}

fn retry_after(after: &HeaderValue, wall: SystemTime) -> Option<Duration> {
    let text = after.to_str().ok()?;
    if is_number(text) {
        // More digits than fit are longer than anybody waits.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(SystemTime::from(date).duration_since(wall).unwrap_or_default())
}

/// Digits only: Rust would also take a sign.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One second before the example of RFC 9110 §5.6.7.
    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_776)
    }

    fn asked(name: HeaderName, text: &str) -> Option<Pushback> {
        pushback(&HeaderMap::from_iter([(name, HeaderValue::from_str(text).unwrap())]), wall())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        for (text, expected) in [
            ("0", Some(Duration::ZERO)),
            ("120", Some(Duration::from_secs(120))),
            ("99999999999999999999999", Some(Duration::from_secs(u64::MAX))),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(Duration::from_secs(1))),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(Duration::ZERO)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(asked(RETRY_AFTER, text), expected.map(Pushback::After), "{text:?}");
        }
    }

    #[test]
    fn a_pushback_that_is_no_number_means_never() {
        assert_eq!(asked(GRPC_PUSHBACK, "250"), Some(Pushback::After(Duration::from_millis(250))));
        for text in ["-1", "+1", "", "soon", "99999999999999999999999"] {
            assert_eq!(asked(GRPC_PUSHBACK, text), Some(Pushback::Never), "{text:?}");
        }
    }

    #[test]
    fn the_word_of_grpc_goes_first_and_silence_is_nothing() {
        let both = HeaderMap::from_iter([
            (RETRY_AFTER, HeaderValue::from_static("1")),
            (GRPC_PUSHBACK, HeaderValue::from_static("-1")),
        ]);
        assert_eq!(pushback(&both, wall()), Some(Pushback::Never));
        assert_eq!(pushback(&HeaderMap::new(), wall()), None);
    }

    proptest! {
        #[test]
        fn no_value_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                for name in [RETRY_AFTER, GRPC_PUSHBACK] {
                    let _any = pushback(&HeaderMap::from_iter([(name, value.clone())]), wall());
                }
            }
        }
    }
}
