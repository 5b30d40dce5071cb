//! Durations and points in time on the wire. Both directions are total: what the other side cannot hold is `None` when
//! it is decoded, and the nearest value that it can hold when it is encoded.

use std::time::{Duration, SystemTime};

/// The longest duration that protobuf defines, seconds: about 10 000 years.
const MAX_DURATION: u64 = 315_576_000_000;
/// 0001-01-01T00:00:00Z, seconds since the epoch: the first timestamp that protobuf defines.
const MIN_TIMESTAMP: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last one.
const MAX_TIMESTAMP: i64 = 253_402_300_799;
const NANOS: i32 = 1_000_000_000;

/// A duration; `None` when it is negative, malformed or longer than 10 000 years.
pub fn decode_duration(wire: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(wire.seconds).ok().filter(|seconds| *seconds <= MAX_DURATION)?;
    let nanos = u32::try_from(wire.nanos).ok().filter(|_| wire.nanos < NANOS)?;
    Some(Duration::new(seconds, nanos))
}

/// Encodes a duration; one longer than 10 000 years becomes that.
pub fn encode_duration(duration: Duration) -> prost_types::Duration {
    let bounded = duration.min(Duration::from_secs(MAX_DURATION));
    prost_types::Duration {
        seconds: i64::try_from(bounded.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(bounded.subsec_nanos()).unwrap_or(0),
    }
}

/// A point in time; `None` when it is malformed or outside the years 1 to 9999.
pub fn decode_timestamp(wire: &prost_types::Timestamp) -> Option<SystemTime> {
    if !(MIN_TIMESTAMP..=MAX_TIMESTAMP).contains(&wire.seconds) || wire.nanos >= NANOS {
        return None;
    }
    let nanos = Duration::from_nanos(u64::try_from(wire.nanos).ok()?);
    let seconds = Duration::from_secs(wire.seconds.unsigned_abs());
    let whole = if wire.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole?.checked_add(nanos)
}

/// Encodes a point in time; one outside the years 1 to 9999 becomes the nearest inside.
pub fn encode_timestamp(time: SystemTime) -> prost_types::Timestamp {
    let (seconds, nanos) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                // The wire's nanoseconds count forwards, also before the epoch.
                nanos => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
            }
        }
    };
    if seconds < MIN_TIMESTAMP {
        return prost_types::Timestamp { seconds: MIN_TIMESTAMP, nanos: 0 };
    }
    if seconds > MAX_TIMESTAMP {
        return prost_types::Timestamp { seconds: MAX_TIMESTAMP, nanos: NANOS - 1 };
    }
    prost_types::Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_durations_are_none() {
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (1, NANOS), (i64::MAX, 0), (i64::MIN, i32::MIN), (315_576_000_001, 0)]
        {
            assert_eq!(decode_duration(&prost_types::Duration { seconds, nanos }), None, "{seconds} {nanos}");
        }
        assert_eq!(encode_duration(Duration::MAX).seconds, 315_576_000_000);
    }

    #[test]
    fn malformed_timestamps_are_none() {
        for (seconds, nanos) in [(i64::MIN, 0), (i64::MAX, 0), (0, -1), (0, NANOS), (MAX_TIMESTAMP + 1, 0)] {
            assert_eq!(
                decode_timestamp(&prost_types::Timestamp { seconds, nanos }),
                None,
                "{seconds} {nanos}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_duration_survives_the_wire(seconds in 0..=MAX_DURATION, nanos in 0..1_000_000_000_u32) {
            let duration = Duration::new(seconds, nanos).min(Duration::from_secs(MAX_DURATION));
            prop_assert_eq!(decode_duration(&encode_duration(duration)), Some(duration));
        }

        #[test]
        fn a_timestamp_survives_the_wire(seconds in MIN_TIMESTAMP..=MAX_TIMESTAMP, nanos in 0..NANOS) {
            let wire = prost_types::Timestamp { seconds, nanos };
            prop_assert_eq!(encode_timestamp(decode_timestamp(&wire).unwrap()), wire);
        }

        #[test]
        fn no_time_on_the_wire_panics(seconds: i64, nanos: i32) {
            let _ = decode_duration(&prost_types::Duration { seconds, nanos });
            if let Some(time) = decode_timestamp(&prost_types::Timestamp { seconds, nanos }) {
                let _ = encode_timestamp(time);
            }
        }
    }
}
