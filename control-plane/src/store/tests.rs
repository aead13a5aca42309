//! Sets, what changes between them, and who sees what.

use jitney_api::push::View as _;

use super::*;

fn workload(account: &str) -> Workload {
    Workload {
        namespace: "shop".into(),
        account: account.into(),
    }
}

fn recipient(account: &str) -> Recipient {
    Recipient {
        workload: workload(account),
        node: String::new(),
    }
}

fn pushed(kind: Kind, name: &str, content: &'static str, readers: &[&str]) -> Pushed {
    let readers = if readers.is_empty() {
        Readers::Everyone
    } else {
        Readers::Workloads(readers.iter().map(|account| workload(account)).collect())
    };
    Pushed {
        kind,
        name: name.into(),
        held: Held::from(content.as_bytes()),
        readers,
    }
}

fn shop() -> Vec<Pushed> {
    vec![
        pushed(Kind::Policy, "shop/users", "1", &["users"]),
        pushed(Kind::Policy, "shop/out", "1", &[]),
        pushed(Kind::Backend, "shop/users", "1", &[]),
        pushed(Kind::Endpoint, "shop/users/1", "1", &[]),
        pushed(Kind::Endpoint, "shop/users/2", "1", &[]),
        pushed(Kind::Endpoint, "shop/users2/1", "1", &[]),
        pushed(Kind::TrustBundle, "example.org", "1", &[]),
    ]
}

fn names(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

fn changed(snapshot: &Snapshot, since: u64) -> Option<Vec<(Kind, &str)>> {
    let changes = snapshot.since(since)?;
    Some(changes.map(|(kind, name)| (*kind, &**name)).collect())
}

#[test]
fn who_may_read_what() {
    let store = Store::default();
    assert!(store.replace(shop()));
    let snapshot = store.snapshot();
    let (users, orders) = (recipient("users"), recipient("orders"));
    let (users, orders) = (snapshot.to(&users), snapshot.to(&orders));
    assert!(users.get(Kind::Policy, "shop/users").is_some());
    assert_eq!(
        orders.get(Kind::Policy, "shop/users"),
        None,
        "another's inbound policy"
    );
    assert!(orders.get(Kind::Policy, "shop/out").is_some());
    assert_eq!(names(&users.own(Kind::Policy)), ["shop/users"]);
    assert!(orders.own(Kind::Policy).is_empty());
    assert!(users.is_own(Kind::Policy, "shop/users") && !users.is_own(Kind::Policy, "shop/out"));
    assert_eq!(names(&orders.own(Kind::TrustBundle)), ["example.org"]);
    assert_eq!(names(&orders.below(Kind::Policy, "")), ["shop/out"]);
    let endpoints = orders.below(Kind::Endpoint, "shop/users/");
    assert_eq!(names(&endpoints), ["shop/users/1", "shop/users/2"]);
}

#[test]
fn the_same_set_is_no_news() {
    let store = Store::default();
    let mut generation = store.subscribe();
    assert!(store.replace(shop()));
    assert_eq!(*generation.borrow_and_update(), 1);
    assert!(!store.replace(shop()));
    assert!(!generation.has_changed().unwrap());
}

#[test]
fn changes_are_told_by_name() {
    let store = Store::default();
    store.replace(shop());
    let mut next = shop();
    next.retain(|one| &*one.name != "shop/users/2");
    next.push(pushed(Kind::Endpoint, "shop/users/3", "1", &[]));
    next[0] = pushed(Kind::Policy, "shop/users", "2", &["users"]);
    store.replace(next.clone());
    let snapshot = store.snapshot();
    let expected = [
        (Kind::Endpoint, "shop/users/2"),
        (Kind::Endpoint, "shop/users/3"),
        (Kind::Policy, "shop/users"),
    ];
    assert_eq!(changed(&snapshot, 1).unwrap(), expected);
    assert_eq!(changed(&snapshot, 2).unwrap(), []);
    assert_eq!(changed(&snapshot, 0).unwrap().len(), 7 + 3);
    next[0] = pushed(Kind::Policy, "shop/users", "2", &["orders"]);
    store.replace(next);
    let readers = store.snapshot();
    assert_eq!(
        changed(&readers, 2).unwrap(),
        [(Kind::Policy, "shop/users")],
        "other readers"
    );
}

#[test]
fn what_is_too_long_ago_is_not_remembered() {
    let store = Store::default();
    store.replace(shop());
    for n in 0..70 {
        let mut next = shop();
        next[0].held = Held::from(n.to_string().as_bytes());
        store.replace(next);
    }
    let snapshot = store.snapshot();
    assert_eq!(snapshot.generation(), 71);
    assert_eq!(changed(&snapshot, 1), None);
    assert_eq!(changed(&snapshot, 71 - 64).unwrap().len(), 64);
    assert_eq!(changed(&snapshot, 72), None, "a generation of another replica");
}

#[test]
fn each_writer_replaces_its_own_part() {
    let store = Store::default();
    let bundle = |content| vec![pushed(Kind::TrustBundle, "example.org", content, &[])];
    let source = || vec![pushed(Kind::Policy, "shop/users", "1", &["users"])];
    assert!(store.replace_part(Part::Trust, bundle("1"), Instant::now()));
    assert!(store.replace(source()));
    let snapshot = store.snapshot();
    assert_eq!(changed(&snapshot, 1).unwrap(), [(Kind::Policy, "shop/users")]);
    assert!(snapshot.entry(Kind::TrustBundle, "example.org").is_some());
    assert!(store.replace_part(Part::Trust, bundle("2"), Instant::now()));
    assert!(!store.replace(source()));
    let snapshot = store.snapshot();
    assert_eq!(
        changed(&snapshot, 2).unwrap(),
        [(Kind::TrustBundle, "example.org")]
    );
    let generation = |kind, name| snapshot.entry(kind, name).unwrap().generation;
    assert_eq!(generation(Kind::Policy, "shop/users"), 2, "as it is since then");
    assert_eq!(generation(Kind::TrustBundle, "example.org"), 3);
}
