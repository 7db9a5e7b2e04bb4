//! How durations, moments and sizes are written in a scenario file: `20ms`, `64KiB`; exactly,
//! so that a plan that was written and read is the same plan.

use std::time::Duration;

/// A duration in the largest unit in which it is at least 1, with as many decimals as it takes.
#[must_use]
pub fn duration(of: Duration) -> String {
    let nanos = of.as_nanos();
    let (weight, digits, unit) = match nanos {
        0 => return "0s".to_owned(),
        1_000_000_000.. => (1_000_000_000, 9, "s"),
        1_000_000.. => (1_000_000, 6, "ms"),
        1_000.. => (1_000, 3, "us"),
        _ => (1, 0, "ns"),
    };
    let (whole, part) = (nanos / weight, nanos % weight);
    let part = format!("{part:0digits$}");
    match part.trim_end_matches('0') {
        "" => format!("{whole}{unit}"),
        part => format!("{whole}.{part}{unit}"),
    }
}

/// A size in the largest unit that divides it.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = |(weight, _): &(u64, &str)| bytes > 0 && bytes.is_multiple_of(*weight);
    match units.into_iter().find(whole) {
        Some((weight, unit)) => format!("{}{unit}", bytes / weight),
        None => format!("{bytes}"),
    }
}

/// For serde: a duration.
pub mod as_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(of: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::duration(*of))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        model::units::parse_duration(&text).map_err(de::Error::custom)
    }
}

/// For serde: a duration that may be missing.
pub mod as_duration_if_any {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        of: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match of {
            Some(of) => super::as_duration::serialize(of, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::as_duration::deserialize(from).map(Some)
    }
}

/// For serde: a time, told from the moment at which clients begin to work.
pub mod as_offset {
    use model::time::Time;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(of: &Time, to: S) -> Result<S::Ok, S::Error> {
        super::as_duration::serialize(&of.since(Time::ZERO), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        super::as_duration::deserialize(from).map(|after| Time::ZERO + after)
    }
}

/// For serde: a size in bytes.
pub mod as_size {
    use model::units::ByteSize;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(of: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::size(*of))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let size: ByteSize = text.parse().map_err(de::Error::custom)?;
        Ok(size.0)
    }
}

/// For serde: a size that may be missing.
pub mod as_size_if_any {
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(of: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match of {
            Some(of) => super::as_size::serialize(of, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        super::as_size::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use model::units::{ByteSize, parse_duration};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Duration, duration, size};

    #[test]
    fn they_read_well() {
        assert_eq!(duration(Duration::from_millis(4500)), "4.5s");
        assert_eq!(duration(Duration::from_micros(200)), "200us");
        assert_eq!(
            (size(65_536), size(1000)),
            ("64KiB".to_owned(), "1000".to_owned())
        );
    }

    proptest! {
        #[test]
        fn they_read_back_exactly(nanos in any::<u64>(), bytes in any::<u64>()) {
            let nanos = nanos / 4;
            let of = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&duration(of)), Ok(of));
            prop_assert_eq!(size(bytes).parse(), Ok(ByteSize(bytes)));
        }
    }
}
