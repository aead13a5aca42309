//! What has broken other proxies, class by class: C1 to C18, and of the last each of its letters. A test's
//! name begins with its class; some live in the suite of what they are about, those of no other suite here.

mod batches;
mod downgrade;
mod floods;
mod withheld;

use std::collections::BTreeSet;
use std::fs;

use jitney_tests::programs::root;

/// Framing, upgrades, downgrade, hop-by-hop; floods of HTTP/2 and of fields; decompression; slowness; the
/// TLS library; admin endpoint; paths; buffers; keys; batches as a way round; and (a to k) batching itself.
const LETTERED: u32 = 18;

#[test]
fn each_class_has_a_test() {
    let mut found = BTreeSet::new();
    for folder in ["tests/it", "tests/it/classes"] {
        for file in fs::read_dir(root().join(folder)).unwrap() {
            let path = file.unwrap().path();
            let text = if path.is_file() {
                fs::read_to_string(path).unwrap()
            } else {
                String::new()
            };
            let names = text
                .lines()
                .filter_map(|line| line.split_once("fn c")?.1.split_once('_'));
            found.extend(names.map(|(class, _)| class.to_owned()));
        }
    }
    let numbered = (1..LETTERED).map(|class| format!("{class:02}"));
    let lettered = ('a'..='k').map(|letter| format!("{LETTERED}{letter}"));
    let missing: Vec<String> = numbered
        .chain(lettered)
        .filter(|class| !found.contains(class))
        .collect();
    assert!(missing.is_empty(), "no test for {missing:?}");
}

/// Versions below these have known holes: RUSTSEC-2026-0258 and those before it, hyper's framing
/// (CVE class 1), RUSTSEC-2026-0346 to 0349, RUSTSEC-2026-0104 and those before it.
const FLOORS: [(&str, [u32; 3]); 4] = [
    ("hyper", [1, 11, 0]),
    ("h2", [0, 4, 16]),
    ("rustls", [0, 23, 46]),
    ("rustls-webpki", [0, 103, 13]),
];

#[test]
fn c12_no_library_of_the_data_path_is_older_than_its_last_hole() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for (name, floor) in FLOORS {
        let name = format!("name = \"{name}\"\nversion = \"");
        let versions: Vec<[u32; 3]> = lock
            .split(&name)
            .skip(1)
            .map(|rest| {
                let numbers = rest.split('"').next().unwrap().split(['.', '-', '+']);
                let numbers: Vec<u32> = numbers.filter_map(|number| number.parse().ok()).take(3).collect();
                numbers.try_into().unwrap()
            })
            .collect();
        assert!(!versions.is_empty(), "{name} is not used");
        assert!(
            versions.iter().all(|version| *version >= floor),
            "{name}{versions:?} is below {floor:?}"
        );
    }
}
