//! Which calls a detour is for, and where it leads.

use std::collections::BTreeMap;

use super::*;

/// Numbers that are as far from each other as can be: what is shared out by them is shared out exactly.
fn evenly(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |n| (u64::MAX / count) * n + u64::MAX / count / 2)
}

fn split(shares: &[(&str, u32)]) -> Option<Split> {
    let shares = shares
        .iter()
        .map(|(name, weight)| BackendRef::new(*name, *weight));
    Split::new(shares)
}

fn detours(shares: &[(&str, u32)]) -> Detours {
    Detours {
        split: split(shares),
        ..Detours::default()
    }
}

#[test]
fn every_backend_gets_its_weight_of_the_calls() {
    for (shares, calls, expected) in [
        (&[("a", 1)][..], 10, &[("a", 10)][..]),
        (&[("a", 90), ("b", 10)], 1_000, &[("a", 900), ("b", 100)]),
        (
            &[("a", 0), ("b", 1), ("c", 0), ("d", 3)],
            400,
            &[("b", 100), ("d", 300)],
        ),
        (
            &[("a", 1_000_000), ("b", 1)],
            1_000_001,
            &[("a", 1_000_000), ("b", 1)],
        ),
    ] {
        let split = split(shares).unwrap();
        let mut found = BTreeMap::<&str, u64>::new();
        for random in evenly(calls) {
            *found.entry(split.choose(random).unwrap()).or_default() += 1;
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected, "{shares:?}");
    }
}

#[test]
fn the_ends_of_what_is_random_are_within_the_shares() {
    let split = split(&[("a", 1), ("b", u32::MAX), ("c", 1)]).unwrap();
    assert_eq!(split.choose(0).map(|name| &**name), Some("a"));
    assert_eq!(split.choose(u64::MAX).map(|name| &**name), Some("c"));
}

#[test]
fn nothing_can_be_shared_out_without_a_weight() {
    assert_eq!(split(&[]), None);
    assert_eq!(split(&[("a", 0), ("b", 0)]), None);
}

#[test]
fn own_backend_takes_part_only_when_it_is_named() {
    for (own, shares, to_own) in [
        ("a", &[("a", 1), ("b", 1)][..], 50),
        ("shop/a", &[("a", 1), ("b", 3)], 25),
        ("shop/c", &[("a", 1), ("b", 3)], 0),
    ] {
        let found = detours(shares).beside(own);
        let split = found.split.as_ref().unwrap();
        let kept = evenly(100).filter(|random| split.choose(*random).is_none());
        assert_eq!(kept.count(), to_own, "{own}");
        assert!(found.others().all(|other| **other != *own));
    }
    let found = detours(&[("a", 1), ("b", 1)]).beside("shop/a");
    assert_eq!(found.others().map(|name| &**name).collect::<Vec<_>>(), ["shop/b"]);
}

#[test]
fn shares_are_told_in_percent() {
    let found = detours(&[("a", 1), ("b", 2), ("c", 0)]);
    let expected = "shared out: a 33.3333 %, b 66.6667 %, c 0 %\n";
    assert_eq!(found.to_string(), expected);
    assert!(Detours::default().is_none() && Detours::default().to_string().is_empty());
}

#[test]
fn a_share_takes_as_many_calls_as_it_says() {
    for (percent, calls, expected) in [
        (0.0, 1_000, 0),
        (100.0, 1_000, 1_000),
        (12.5, 1_000, 125),
        (0.1, 10_000, 10),
    ] {
        let share = Share::percent(percent);
        let taken = evenly(calls).filter(|random| share.takes(*random)).count();
        assert_eq!(taken, expected, "{percent} % of {calls}");
    }
    assert!(Share::percent(100.0).takes(u64::MAX) && !Share::percent(0.0).takes(0));
}

#[test]
fn a_mirror_is_another_backend() {
    let mirrored = Detours {
        mirror: Some(Mirror {
            name: "b".into(),
            share: Share::percent(2.5),
        }),
        ..Detours::default()
    };
    let found = mirrored.clone().beside("shop/a");
    assert_eq!(found.others().map(|name| &**name).collect::<Vec<_>>(), ["shop/b"]);
    assert_eq!(found.to_string(), "copied: 2.5 % to shop/b\n");
    assert!(mirrored.beside("b").is_none());
}

#[test]
fn faults_strike_as_many_calls_as_they_say() {
    let injected = Injected {
        http: Some(StatusCode::IM_A_TEAPOT),
        grpc: None,
    };
    let faults = Faults {
        delay: Some((Duration::from_millis(1500), Share::percent(10.0))),
        abort: Some((injected, Share::percent(50.0))),
    };
    let struck = evenly(100).map(|random| faults.strike([random, u64::MAX - random]));
    let struck: Vec<_> = struck.collect();
    let delayed = struck.iter().filter(|(delay, _)| delay.is_some()).count();
    let aborted = struck
        .iter()
        .filter(|(_, abort)| *abort == Some(injected))
        .count();
    assert_eq!((delayed, aborted), (10, 50));
    assert_eq!(Faults::default().strike([0, 0]), (None, None));
    let told = Detours {
        faults: Some(faults),
        ..Detours::default()
    };
    let expected = "fault: 10 % wait 1.5s\nfault: 50 % get 418, or code 2 of gRPC\n";
    assert_eq!(told.to_string(), expected);
    assert!(!told.is_none());
}

#[test]
fn a_fault_is_told_in_either_tongue() {
    for (http, grpc, status, code) in [
        (Some(503), None, 503, 14),
        (Some(429), None, 429, 8),
        (Some(404), None, 404, 12),
        (Some(418), None, 418, 2),
        (None, Some(8), 429, 8),
        (None, Some(14), 503, 14),
        (Some(500), Some(4), 500, 4),
    ] {
        let injected = Injected {
            http: http.map(|status| StatusCode::from_u16(status).unwrap()),
            grpc: grpc.map(|code| Code::new(code).unwrap()),
        };
        let told = (injected.status().as_u16(), injected.code().number());
        assert_eq!(told, (status, code), "{injected:?}");
    }
    assert_eq!(Code::new(17), None);
}
