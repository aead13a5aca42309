//! What is kept is brought back, and each thing that can be wrong with it is found and named.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::KeyPair;
use tempfile::TempDir;

use super::*;
use crate::mtls::authority::Authority;

fn der(authority: &Authority) -> Bytes {
    authority.root.der().to_vec().into()
}

/// The users' certificate, which is good for a day.
fn credentials(authority: &Authority) -> Credentials {
    authority.sign("users", expiry() - DAY, expiry())
}

/// A sidecar's disk, and the roots that it trusts.
struct Sidecar {
    kept: Kept,
    trust: Trust,
    folder: TempDir,
    authority: Authority,
}

impl Sidecar {
    /// One that has kept the users' certificate under the name of users-1.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let roots = folder.path().join("roots.pem");
        fs::write(&roots, authority.root.pem()).unwrap();
        let kept = Kept::new(Disk::new(folder.path().join("made/snapshot")));
        kept.save("users-1", &credentials(&authority)).unwrap();
        Self {
            kept,
            trust: Trust::read(&roots).unwrap(),
            folder,
            authority,
        }
    }

    fn load(&self) -> Result<Option<(SignedCertificate, Vec<u8>)>, Refusal> {
        self.load_as("users-1", Some("shop/users"), expiry() - DAY / 2)
    }

    fn load_as(
        &self,
        node: &str,
        workload: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<(SignedCertificate, Vec<u8>)>, Refusal> {
        let workload = workload.map(|name| name.parse().unwrap());
        self.kept.load(&Claim { node, workload }, &self.trust, now)
    }

    /// Has another thing be in the file.
    fn write(&self, content: &[u8]) {
        fs::write(self.kept.file(), content).unwrap();
    }
}

