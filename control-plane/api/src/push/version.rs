//! Versions of resources.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// A resource's version: a hash of its content, so that every replica, and the same one after a
/// restart, gives the same content the same version. Displays as 32 hexadecimal digits.
///
/// The hash is FNV-1a of 128 bits (draft-eastlake-fnv): it tells one content of a name from the
/// next, and protects from nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    /// The version of a content.
    pub fn of(content: &[u8]) -> Self {
        let hash = content.iter().fold(OFFSET, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
        });
        Self(hash)
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotAVersion);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| NotAVersion)
    }
}

/// The text is no version of Jitney's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hexadecimal digits")]
pub struct NotAVersion;

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        assert_eq!(Version::of(b"").to_string(), "6c62272e07bb014262b821756295c58d");
        assert_eq!(Version::of(b"a").to_string(), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(
            Version::of(b"foobar").to_string(),
            "343e1662793c64bf6f0d3597ba446f18"
        );
    }

    #[test]
    fn reads_what_it_writes() {
        let version = Version::of(b"content");
        assert_eq!(version.to_string().parse(), Ok(version));
        for wrong in [
            "",
            "12",
            "+2345678901234567890123456789012",
            "zz62272e07bb014262b821756295c58d",
        ] {
            assert_eq!(wrong.parse::<Version>(), Err(NotAVersion), "{wrong}");
        }
    }
}
