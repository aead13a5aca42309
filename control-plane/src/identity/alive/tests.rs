//! What is alive, as several replicas have noted it, and what becomes of a journal that is not as it
//! should be.

use std::fs;

use jitney_api::SpiffeId;

use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn root(number: u8) -> RootId {
    format!("{number:016x}").parse().unwrap()
}

fn workload(account: &str) -> Workload {
    Workload {
        namespace: "shop".into(),
        account: account.into(),
    }
}

fn key(number: usize) -> KeyHash {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

fn signed(number: usize, account: &str, of: u8) -> Signed {
    Signed {
        key: key(number),
        workload: workload(account),
        node: String::new(),
        root: root(of),
        not_after: now() + LIFETIME,
    }
}

fn peer(signed: &Signed) -> Peer {
    Peer {
        id: SpiffeId {
            trust_domain: "example.org".into(),
            workload: signed.workload.clone(),
        },
        root: signed.root,
        not_after: signed.not_after,
        key: signed.key,
    }
}

fn open(folder: &tempfile::TempDir, most: usize) -> Alive {
    let state = Folder::open(folder.path()).unwrap();
    Alive::with_bound(&state, most, true, now()).unwrap()
}

fn of(alive: &Alive, root_number: u8, at: SystemTime) -> Living {
    alive.of(&Those::Of([root(root_number)].into()), at)
}

fn count(alive: &Alive, root_number: u8) -> usize {
    let living = of(alive, root_number, now());
    assert_eq!(living.fault, None);
    living
        .certificates
        .get(&root(root_number))
        .copied()
        .unwrap_or_default()
}

fn knows(alive: &Alive, key: &KeyHash) -> bool {
    alive.known.lock().certificates.contains_key(&Key::from(key))
}

fn journal(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join(FOLDER).join(FILE)
}

fn lines(folder: &tempfile::TempDir) -> usize {
    fs::read_to_string(journal(folder)).unwrap().lines().count()
}

#[test]
fn what_is_renewed_is_superseded_wherever_that_happens() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder, 9), open(&folder, 9));
    one.signed(&signed(1, "users", 1), None, now()).unwrap();
    one.signed(&signed(2, "orders", 1), None, now()).unwrap();
    assert_eq!(count(&other, 1), 2);
    let renewed = signed(3, "users", 2);
    other.signed(&renewed, Some(&key(1)), now()).unwrap();
    assert_eq!((count(&one, 1), count(&one, 2)), (2, 1), "the answer may be lost");
    assert!(!one.is_settled(&key(3)));
    // It was, and the same was asked for again.
    one.signed(&renewed, Some(&key(1)), now()).unwrap();
    assert_eq!((count(&one, 1), count(&one, 2)), (2, 1));
    one.seen(&peer(&renewed), now()).unwrap();
    assert!(one.is_settled(&key(3)));
    for replica in [&one, &other, &open(&folder, 9)] {
        assert_eq!((count(replica, 1), count(replica, 2)), (1, 1));
        let living = of(replica, 1, now());
        assert_eq!(living.workloads, BTreeMap::from([(workload("orders"), 1)]));
        assert_eq!(living.last, Some(now() + LIFETIME));
        assert_eq!((living.uncounted, living.unknown_until), (0, None));
    }
    one.signed(&signed(3, "users", 2), Some(&key(3)), now()).unwrap();
    assert_eq!(count(&other, 2), 1, "for the same key as before");
}

#[test]
fn a_sidecar_that_was_started_anew_has_one_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder, 9), open(&folder, 9));
    let named = |number, account, node: &str| Signed {
        node: node.into(),
        ..signed(number, account, 1)
    };
    for (number, account, node, alive) in [
        (1, "users", "a", 1),
        (2, "users", "a", 1),
        (3, "users", "b", 2),
        // Another workload's, one that has not said its name, and two that have none.
        (4, "orders", "a", 3),
        (5, "users", "", 4),
        (6, "users", "a b", 5),
        (7, "users", "a\nb", 6),
    ] {
        let signed = named(number, account, node);
        other.signed(&signed, None, now()).unwrap();
        one.seen(&peer(&signed), now()).unwrap();
        assert_eq!((count(&one, 1), count(&other, 1)), (alive, alive), "{number}");
    }
    assert!(!knows(&other, &key(1)) && knows(&other, &key(2)));
    let names = &of(&other, 1, now()).nodes[&workload("users")];
    assert!(names.iter().eq(["a", "b"]), "{names:?}");
    // It has it still, and comes with it.
    other.seen(&peer(&named(1, "users", "a")), now()).unwrap();
    assert_eq!(count(&one, 1), 7);
}

