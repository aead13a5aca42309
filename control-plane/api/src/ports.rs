//! Ports and ranges of them, as flags and rules write them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Ports: ascending, and no two ranges that could be one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

/// A text that is not [`Ports`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a port nor a range: expected such as 22 or 5000-5010, comma separated")]
pub struct BadPorts(String);

impl Ports {
    /// Whether a port is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// True without any.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These and one more.
    #[must_use]
    pub fn with(&self, port: u16) -> Self {
        Self::of(self.0.iter().cloned().chain([port..=port]).collect())
    }

    /// Each range, the first and the last port apart by `to`.
    pub fn written<'p>(&'p self, to: &'p str) -> impl Iterator<Item = String> + 'p {
        self.0
            .iter()
            .map(move |range| match (range.start(), range.end()) {
                (one, other) if one == other => one.to_string(),
                (first, last) => format!("{first}{to}{last}"),
            })
    }

    fn of(mut ranges: Vec<RangeInclusive<u16>>) -> Self {
        ranges.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for Ports {
    /// As flags take them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written("-").collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Ports {
    type Err = BadPorts;

    fn from_str(text: &str) -> Result<Self, BadPorts> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let port = |word: &str| word.trim().parse::<u16>().ok().filter(|port| *port > 0);
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some(first..=last)
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let ranges = text
            .split(',')
            .map(|part| range(part.trim()).ok_or_else(|| BadPorts(part.trim().chars().take(64).collect())));
        ranges.collect::<Result<_, _>>().map(Self::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_meet_become_one() {
        let ports: Ports = "5000-5010, 22,5011,4000-4001,5005-5020".parse().unwrap();
        let written: Vec<String> = ports.written("-").collect();
        assert_eq!(written, ["22", "4000-4001", "5000-5020"]);
        assert_eq!(ports.with(23).written(":").next().unwrap(), "22:23");
        assert_eq!(ports.to_string(), "22,4000-4001,5000-5020");
        assert!("".parse::<Ports>().unwrap().is_empty());
        let most: Ports = "65535,1-65534".parse().unwrap();
        assert_eq!(most.written("-").collect::<Vec<_>>(), ["1-65535"]);
    }

    #[test]
    fn what_is_no_port_is_named() {
        for (text, part) in [
            ("22,x", "x"),
            ("0", "0"),
            ("9-8", "9-8"),
            ("22,,23", ""),
            ("70000", "70000"),
        ] {
            assert_eq!(text.parse::<Ports>(), Err(BadPorts(part.into())), "{text}");
        }
    }
}
