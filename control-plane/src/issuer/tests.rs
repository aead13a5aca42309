//! A folder whose content is replaced, as a kubelet does it, and time that goes by.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::identity::pki::{Ca, DAY, now};
use crate::identity::{Folder, RootState, Signed};

/// A mounted Secret, and a control plane's state.
struct Mounted {
    outer: TempDir,
    faults: Arc<Faults>,
}

impl Mounted {
    fn new() -> Self {
        Self {
            outer: tempfile::tempdir().unwrap(),
            faults: Arc::default(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.outer.path().join("issuer")
    }

    /// All at once, by the link through which the files are seen.
    fn put(&self, files: &OfferFiles) {
        let folder = self.folder();
        let version = folder.join(format!("..{}", Folder::unused_name()));
        fs::create_dir_all(&version).unwrap();
        for (name, text) in [
            (CERTIFICATE, &files.certificate),
            (KEY, &files.key),
            (ROOTS, &files.roots),
        ] {
            fs::write(version.join(name), text).unwrap();
            if !folder.join(name).exists() {
                drop(symlink(PathBuf::from("..data").join(name), folder.join(name)));
            }
        }
        let beside = folder.join("..data_tmp");
        symlink(version.file_name().unwrap(), &beside).unwrap();
        fs::rename(beside, folder.join("..data")).unwrap();
    }

    fn start(&self) -> Issuer {
        let state = Folder::open(&self.outer.path().join("state")).unwrap();
        let offer = Issuer::read(&self.folder(), "example.org", now()).unwrap();
        let is_beginning = !Trust::is_kept(&state).unwrap();
        let alive = Arc::new(Alive::open(&state, is_beginning, now()).unwrap());
        assert_eq!(
            Trust::begin(&state, "example.org", &offer, now()).unwrap(),
            is_beginning
        );
        let trust = Arc::new(Trust::open(&state, "example.org", now()).unwrap());
        Issuer::new(&self.folder(), offer, &trust, &alive, &self.faults, now())
    }
}

/// As when the watch has noticed something.
fn changed(issuer: &Issuer, at: SystemTime) {
    let mut wanted = issuer.wanted.lock();
    issuer.look(&mut wanted, at);
    issuer.pursue(&mut wanted, at);
}

fn roots(issuer: &Issuer) -> Vec<(RootState, String)> {
    let roots = issuer.trust.roots();
    let shown = roots
        .all()
        .iter()
        .map(|root| (root.state, root.authority.signer().unwrap_or_default()));
    shown.collect()
}

use RootState::{Issuing, Next, Old};

#[test]
fn what_is_renewed_is_followed() {
    let (mounted, root) = (Mounted::new(), Ca::root("root"));
    mounted.put(&root.issue("one").files(&root));
    let issuer = mounted.start();
    assert_eq!(roots(&issuer), [(Issuing, "CN=one".to_owned())]);
    assert!(
        Folder::open(&mounted.outer.path().join("state"))
            .unwrap()
            .read("roots.pem")
            .unwrap()
            .is_some()
    );
    mounted.put(&root.issue("two").files(&root));
    changed(&issuer, now());
    assert_eq!(roots(&issuer), [(Issuing, "CN=two".to_owned())]);
    let again = mounted.start();
    assert_eq!(roots(&again), roots(&issuer), "and all of that is kept");
    assert_eq!(mounted.faults.texts(), Vec::<String>::new());
}

#[test]
fn what_is_no_good_is_told_and_the_last_good_one_stays() {
    let (mounted, root) = (Mounted::new(), Ca::root("root"));
    let good = root.issue("one").files(&root);
    mounted.put(&good);
    let issuer = mounted.start();
    mounted.put(&OfferFiles {
        key: root.key.serialize_pem(),
        ..root.issue("two").files(&root)
    });
    changed(&issuer, now());
    assert_eq!(roots(&issuer), [(Issuing, "CN=one".to_owned())]);
    let told = mounted.faults.texts().concat();
    let expected = format!(
        "certificates are signed by the last good issuer: --issuer {}: tls.key: it is not the key of the first",
        mounted.folder().display()
    );
    assert!(told.starts_with(&expected), "{told}");
    fs::remove_file(mounted.folder().join("..data")).unwrap();
    changed(&issuer, now());
    let told = mounted.faults.texts().concat();
    assert!(told.contains(": tls.crt: cannot be read: No such file"), "{told}");
    assert!(told.contains("Certificate with isCA: true"), "{told}");
    // It is looked at again without being told of.
    mounted.put(&good);
    issuer.turn(now());
    assert_eq!(mounted.faults.texts(), Vec::<String>::new());
}

#[test]
fn another_root_takes_over_by_time_and_nobody_is_cut_off() {
    let (mounted, [a, b]) = (Mounted::new(), ["a", "b"].map(Ca::root));
    mounted.put(&a.files(&a));
    let issuer = mounted.start();
    mounted.put(&b.issue("b1").files(&b));
    changed(&issuer, now());
    let both = [(Issuing, String::new()), (Next, "CN=b1".to_owned())];
    assert_eq!(roots(&issuer), both);
    let at = now() + EVERYONE_KNOWS;
    issuer.turn(at - Duration::from_secs(1));
    assert_eq!(roots(&issuer), both);
    issuer.turn(at);
    assert_eq!(
        roots(&issuer),
        [(Old, String::new()), (Issuing, "CN=b1".to_owned())]
    );
    let late = at + EVERYONE_KNOWS;
    let signed = Signed {
        key: [1; 32],
        workload: "shop/users".parse().unwrap(),
        node: "a".to_owned(),
        root: issuer.trust.roots().all()[0].id,
        not_after: late + Duration::from_secs(60),
    };
    issuer.alive.signed(&signed, None, at).unwrap();
    issuer.turn(late);
    assert_eq!(
        roots(&issuer).len(),
        2,
        "a clock that was wrong costs nobody anything"
    );
    issuer.turn(late + Duration::from_secs(60));
    assert_eq!(roots(&issuer), [(Issuing, "CN=b1".to_owned())]);
    assert_eq!(mounted.faults.texts(), Vec::<String>::new());
}

#[test]
fn one_that_nobody_renews_is_told_of() {
    let (mounted, root) = (Mounted::new(), Ca::root("root"));
    mounted.put(&root.files(&root));
    let issuer = mounted.start();
    // It lasts for 31 days, and one is over.
    issuer.turn(now() + 22 * DAY);
    assert_eq!(mounted.faults.texts(), Vec::<String>::new());
    issuer.turn(now() + 23 * DAY);
    let told = mounted.faults.texts().concat();
    assert!(
        told.contains(": CN=root, or what is above it, will have expired soon"),
        "{told}"
    );
    assert_eq!(
        mounted.faults.texts_of_roots(),
        Vec::<String>::new(),
        "no exchange is in danger"
    );
}

#[test]
fn where_there_is_no_room_for_another_root_it_is_told_until_there_is() {
    let (mounted, all) = (Mounted::new(), ["a", "b", "c", "d", "e"].map(Ca::root));
    mounted.put(&all[0].files(&all[0]));
    let issuer = mounted.start();
    for one in &all[1..] {
        mounted.put(&one.files(one));
        changed(&issuer, now());
        if let Some(next) = issuer.trust.roots().in_state(Next) {
            issuer.trust.switch(next.id, now()).unwrap();
        }
    }
    let told = mounted.faults.texts().concat();
    let expected =
        "the roots are not yet those of --issuer: there are 4 roots already: drop the old ones first";
    assert!(told.starts_with(expected), "{told}");
    let oldest = issuer.trust.roots().all()[0].id;
    issuer.trust.drop_old(&[oldest]).unwrap();
    issuer.turn(now());
    assert_eq!((roots(&issuer).len(), roots(&issuer)[3].0), (4, Next));
    assert_eq!(mounted.faults.texts(), Vec::<String>::new());
}

#[test]
fn a_change_that_was_undone_is_made_again_for_a_while() {
    let (mounted, [a, b]) = (Mounted::new(), ["a", "b"].map(Ca::root));
    mounted.put(&a.files(&a));
    let issuer = mounted.start();
    let before = issuer.trust.text().unwrap();
    mounted.put(&b.files(&b));
    changed(&issuer, now());
    assert!(issuer.trust.adopt(&before).unwrap());
    assert_eq!(roots(&issuer).len(), 1);
    issuer.turn(now());
    assert_eq!(roots(&issuer).len(), 2);
    issuer.wanted.lock().since -= 2 * INSISTING;
    assert!(issuer.trust.adopt(&before).unwrap());
    issuer.turn(now());
    assert_eq!(roots(&issuer).len(), 1, "the other one may know better");
}
