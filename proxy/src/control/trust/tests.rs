//! Who is believed, by what was pushed and what the file holds.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jitney_api::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{ServerName, UnixTime};
use tempfile::TempDir;

use super::*;

/// A control plane of its own authority. All of them have one name.
struct Plane {
    root: rcgen::Certificate,
    certificate: CertificateDer<'static>,
}

impl Plane {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let id = SpiffeId {
            trust_domain: "cluster.local".into(),
            workload: Workload::control_plane(),
        };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.to_string().as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        Self {
            root,
            certificate: leaf.der().clone(),
        }
    }
}

/// A sidecar's trust.
struct Sidecar {
    trust: Trust,
    file: PathBuf,
    _folder: TempDir,
}

impl Sidecar {
    fn new(roots: &[&Plane]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roots.pem");
        write(&file, roots);
        Self {
            trust: Trust::read(&file).unwrap(),
            file,
            _folder: folder,
        }
    }

    fn push(&self, roots: &[&Plane]) {
        self.trust.replace(bundle(roots)).unwrap();
    }

    fn write(&self, roots: &[&Plane]) {
        write(&self.file, roots);
    }

    /// Meets a control plane, and draws its conclusions. True when it believes it.
    fn meets(&self, plane: &Plane) -> bool {
        let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        let name = ServerName::try_from("localhost").unwrap();
        let verifier = self.trust.verifier().unwrap();
        let verified = verifier.verify_server_cert(&plane.certificate, &[], &name, &[], now);
        match verified {
            Ok(_) => self.trust.believe(),
            Err(error) => {
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                let broken = crate::control::session::Broken::from(error);
                assert!(broken.is_about_trust(), "{broken}");
                self.trust.doubt();
                return false;
            }
        }
        true
    }
}

fn write(file: &Path, roots: &[&Plane]) {
    let text: String = roots.iter().map(|plane| plane.root.pem()).collect();
    fs::write(file, text).unwrap();
}

fn bundle(roots: &[&Plane]) -> config::TrustBundle {
    let roots = roots.iter();
    config::TrustBundle {
        roots: roots
            .map(|plane| Bytes::copy_from_slice(plane.root.der()))
            .collect(),
        issuer: Bytes::new(),
    }
}

#[test]
fn a_file_that_is_newer_is_asked_where_the_pushed_roots_know_nobody() {
    let (old, new) = (Plane::new(), Plane::new());
    let sidecar = Sidecar::new(&[&old]);
    sidecar.push(&[&old]);
    sidecar.write(&[&new]);
    assert!(sidecar.meets(&old), "the pushed ones work");
    assert!(!sidecar.meets(&new), "and so nobody asks the file");
    assert!(sidecar.meets(&new), "until they do not");
    sidecar.push(&[&new]);
    assert!(!sidecar.meets(&old));
    assert!(
        !sidecar.meets(&old),
        "the file is older than what was pushed last"
    );
}

#[test]
fn a_root_that_was_dropped_is_not_trusted_for_the_sake_of_an_old_file() {
    let (dropped, present) = (Plane::new(), Plane::new());
    let sidecar = Sidecar::new(&[&dropped]);
    sidecar.push(&[&dropped, &present]);
    sidecar.push(&[&present]);
    for _ in 0..3 {
        assert!(!sidecar.meets(&dropped));
    }
    assert!(sidecar.meets(&present));
    // The same content written anew says nothing new.
    sidecar.write(&[&dropped]);
    assert!(!sidecar.meets(&dropped));
    assert!(!sidecar.meets(&dropped));
}

#[test]
fn a_file_that_was_changed_in_time_counts_although_the_same_roots_are_pushed_again() {
    let (old, new) = (Plane::new(), Plane::new());
    let sidecar = Sidecar::new(&[&old]);
    sidecar.push(&[&old]);
    sidecar.write(&[&old, &new]);
    // As with every renewal of the certificate.
    sidecar.push(&[&old]);
    assert!(!sidecar.meets(&new));
    assert!(sidecar.meets(&new));
}

#[test]
fn a_file_that_is_gone_or_holds_nothing_takes_nothing_away() {
    let (plane, stranger) = (Plane::new(), Plane::new());
    let sidecar = Sidecar::new(&[&plane]);
    sidecar.push(&[&plane]);
    fs::write(&sidecar.file, "nothing").unwrap();
    assert!(!sidecar.meets(&stranger));
    assert!(sidecar.meets(&plane));
    fs::remove_file(&sidecar.file).unwrap();
    assert!(!sidecar.meets(&stranger));
    assert!(sidecar.meets(&plane));
}

#[test]
fn before_anything_is_pushed_the_file_is_read_as_it_is() {
    let (one, other) = (Plane::new(), Plane::new());
    let sidecar = Sidecar::new(&[&one]);
    assert!(sidecar.meets(&one));
    sidecar.write(&[&other]);
    assert!(!sidecar.meets(&one));
    sidecar.trust.remember(bundle(&[&one])).unwrap();
    assert!(
        sidecar.meets(&one) && sidecar.meets(&other),
        "either may be older"
    );
    fs::remove_file(&sidecar.file).unwrap();
    let missing = sidecar.trust.verifier().map(drop).unwrap_err().to_string();
    assert!(
        missing.starts_with(&format!("--trust-bundle {}: ", sidecar.file.display())),
        "{missing}"
    );
}
