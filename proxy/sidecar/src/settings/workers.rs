//! How many workers there are, as a number that says its range when it is none.

use std::{fmt, num::NonZeroU16};

use serde::{Deserializer, de};

/// A number of workers; whether it is too large is for `check` to say.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NonZeroU16, D::Error> {
    deserializer.deserialize_any(Visitor)
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = NonZeroU16;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 1 to 64")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<NonZeroU16, E> {
        let workers = u16::try_from(number).ok().and_then(NonZeroU16::new);
        workers.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<NonZeroU16, E> {
        let workers = u16::try_from(number).ok().and_then(NonZeroU16::new);
        workers.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }
}