#[test]
fn what_never_arrived_is_superseded_with_what_it_was_to_replace() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder, 9), open(&folder, 9));
    let named = |number| Signed {
        node: "a".into(),
        ..signed(number, "users", 1)
    };
    one.signed(&named(1), None, now()).unwrap();
    // Its renewal is lost, it is killed, and started anew under its name.
    one.signed(&named(2), Some(&key(1)), now()).unwrap();
    let compacted = one.known.lock().text();
    fs::write(journal(&folder), compacted).unwrap();
    other.signed(&named(3), None, now()).unwrap();
    assert_eq!(count(&other, 1), 3);
    assert!(!other.is_settled(&key(3)));
    other.seen(&peer(&named(3)), now()).unwrap();
    for replica in [&one, &other, &open(&folder, 9)] {
        assert_eq!(count(replica, 1), 1);
        assert!(replica.is_settled(&key(3)));
    }
}

#[test]
fn who_has_not_said_that_it_trusts_a_root_is_known_wherever_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder, 9), open(&folder, 9));
    let unaware = |alive: &Alive| alive.of(&Those::NotTrusting(root(2)), now()).workloads;
    for number in 1..4 {
        one.signed(&signed(number, "users", 1), None, now()).unwrap();
    }
    assert_eq!(unaware(&other)[&workload("users")], 3);
    // The last is of nobody who is known.
    one.trusted(root(2), &[key(1), key(2), key(9)], now()).unwrap();
    for replica in [&one, &other, &open(&folder, 9)] {
        assert_eq!(unaware(replica)[&workload("users")], 1);
    }
    let before = lines(&folder);
    other.trusted(root(2), &[key(1), key(2)], now()).unwrap();
    assert_eq!(lines(&folder), before, "it is noted once");
    other.trusted(root(2), &[key(3)], now()).unwrap();
    one.signed(&signed(1, "users", 1), None, now()).unwrap();
    assert_eq!(unaware(&one), BTreeMap::new());
    other
        .signed(&signed(4, "users", 1), Some(&key(1)), now())
        .unwrap();
    assert_eq!(unaware(&one)[&workload("users")], 1, "it has yet to say so");
}

#[test]
fn nothing_is_done_while_a_certificate_of_a_root_is_alive() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder, 9), open(&folder, 9));
    let of = [root(1)].into();
    one.signed(&signed(1, "users", 1), None, now()).unwrap();
    let done = other.while_none(&of, now(), || panic!("it is alive"));
    assert_eq!(done.unwrap(), Err::<(), _>(1));
    let late = now() + LIFETIME;
    let is_locked = || one.folder.lock().is_err();
    assert_eq!(other.while_none(&of, late, is_locked).unwrap(), Ok(true));
}

#[test]
fn what_has_expired_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let alive = open(&folder, 9);
    alive.signed(&signed(1, "users", 1), None, now()).unwrap();
    let before = of(&alive, 1, now() + LIFETIME - Duration::from_secs(1));
    assert_eq!(before.certificates, BTreeMap::from([(root(1), 1)]));
    assert_eq!(of(&alive, 1, now() + LIFETIME), Living::default());
    assert!(knows(&alive, &key(1)));
    alive.forget_expired(now() + LIFETIME);
    assert!(!knows(&alive, &key(1)));
}

#[test]
fn beyond_the_bound_certificates_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder, 2), open(&folder, 2));
    for number in 0..5 {
        one.signed(&signed(number, "users", 1), None, now()).unwrap();
    }
    for replica in [&one, &other] {
        let living = of(replica, 1, now());
        assert_eq!(living.certificates[&root(1)], 5);
        assert_eq!((living.uncounted, living.last), (3, Some(now() + LIFETIME)));
    }
    one.seen(&peer(&signed(4, "users", 1)), now()).unwrap();
    assert_eq!(
        of(&other, 1, now()).uncounted,
        3,
        "who comes again is not counted again"
    );
    let later = now() + LIFETIME;
    let next = Signed {
        not_after: later + LIFETIME,
        ..signed(9, "users", 2)
    };
    one.signed(&next, None, later).unwrap();
    let living = of(&one, 2, later);
    assert_eq!(
        (living.certificates, living.uncounted),
        (BTreeMap::from([(root(2), 1)]), 0)
    );
}

#[test]
fn renewals_do_not_make_it_grow() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder, 99), open(&folder, 99));
    one.signed(&signed(0, "orders", 1), None, now()).unwrap();
    for number in 1..3000 {
        let before = key(number - 1);
        let before = (number > 1).then_some(&before);
        one.signed(&signed(number, "users", 1), before, now()).unwrap();
        one.seen(&peer(&signed(number, "users", 1)), now()).unwrap();
        if number % 700 == 0 {
            assert_eq!(count(&other, 1), 2);
        }
    }
    assert!(lines(&folder) < 1100, "{}", lines(&folder));
    assert_eq!((count(&one, 1), count(&other, 1)), (2, 2));
    other
        .signed(&signed(5000, "users", 2), Some(&key(2999)), now())
        .unwrap();
    other.seen(&peer(&signed(5000, "users", 2)), now()).unwrap();
    assert_eq!((count(&one, 1), count(&one, 2)), (1, 1));
}

