//! Sizes and durations as people write them: `8GiB`, `20ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A number of bytes; written as `512`, `64KiB`, `1.5GiB`, `10GB`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Suffixes with their weights; binary ones first, the decimal ones are SI's.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("b", 1),
    ("", 1),
];

const TIME_UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A size or a duration does not parse.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UnitError {
    /// No size.
    #[error("'{0}' is no size: write a number and a unit, such as 4096, 64KiB or 8GiB")]
    Size(String),
    /// No duration.
    #[error("'{0}' is no duration: write a number and a unit, such as 500us, 20ms or 1s")]
    Duration(String),
}

/// Reads `number unit` in base units, rounded down; `None` when it is none.
fn parse_scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let suffix = suffix.trim().to_ascii_lowercase();
    let weight = units.iter().find(|(name, _)| *name == suffix)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_fractional = number.contains('.');
    if whole.is_empty()
        || fraction.len() > 9
        || is_fractional && (fraction.is_empty() || weight == 1)
    {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = whole.parse::<u64>().ok()?.into();
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<u64>().ok()?.into()
    };
    let scaled = (digits * scale + fraction) * u128::from(weight);
    u64::try_from(scaled / scale).ok()
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_scaled(text, &SIZE_UNITS)
            .map(Self)
            .ok_or_else(|| UnitError::Size(text.to_owned()))
    }
}

/// The largest binary unit in which it is at least 1, with up to two decimals.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (1_u64 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        let Some((weight, name)) = units.into_iter().find(|(weight, _)| self.0 >= *weight) else {
            return f.pad(&format!("{} B", self.0));
        };
        let hundredths = u128::from(self.0) * 100 / u128::from(weight);
        let text = match (hundredths / 100, hundredths % 100) {
            (whole, 0) => format!("{whole} {name}"),
            (whole, part) if part % 10 == 0 => format!("{whole}.{} {name}", part / 10),
            (whole, part) => format!("{whole}.{part:02} {name}"),
        };
        f.pad(&text)
    }
}

/// Reads `500us`, `20ms`, `1.5s`, `2min`, `4h`; a bare `0` is zero.
///
/// # Errors
/// [`UnitError::Duration`] when it is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    parse_scaled(text, &TIME_UNITS)
        .map(Duration::from_nanos)
        .ok_or_else(|| UnitError::Duration(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{ByteSize, Duration, UnitError, parse_duration};

    #[test]
    fn sizes_parse_as_people_write_them() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("1GiB", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("10G", 10 << 30),
            ("10GB", 10_000_000_000),
            ("16777215TiB", 16_777_215 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "GiB",
            "-1",
            "1.GiB",
            ".5GiB",
            "1e9",
            "1XiB",
            "16777216TiB",
            "1.5",
        ] {
            assert_eq!(
                text.parse::<ByteSize>(),
                Err(UnitError::Size(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn durations_parse() {
        assert_eq!(parse_duration("0ms"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("4h"), Ok(Duration::from_secs(4 * 3600)));
        assert!(parse_duration("20").is_err());
        assert!(parse_duration("20 parsecs").is_err());
    }

    #[test]
    fn sizes_print_short() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 30, "1 GiB"),
            (3 << 29, "1.5 GiB"),
            ((1 << 30) + 1, "1 GiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>9}", ByteSize(4096)), "    4 KiB");
    }

    proptest! {
        #[test]
        fn any_byte_count_survives(bytes in any::<u64>()) {
            prop_assert_eq!(format!("{bytes}").parse(), Ok(ByteSize(bytes)));
            prop_assert_eq!(format!("{bytes}B").parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn what_is_printed_reads_back_within_a_percent(bytes in 0_u64..1 << 50) {
            let shown: ByteSize = ByteSize(bytes).to_string().parse().expect("a printed size parses");
            prop_assert!(shown.0 <= bytes && bytes - shown.0 <= bytes / 100);
        }
    }
}
