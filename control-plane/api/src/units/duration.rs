//! A span of time with its unit.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A span of time: numbers with the units `h`, `m`, `s`, `ms`, `us` or `ns`, such as `2ms`,
/// `1h30m` or `1.5s`; or `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub StdDuration);

impl Duration {
    /// That many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(StdDuration::from_millis(millis))
    }

    /// That many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(StdDuration::from_secs(secs))
    }
}

impl FromStr for Duration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        if text == "0" {
            return Ok(Self::default());
        }
        let mut rest = text;
        let mut nanos = 0_u128;
        // At least once, so that the empty text is none.
        loop {
            let number = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or(NotADuration)?;
            let (digits, behind) = rest.split_at(number);
            let unit_end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
            let (unit, next) = behind.split_at(unit_end);
            let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(NotADuration)?;
            nanos = nanos
                .checked_add(scaled(digits, *scale).ok_or(NotADuration)?)
                .ok_or(NotADuration)?;
            if next.is_empty() {
                break;
            }
            rest = next;
        }
        let nanos = u64::try_from(nanos).map_err(|_| NotADuration)?;
        Ok(Self(StdDuration::from_nanos(nanos)))
    }
}

/// `digits` with an optional fraction, times `scale`; only when that is a whole number.
pub(super) fn scaled(digits: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    // Bounds on length keep the sums below within 128 bits.
    if whole.is_empty()
        || whole.len() > 18
        || fraction.len() > 9
        || !all_digits(whole)
        || !all_digits(fraction)
    {
        return None;
    }
    if fraction.is_empty() && digits.contains('.') {
        return None;
    }
    let tenths = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<u128>().ok()?
    };
    let total = (whole.parse::<u128>().ok()? * tenths + parts) * u128::from(scale);
    total.is_multiple_of(tenths).then(|| total / tenths)
}

impl Display for Duration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in UNITS {
            let count = nanos / u128::from(scale);
            nanos %= u128::from(scale);
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// The text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration such as 2ms, 10s or 1h30m")]
pub struct NotADuration;

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Duration;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as 2ms, 10s or 1h30m")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
                text.parse()
                    .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Duration, E> {
                // Zero of every unit is the same.
                if number == 0 {
                    Ok(Duration::default())
                } else {
                    Err(E::invalid_type(Unexpected::Unsigned(number), &self))
                }
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "duration",
            "pattern": r"^(0|([0-9]+(\.[0-9]+)?(h|m|s|ms|us|µs|ns))+)$",
        })
    }
}

/// Largest first. Both spellings of the microsecond are read, the first one is written.
const UNITS: [(&str, u64); 7] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];