#[track_caller]
fn is_refused(found: Result<Option<(SignedCertificate, Vec<u8>)>, Refusal>, why: &str) {
    let reason = found.map(|found| found.is_some()).unwrap_err().to_string();
    assert!(reason.contains(why), "{reason}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_was_kept_last_is_brought_back_and_nobody_else_can_read_it() {
    let sidecar = Sidecar::new();
    let credentials = credentials(&sidecar.authority);
    sidecar.kept.save("users-1", &credentials).unwrap();
    let (signed, key) = sidecar.load().unwrap().unwrap();
    assert_eq!(key, credentials.key);
    assert_eq!(signed.chain, [credentials.chain[0].to_vec()]);
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(signed.not_before, seconds(expiry() - DAY));
    assert_eq!(signed.not_after, seconds(expiry()));
    assert_eq!(signed.trust, None, "no roots were pushed");
    assert_eq!(mode(&sidecar.kept.file()), 0o600);
    assert_eq!(mode(sidecar.kept.disk.folder()), 0o700);
    assert_eq!(fs::read_dir(sidecar.kept.disk.folder()).unwrap().count(), 1);
}

#[test]
fn whoever_has_kept_nothing_has_nothing() {
    let sidecar = Sidecar::new();
    fs::remove_file(sidecar.kept.file()).unwrap();
    assert!(sidecar.load().unwrap().is_none());
    fs::remove_dir(sidecar.kept.disk.folder()).unwrap();
    assert!(sidecar.load().unwrap().is_none());
}

#[test]
fn a_name_of_any_form_is_that_name() {
    let sidecar = Sidecar::new();
    for node in [
        "",
        "host/[::1]:80",
        "a \"b\"\n-----BEGIN CERTIFICATE-----\nc",
        "café",
    ] {
        sidecar.kept.save(node, &credentials(&sidecar.authority)).unwrap();
        let found = sidecar.load_as(node, None, expiry() - DAY / 2);
        assert!(found.unwrap().is_some(), "{node}");
    }
}

#[test]
fn the_root_that_signed_it_is_told_from_the_others() {
    let sidecar = Sidecar::new();
    let other = Authority::new();
    let bundle = |roots: &[&Authority]| TrustBundle {
        roots: roots.iter().map(|root| der(root)).collect(),
        issuer: der(&other),
    };
    sidecar
        .trust
        .remember(bundle(&[&other, &sidecar.authority]))
        .unwrap();
    let issuer = |sidecar: &Sidecar| sidecar.load().unwrap().unwrap().0.trust.unwrap().issuer;
    assert_eq!(issuer(&sidecar), der(&sidecar.authority));
    // The file's root, which the last push did not name.
    sidecar.trust.remember(bundle(&[&other])).unwrap();
    assert_eq!(issuer(&sidecar), Bytes::new());
    assert!(
        sidecar.trust.is_outdated(&issuer(&sidecar)),
        "it is to be renewed"
    );
}

#[test]
fn one_that_is_not_whole_is_refused() {
    let sidecar = Sidecar::new();
    let whole = fs::read(sidecar.kept.file()).unwrap();
    for length in 0..whole.len() - 1 {
        sidecar.write(&whole[..length]);
        assert!(sidecar.load().is_err(), "{length} of {} bytes", whole.len());
    }
    sidecar.write(b"");
    is_refused(
        sidecar.load(),
        "it is not whole: it does not begin with the name of a node",
    );
    sidecar.write(&[&whole[..], &whole].concat());
    is_refused(sidecar.load(), "it is not whole: found 2 keys, expected 1");
    let text = String::from_utf8(whole).unwrap();
    let key = text.find("-----BEGIN PRIVATE KEY").unwrap();
    sidecar.write(&[b"node: \"users-1\"\n", &text.as_bytes()[key..]].concat());
    is_refused(sidecar.load(), "it is not whole: found no certificate");
    sidecar.write(text.replace("PRIVATE KEY", "PUBLIC KEY").as_bytes());
    is_refused(sidecar.load(), "it is not whole: found a section PublicKey");
}

#[test]
fn one_that_expires_within_a_minute_is_refused() {
    let sidecar = Sidecar::new();
    let at = |now| sidecar.load_as("users-1", None, now);
    assert!(at(expiry() - Duration::from_secs(61)).unwrap().is_some());
    for now in [expiry() - LEAST, expiry(), expiry() + DAY] {
        is_refused(at(now), "it has expired, or will within 60 s");
    }
    // By a clock that was set back.
    is_refused(
        at(expiry() - 2 * DAY),
        "no root that is trusted has signed it for now: ",
    );
}

#[test]
fn one_with_another_key_is_refused() {
    let sidecar = Sidecar::new();
    let mut credentials = credentials(&sidecar.authority);
    credentials.key = KeyPair::generate().unwrap().serialize_der();
    sidecar.kept.save("users-1", &credentials).unwrap();
    is_refused(sidecar.load(), "its key is not that of its certificate: ");
    credentials.key = b"no key".to_vec();
    sidecar.kept.save("users-1", &credentials).unwrap();
    is_refused(sidecar.load(), "its key is not that of its certificate: ");
}

#[test]
fn one_of_another_authority_is_refused() {
    let sidecar = Sidecar::new();
    let stranger = credentials(&Authority::new());
    sidecar.kept.save("users-1", &stranger).unwrap();
    is_refused(sidecar.load(), "no root that is trusted has signed it for now: ");
    // Nor does a root help that lies beside it in the same file.
    let mut stranger = stranger;
    stranger.chain.push(sidecar.authority.root.der().clone());
    sidecar.kept.save("users-1", &stranger).unwrap();
    is_refused(sidecar.load(), "no root that is trusted has signed it for now: ");
}

#[test]
fn one_of_another_name_or_workload_is_refused() {
    let sidecar = Sidecar::new();
    let now = expiry() - DAY / 2;
    is_refused(
        sidecar.load_as("users-2", None, now),
        "it was given to --node users-1, and this sidecar is users-2",
    );
    is_refused(
        sidecar.load_as("users-1", Some("shop/orders"), now),
        "it is shop/users's, and the token is for shop/orders",
    );
    let nobodys = Authority::new().root.der().clone();
    let mut credentials = credentials(&sidecar.authority);
    credentials.chain = vec![nobodys];
    sidecar.kept.save("users-1", &credentials).unwrap();
    is_refused(sidecar.load(), "its certificate names no workload");
}

#[test]
fn one_that_others_may_read_is_refused_and_none_is_kept_where_they_may() {
    let sidecar = Sidecar::new();
    let (file, folder) = (sidecar.kept.file(), sidecar.kept.disk.folder().to_owned());
    for open in [0o604, 0o640, 0o620] {
        set_mode(&file, open);
        is_refused(sidecar.load(), &format!("to the file, whose mode is {open:03o}"));
    }
    set_mode(&file, 0o600);
    assert!(sidecar.load().unwrap().is_some());
    let before = fs::read(&file).unwrap();
    for open in [0o755, 0o701, 0o730] {
        set_mode(&folder, open);
        let why = format!("others than its owner have access to its folder, whose mode is {open:03o}");
        is_refused(sidecar.load(), &why);
        let saved = sidecar.kept.save("users-1", &credentials(&sidecar.authority));
        assert!(saved.unwrap_err().to_string().contains(&why));
    }
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn one_of_another_user_is_refused() {
    let mut sidecar = Sidecar::new();
    let owner = sidecar.kept.user;
    sidecar.kept.user = owner + 1;
    let why = format!(
        "its folder is user {owner}'s, and this sidecar runs as user {}",
        owner + 1
    );
    is_refused(sidecar.load(), &why);
    let saved = sidecar.kept.save("users-1", &credentials(&sidecar.authority));
    assert!(saved.unwrap_err().to_string().contains(&why));
}

#[test]
fn roots_that_cannot_be_read_sign_nothing() {
    let sidecar = Sidecar::new();
    fs::remove_file(sidecar.folder.path().join("roots.pem")).unwrap();
    is_refused(
        sidecar.load(),
        "no root that is trusted has signed it for now: --trust-bundle",
    );
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// When the certificate expires; any time does.
fn expiry() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}
