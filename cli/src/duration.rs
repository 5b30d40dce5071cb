//! Durations on the command line and in tables.

use std::time::{Duration, SystemTime};

/// Parses `1h30m`, `10s`, `250ms` (GEP-2257): whole numbers, each unit at most once, largest first.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const REMEDY: &str = "write a duration such as 10s, 250ms or 1m30s";
    const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|letter: char| letter.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = units.find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let value = number.parse::<u64>().ok().filter(|_| number.len() <= 9);
        match (value, factor) {
            (Some(value), Some(factor)) => total += value * factor,
            _ => return Err(REMEDY.to_owned()),
        }
        rest = tail;
    }
    if total == 0 {
        return Err(REMEDY.to_owned());
    }
    Ok(Duration::from_millis(total))
}

/// Renders a latency with three significant digits: `840µs`, `1.31ms`, `24.5ms`, `2.00s`; `-` for none.
pub(crate) fn latency(time: Option<Duration>) -> String {
    let Some(time) = time else {
        return "-".to_owned();
    };
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        m if m < 0.5 => "0".to_owned(),
        m if m < 999.5 => format!("{m:.0}µs"),
        m if m < 9_995.0 => format!("{:.2}ms", m / 1e3),
        m if m < 99_950.0 => format!("{:.1}ms", m / 1e3),
        m if m < 999_500.0 => format!("{:.0}ms", m / 1e3),
        m => format!("{:.2}s", m / 1e6),
    }
}

/// Renders an age or a remaining time with its two largest units: `3d4h`, `12m`, `45s`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let pair = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// Renders how long ago `at` was; `-` for none.
pub(crate) fn age(at: Option<SystemTime>, now: SystemTime) -> String {
    at.map_or_else(|| "-".to_owned(), |at| span(now.duration_since(at).unwrap_or_default()))
}

/// Renders how far off `at` is; `-` for none.
pub(crate) fn until(at: Option<SystemTime>, now: SystemTime) -> String {
    match at.map(|at| at.duration_since(now)) {
        None => "-".to_owned(),
        Some(Ok(left)) => format!("in {}", span(left)),
        Some(Err(_past)) => "expired".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{latency, parse, span};

    #[test]
    fn durations_are_whole_numbers_with_units() {
        for (text, millis) in
            [("10s", 10_000), ("250ms", 250), ("1m30s", 90_000), ("1h", 3_600_000), ("2h0m1s5ms", 7_201_005)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "1s1m", "1s1s", "0s", "1d", "1 s", "9999999999s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_latency_has_three_significant_digits() {
        for (micros, text) in [
            (0, "0"),
            (7, "7µs"),
            (999, "999µs"),
            (1_310, "1.31ms"),
            (24_540, "24.5ms"),
            (250_000, "250ms"),
            (2_000_000, "2.00s"),
        ] {
            assert_eq!(latency(Some(Duration::from_micros(micros))), text);
        }
        assert_eq!(latency(None), "-");
    }

    #[test]
    fn a_span_has_its_two_largest_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m1s"), (7_200, "2h"), (273_600, "3d4h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
