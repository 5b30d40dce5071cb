//! Durations in settings, as everywhere in Outrigger: `1h30m`, `10s`, `250ms` (GEP-2257).

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Units from the largest to the smallest, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&render(*value))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| {
        D::Error::custom(format!(
            "'{text}' is not a duration: write whole numbers with h, m, s or ms, like 1m30s"
        ))
    })
}

fn render(value: Duration) -> String {
    let mut rest = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, millis) in UNITS {
        let count = rest / millis;
        rest %= millis;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        // GEP-2257: at most five digits, so that nothing overflows.
        let count: u64 = (number.len() <= 5).then(|| number.parse().ok())??;
        // "ms" before "m" and "s".
        let (unit, millis) = UNITS.into_iter().rev().find(|(unit, _)| after.starts_with(unit))?;
        rest = after.strip_prefix(unit)?;
        total = total.checked_add(count.checked_mul(millis)?)?;
    }
    Some(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_survives_a_round_trip() {
        for text in ["0s", "1s", "250ms", "1m30s", "1h", "2h45m10s500ms"] {
            assert_eq!(render(parse(text).unwrap()), text);
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in ["", "1", "s", "1.5s", "-1s", "1d", "1 s", "100000s", "10s5"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
