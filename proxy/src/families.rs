//! Addresses on a machine that has no IPv6, or no IPv6 of its own: flags name both families, so that one line
//! does everywhere.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

/// Those of `addresses` that this machine can have: where it knows no IPv6 at all, `[::]` is every address of
/// IPv4, and a loopback address of a family that it does not have is left out if there is another. What else
/// cannot be bound is a mistake, and stays.
pub fn here(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    kept(addresses, |ip| {
        let refused = TcpListener::bind((ip, 0)).map(drop).err();
        refused.is_none_or(|error| !is_absence(&error))
    })
}

fn kept(addresses: &[SocketAddr], is_here: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    let (of_all, of_all_v4) = (Ipv6Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    let mut kept = Vec::with_capacity(addresses.len());
    for address in addresses {
        let is_fallible = address.ip().is_loopback() || address.ip() == of_all;
        if !is_fallible || is_here(address.ip()) {
            kept.push(*address);
        } else if address.ip() == of_all {
            let of_v4 = SocketAddr::new(of_all_v4.into(), address.port());
            kept.extend((!kept.contains(&of_v4)).then_some(of_v4));
        }
    }
    if kept.is_empty() {
        return addresses.to_vec();
    }
    kept
}

/// The addresses that this machine, or this pod, has; none where that cannot be told.
pub fn own() -> HashSet<IpAddr> {
    let interfaces = getifaddrs().map_err(|error| {
        tracing::warn!(%error, "the addresses of this machine are not known");
    });
    let addresses = interfaces.into_iter().flatten();
    let ip = |interface: InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
    };
    addresses.filter_map(ip).collect()
}

/// Whether an error says that a machine has no such address, rather than that it may not be had.
fn is_absence(error: &io::Error) -> bool {
    let absent = [nix::errno::Errno::EAFNOSUPPORT, nix::errno::Errno::EADDRNOTAVAIL];
    absent
        .iter()
        .any(|absent| error.raw_os_error() == Some(*absent as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], absent: &[&str], expected: &[&str]) {
        let parsed =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let is_here = |ip: IpAddr| !absent.contains(&ip.to_string().as_str());
        assert_eq!(
            kept(&parsed(addresses), is_here),
            parsed(expected),
            "{addresses:?}"
        );
    }

    #[test]
    fn the_loopback_address_is_its_own() {
        assert!(own().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn one_line_does_with_and_without_ipv6() {
        let (both, all) = (["127.0.0.1:1", "[::1]:1"], ["[::]:2"]);
        check(&both, &[], &both);
        check(&all, &[], &all);
        check(&both, &["::1"], &["127.0.0.1:1"]);
        check(&both, &["127.0.0.1"], &["[::1]:1"]);
        check(&all, &["::", "::1"], &["0.0.0.0:2"]);
        check(&["0.0.0.0:2", "[::]:2"], &["::"], &["0.0.0.0:2"]);
    }

    #[test]
    fn mistakes_stay() {
        check(&["[::1]:1"], &["::1"], &["[::1]:1"]);
        check(
            &["[fd77::1]:1", "127.0.0.1:1"],
            &["fd77::1"],
            &["[fd77::1]:1", "127.0.0.1:1"],
        );
        check(&[], &[], &[]);
    }

    #[test]
    fn what_this_machine_has_is_kept() {
        let loopback = ["127.0.0.1:7".parse().unwrap()];
        assert_eq!(here(&loopback), loopback);
    }
}
