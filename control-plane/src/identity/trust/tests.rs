//! Rotation, and what survives a restart.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, UNIX_EPOCH};

use super::super::roots::RootId;
use super::super::tokens::Tokens;
use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn open(folder: &tempfile::TempDir) -> Trust {
    let folder = Folder::open(folder.path()).unwrap();
    Trust::open(&folder, "example.org", now()).unwrap()
}

fn states(trust: &Trust) -> Vec<RootState> {
    trust.roots().all().iter().map(|root| root.state).collect()
}

fn ids(trust: &Trust) -> Vec<RootId> {
    trust.roots().all().iter().map(|root| root.id).collect()
}

fn vouching(trust: &Trust) -> RootId {
    trust.roots().vouching(now()).id
}

#[test]
fn a_restart_keeps_the_roots() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&folder);
    let again = open(&folder);
    assert_eq!(first.roots().pem(), again.roots().pem());
    assert_eq!(first.pushed(), again.pushed());
    let written = std::fs::read_to_string(folder.path().join(BUNDLE_FILE)).unwrap();
    assert_eq!(written, first.roots().pem());
    assert_eq!(written.matches("BEGIN CERTIFICATE").count(), 1);
    let inode = || std::fs::metadata(folder.path().join(BUNDLE_FILE)).unwrap().ino();
    let before = inode();
    drop(open(&folder));
    assert_eq!(inode(), before, "it is the same file");
    let error = Trust::open(&Folder::open(folder.path()).unwrap(), "example.com", now()).unwrap_err();
    assert!(error.to_string().contains("\"example.org\""), "{error}");
}

#[test]
fn a_rotation_adds_switches_and_drops() {
    use RootState::{Issuing, Next, Old};
    let folder = tempfile::tempdir().unwrap();
    let trust = open(&folder);
    let old = trust.roots().issuing().id;
    assert!(matches!(trust.switch(old, now()), Err(TrustError::NoNext)));
    assert!(matches!(trust.drop_old(&[old]), Err(TrustError::NoOld)));
    let mut changed = trust.subscribe();
    changed.mark_unchanged();
    trust.add(now()).unwrap();
    assert!(changed.has_changed().unwrap());
    assert!(matches!(trust.add(now()), Err(TrustError::NextExists)));
    assert_eq!(states(&trust), [Issuing, Next]);
    assert_eq!(vouching(&trust), old);
    let bundle = trust.roots().bundle();
    assert_eq!((bundle.roots.len(), &bundle.issuer), (2, &bundle.roots[0]));
    let next = ids(&trust)[1];
    trust.switch(next, now() + Duration::from_secs(60)).unwrap();
    assert_eq!(states(&trust), [Old, Issuing]);
    assert_eq!(vouching(&trust), old, "who was away knows no other");
    let bundle = trust.roots().bundle();
    assert_eq!((bundle.roots.len(), &bundle.issuer), (2, &bundle.roots[1]));
    assert_eq!(trust.roots().issuing().since, now() + Duration::from_secs(60));
    assert!(
        matches!(trust.drop_old(&[next]), Err(TrustError::NoOld)),
        "it signs"
    );
    trust.drop_old(&[old]).unwrap();
    assert_eq!(states(&trust), [Issuing]);
    assert_ne!(trust.roots().issuing().id, old);
    assert_eq!(vouching(&trust), trust.roots().issuing().id);
    assert_eq!(ids(&open(&folder)), ids(&trust), "and all of that is kept");
}

#[test]
fn another_replica_takes_over_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(&folder), open(&folder));
    assert!(!other.reload().unwrap());
    one.add(now()).unwrap();
    assert!(other.reload().unwrap());
    assert_eq!(ids(&one), ids(&other));
    assert!(!other.reload().unwrap());
    one.switch(ids(&one)[1], now()).unwrap();
    other.add(now()).unwrap();
    assert_eq!(
        other.roots().all().len(),
        3,
        "what is changed is what is in the file"
    );
    std::fs::write(one.file(), "{").unwrap();
    let told = one.reload().unwrap_err().to_string();
    assert!(
        told.starts_with(&format!("cannot use {}: ", one.file().display())),
        "{told}"
    );
    assert_eq!(one.roots().all().len(), 2, "what was in force stays");
}

#[test]
fn what_is_kept_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let trust = open(&folder);
    let text = std::fs::read_to_string(trust.file()).unwrap();
    for (from, to, expected) in [
        ("\"Issuing\"", "\"Next\"", "found 0 issuing roots"),
        ("\"Issuing\"", "\"Signing\"", "unknown variant"),
        ("BEGIN CERT", "BEGIN CART", "stored authority"),
        ("\"since\"", "\"sinse\"", "unknown field"),
    ] {
        let error = Roots::from_json("example.org", &text.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn an_authority_that_is_gone_is_not_made_anew_beside_what_it_left() {
    let path = tempfile::tempdir().unwrap();
    let folder = Folder::open(path.path()).unwrap();
    // Made before the first root, by a process that may have ended there.
    Alive::open(&folder, true, now()).unwrap();
    Tokens::open(&folder, "example.org").unwrap();
    assert!(!Trust::is_kept(&folder).unwrap());
    let roots = open(&path).roots().pem();
    for (inside, name) in [("used", "01"), ("replicas", "one.json")] {
        std::fs::write(folder.inside(inside).unwrap().path(name), "").unwrap();
    }
    std::fs::remove_file(folder.path(FILE)).unwrap();
    let told = [
        Trust::open(&folder, "example.org", now()).map(drop).unwrap_err(),
        Trust::is_kept(&folder).map(drop).unwrap_err(),
        Trust::check(&folder, "example.org").unwrap_err(),
    ];
    let expected = format!(
        "{} is gone, and roots.pem, used/ and replicas/ beside it are of a mesh that had one: restore it from a copy; to \
         begin with another authority, of which every sidecar needs a new token and the new roots in its \
         --trust-bundle, remove roots.pem, used/, replicas/ and token-key",
        folder.path(FILE).display()
    );
    for told in told {
        assert_eq!(told.to_string(), expected);
    }
    let kept = std::fs::read_to_string(folder.path(BUNDLE_FILE)).unwrap();
    assert_eq!(kept, roots, "nothing is overwritten");

    std::fs::remove_file(folder.path(BUNDLE_FILE)).unwrap();
    for inside in ["used", "replicas"] {
        std::fs::remove_dir_all(folder.path(inside)).unwrap();
    }
    let journal = folder.path("certificates/journal");
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, format!("{text}anything\n")).unwrap();
    let told = Trust::is_kept(&folder).map(drop).unwrap_err().to_string();
    assert!(told.contains("gone, and certificates/ beside it is of"), "{told}");
    std::fs::remove_dir_all(folder.path("certificates")).unwrap();
    assert_ne!(open(&path).roots().pem(), roots);
}

#[test]
fn a_root_too_many_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let trust = open(&folder);
    for _ in 0..3 {
        trust.add(now()).unwrap();
        trust.switch(*ids(&trust).last().unwrap(), now()).unwrap();
    }
    let told = trust.add(now()).unwrap_err().to_string();
    assert_eq!(told, "there are 4 roots already: drop the old ones first");
    let old = ids(&trust);
    trust.drop_old(&old[..1]).unwrap();
    trust.add(now()).unwrap();
}
