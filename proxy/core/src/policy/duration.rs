//! Durations as the Gateway API writes them (GEP-2257): `1s`, `250ms`, `1h30m`.

use std::{fmt::Write, time::Duration};

/// A text that is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a duration: one to four numbers of at most five digits, each with a unit h, m, s or ms")]
pub struct InvalidDuration;

const UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// Reads a duration.
///
/// # Errors
/// When `text` does not follow the grammar: `([0-9]{1,5}(h|m|s|ms)){1,4}`.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text;
    let mut total: u64 = 0;
    for _ in 0..4 {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at_checked(digits).ok_or(InvalidDuration)?;
        if !(1..=5).contains(&digits) {
            return Err(InvalidDuration);
        }
        let number: u64 = number.parse().map_err(|_not_a_number| InvalidDuration)?;
        let (after, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| after.strip_prefix(name).map(|after| (after, *unit)))
            .ok_or(InvalidDuration)?;
        total = number.checked_mul(unit).and_then(|more| total.checked_add(more)).ok_or(InvalidDuration)?;
        rest = after;
        if rest.is_empty() {
            return Ok(Duration::from_millis(total));
        }
    }
    Err(InvalidDuration)
}

/// Writes a duration, with the largest units that fit; less than a millisecond is cut off. One of more than 99 999
/// hours is written as that.
pub fn format(duration: Duration) -> String {
    const MAX: u128 = 99_999 * 3_600_000;
    let mut rest = duration.as_millis().min(MAX);
    let mut text = String::new();
    for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        let count = rest / millis;
        rest %= millis;
        if count > 0 {
            // Writing into a String cannot fail.
            let _infallible = write!(text, "{count}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_proposal() {
        for (text, millis) in [
            ("0h", 0),
            ("0s", 0),
            ("0h0m0s", 0),
            ("1h", 3_600_000),
            ("30m", 1_800_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("2h30m", 9_000_000),
            ("150m", 9_000_000),
            ("1h30m10s", 5_410_000),
            ("10s500ms", 10_500),
            ("5s5h", 18_005_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_not_one() {
        for text in [
            "",
            "1",
            "s",
            "1d",
            "-1s",
            "+1s",
            "1.5s",
            " 1s",
            "1s ",
            "1 s",
            "1S",
            "1us",
            "100000s",
            "1h1m1s1ms1s",
            "1sm",
            "١s",
            "1m s",
            "1e3s",
            "infinity",
        ] {
            assert_eq!(parse(text), Err(InvalidDuration), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(millis in 0..=99_999_u64 * 3_600_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = parse(&text);
        }
    }
}
