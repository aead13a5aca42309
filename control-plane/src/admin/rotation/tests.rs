//! What a step waits for, and in which words.

use std::time::{Duration, UNIX_EPOCH};

use jitney_api::Workload;

use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn root(state: RootState) -> Root {
    Root::generate("example.org", state, now()).unwrap()
}

fn workload(account: &str) -> Workload {
    Workload {
        namespace: "shop".into(),
        account: account.into(),
    }
}

fn sidecars(connected: usize, trust: &[(&Root, usize)], behind: &[&str]) -> Trusting {
    Trusting {
        connected,
        trusting: trust.iter().map(|(root, count)| (root.id, *count)).collect(),
        behind: behind.iter().map(ToString::to_string).collect(),
        ..Trusting::default()
    }
}

#[track_caller]
fn check(standing: &Standing, root: Root, waits_for: usize, text: &str) {
    let (id, step) = (root.id.to_string(), standing.next_step(&[root], now()));
    assert_eq!(step.text.replace(&id, "X"), text);
    assert_eq!(step.waits_for, waits_for, "{text}");
}

#[test]
fn a_switch_waits_for_every_replica_and_names_a_few() {
    let next = root(RootState::Next);
    let mut standing = Standing {
        own: sidecars(5, &[(&next, 3)], &["shop/users a", "shop/users b"]),
        ..Standing::default()
    };
    let other = sidecars(4, &[], &["shop/orders c", "shop/orders d", "shop/orders e"]);
    standing.others.sidecars = vec![other, sidecars(2, &[(&next, 2)], &[])];
    standing.others.silent = vec!["replica 17, with 3 sidecars, has been silent for 31 s".into()];
    let text = "6 of 11 connected sidecars do not trust root X yet: shop/users a, shop/users b, shop/orders c \
                and 3 others; replica 17, with 3 sidecars, has been silent for 31 s";
    check(&standing, next, 6, text);
}

#[test]
fn who_has_gone_without_a_word_is_named_and_not_waited_for() {
    let mut standing = Standing::default();
    standing.others.silent = vec!["replica 17 is silent".into()];
    let text = "no sidecar is connected; replica 17 is silent";
    check(&standing, root(RootState::Next), 0, text);
    standing.others.faults = vec!["18.json: EOF".into()];
    let text = format!("{text}; 18.json: EOF");
    check(&standing, root(RootState::Next), 1, &text);
}

#[test]
fn a_switch_waits_for_replicas_that_have_not_heard_of_the_root() {
    let next = root(RootState::Next);
    let mut standing = Standing::default();
    standing.others.roots = vec![vec![next.id], vec![]];
    check(
        &standing,
        next,
        1,
        "no sidecar is connected; 1 of the other replicas have not said yet how \
         theirs stand to it, and are waited for until they have been silent for 30 s",
    );
}

#[test]
fn a_switch_waits_for_who_is_away_and_names_it() {
    let mut standing = Standing {
        own: sidecars(0, &[], &[]),
        ..Standing::default()
    };
    standing.unaware.workloads = [(workload("users"), 2)].into();
    standing.unaware.nodes = [(workload("users"), ["a".to_owned(), "b".to_owned()].into())].into();
    standing.unaware.last = Some(now() + LIFETIME);
    // Of these nobody can say whose they are: they would be waited for for ever.
    standing.unaware.uncounted = 3;
    let text = "no sidecar is connected; 2 alive of the certificates whose sidecars have \
                not said that they trust it: 2 of shop/users (a, b) and 3 others; the last one expires at \
                2027-01-16T08:00:00Z; who is away is waited for until it comes back, is started anew under its \
                name, or its certificate expires";
    check(&standing, root(RootState::Next), 2, text);
    standing.unaware = Living {
        unknown_until: Some(now() + LIFETIME),
        ..Living::default()
    };
    let text = "no sidecar is connected; there may be others, which were never noted, until \
                2027-01-16T08:00:00Z";
    check(&standing, root(RootState::Next), 1, text);
}

#[test]
fn a_drop_waits_for_certificates_wherever_their_owners_are() {
    let old = root(RootState::Old);
    let mut standing = Standing::default();
    standing.own.connected = 7;
    standing.own.holding = [(old.id, 2)].into();
    standing.living.certificates = [(old.id, 11)].into();
    let owners = [("users", 4), ("orders", 2), ("carts", 1), ("stock", 1)];
    standing.living.workloads = owners.map(|(account, count)| (workload(account), count)).into();
    standing.living.nodes = [(workload("users"), ["a".to_owned(), "b".to_owned()].into())].into();
    standing.living.uncounted = 3;
    standing.living.last = Some(now() + LIFETIME);
    let text = "11 alive of the certificates that root X signed: 4 of shop/users (a, b and 2 others), 2 of shop/orders, 1 of shop/carts \
                and 4 others; the last one expires at 2027-01-16T08:00:00Z; 2 of 7 connected sidecars use one; who \
                is away is waited for until it comes back, is started anew under its name, or its certificate expires";
    check(&standing, old, 11, text);
}

#[test]
fn where_replicas_know_nothing_of_each_other_a_step_waits_until_nobody_can_be_cut_off() {
    let standing = Standing {
        is_apart: true,
        ..Standing::default()
    };
    let told = "what is known here of sidecars is not all, as other replicas keep what they know to themselves: \
                whoever has a good certificate has followed at 2027-01-16T09:00:00Z";
    let none = "no certificate is alive that root X signed";
    for (state, begin) in [
        (RootState::Next, "no sidecar is connected"),
        (RootState::Old, none),
    ] {
        check(&standing, root(state), 1, &format!("{begin}; {told}"));
        let root = [root(state)];
        assert_eq!(standing.next_step(&root, now() + EVERYONE_KNOWS).waits_for, 0);
    }
    assert_eq!(
        standing.next_step(&[root(RootState::Issuing)], now()).waits_for,
        0
    );
}

#[test]
fn a_drop_waits_for_what_is_not_known() {
    let mut standing = Standing::default();
    let none = "no certificate is alive that root X signed";
    check(&standing, root(RootState::Old), 0, none);
    standing.living.unknown_until = Some(now() + LIFETIME);
    let text = format!("{none}; there may be others, which were never noted, until 2027-01-16T08:00:00Z");
    check(&standing, root(RootState::Old), 1, &text);
    standing.living.unknown_until = None;
    standing.living.fault = Some("certificates: line 3: expected more".into());
    let text = format!("{none}; certificates: line 3: expected more");
    check(&standing, root(RootState::Old), 1, &text);
}
