//! Addresses that share a prefix.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::str::FromStr;

/// A network, such as `10.0.0.0/8` or `fd00::/8`; an address alone is one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    address: IpAddr,
    bits: u8,
}

/// A text that is not a [`Subnet`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no subnet: expected such as 10.0.0.0/8 or fd00::/8, without bits behind the prefix")]
pub struct BadSubnet(String);

impl Subnet {
    /// Whether it is of IPv4.
    pub(super) const fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let read = |text: &str| {
            let (address, bits) = text.split_once('/').unwrap_or((text, ""));
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits: u8 = if text.contains('/') {
                bits.parse().ok()?
            } else {
                most
            };
            let behind = match address {
                IpAddr::V4(address) => u32::from(address).checked_shl(bits.into()).unwrap_or(0).into(),
                IpAddr::V6(address) => u128::from(address).checked_shl(bits.into()).unwrap_or(0),
            };
            (bits <= most && behind == 0).then_some(Self { address, bits })
        };
        read(text.trim()).ok_or_else(|| BadSubnet(text.chars().take(64).collect()))
    }
}

impl Display for Subnet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let whole = if self.is_v4() { 32 } else { 128 };
        match self.bits {
            bits if bits == whole => write!(f, "{}", self.address),
            bits => write!(f, "{}/{bits}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_written_as_they_are_listed() {
        for (text, written) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("::1/128", "::1"),
        ] {
            assert_eq!(text.parse::<Subnet>().unwrap().to_string(), written);
        }
        for bad in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "fd00::1/64",
            "x",
            "",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