#[test]
fn what_is_in_use_and_unknown_is_noted_once() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder, 9), open(&folder, 9));
    let first = signed(1, "users", 1);
    one.signed(&first, None, now()).unwrap();
    other.seen(&peer(&first), now()).unwrap();
    assert_eq!(lines(&folder), 2, "another replica knew it");
    one.signed(&signed(2, "users", 1), Some(&key(1)), now()).unwrap();
    one.seen(&peer(&signed(2, "users", 1)), now()).unwrap();
    assert!(!knows(&one, &key(1)));
    one.seen(&peer(&first), now()).unwrap();
    assert_eq!(count(&other, 1), 2, "it is somebody else's as well");
}

#[test]
fn what_was_signed_before_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let state = Folder::open(folder.path()).unwrap();
    let alive = Alive::open(&state, false, now()).unwrap();
    assert_eq!(of(&alive, 1, now()).unknown_until, Some(now() + LIFETIME));
    assert_eq!(of(&alive, 1, now() + LIFETIME).unknown_until, None);
}

#[test]
fn half_a_line_was_never_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let (one, path) = (open(&folder, 9), journal(&folder));
    one.signed(&signed(1, "users", 1), None, now()).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}+ 0000")).unwrap();
    assert_eq!(
        of(&one, 1, now()).unknown_until,
        None,
        "somebody may be writing it"
    );
    let other = open(&folder, 9);
    assert_eq!((count(&one, 1), count(&other, 1)), (1, 1));
    for replica in [&one, &other] {
        let unknown_until = of(replica, 1, now()).unknown_until;
        assert_eq!(
            unknown_until,
            Some(now() + LIFETIME),
            "but for what was cut off with it"
        );
    }
    other.signed(&signed(2, "users", 1), None, now()).unwrap();
    assert_eq!((count(&one, 1), lines(&folder)), (2, 3));
}

#[test]
fn a_line_that_is_none_is_told_and_stops_no_signing() {
    let folder = tempfile::tempdir().unwrap();
    let (alive, path) = (open(&folder, 9), journal(&folder));
    alive.signed(&signed(1, "users", 1), None, now()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    for (bad, expected) in [
        ("+ 1 2 3 shop/users", "+ key"),
        ("", "+ key"),
        ("- 12\u{e9}", "- key"),
    ] {
        fs::write(&path, format!("{text}{bad}\n")).unwrap();
        let alive = open(&folder, 9);
        alive.signed(&signed(2, "users", 1), None, now()).unwrap();
        let fault = of(&alive, 1, now()).fault.unwrap();
        assert!(
            fault.starts_with("certificates/journal: line 3: expected "),
            "{fault}"
        );
        assert!(fault.contains(expected), "{fault}");
    }
    for number in 3..2000 {
        alive.seen(&peer(&signed(number - 1, "users", 1)), now()).unwrap();
        alive
            .signed(&signed(number, "users", 1), Some(&key(number - 1)), now())
            .unwrap();
    }
    let living = of(&alive, 1, now());
    assert_eq!(living.fault, None, "it is written anew");
    assert_eq!(
        living.unknown_until,
        Some(now() + LIFETIME),
        "and may lack something"
    );
}

#[test]
fn another_file_is_not_taken_for_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["", "{}\n", "jitney-certificates 1 0", "jitney-certificates 2 0\n"] {
        fs::create_dir_all(folder.path().join(FOLDER)).unwrap();
        fs::write(journal(&folder), text).unwrap();
        let state = Folder::open(folder.path()).unwrap();
        let told = Alive::open(&state, true, now()).unwrap_err().to_string();
        let file = journal(&folder).display().to_string();
        assert!(
            told.contains(&file) && told.contains("line 1: expected"),
            "{told}"
        );
    }
}

#[test]
fn who_keeps_the_folder_locked_is_not_waited_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let alive = open(&folder, 9);
    let lock = alive.folder.lock().unwrap();
    let told = alive.signed(&signed(1, "users", 1), None, now()).unwrap_err();
    assert!(told.to_string().contains("held it for 2 s"), "{told}");
    assert_eq!(count(&alive, 1), 0, "it can be read meanwhile");
    drop(lock);
    alive.signed(&signed(1, "users", 1), None, now()).unwrap();
}
