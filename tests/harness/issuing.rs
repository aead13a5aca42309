//! Authorities of somebody else's, in folders as a kubelet mounts a Secret.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

/// A certificate that may sign others, and its key.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// The certificate.
    pub pem: String,
}

/// The data of a Secret: names of files, and what they hold.
pub type Secret = [(&'static str, String); 3];

impl Ca {
    /// A root, good for a month.
    ///
    /// # Panics
    /// If no key can be made.
    pub fn root(name: &str) -> Self {
        let (params, key) = (params(name), key());
        let certificate = params.self_signed(&key).expect("a root signs itself");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// An issuing certificate of this one.
    ///
    /// # Panics
    /// If no key can be made.
    pub fn issue(&self, name: &str) -> Self {
        self.issue_for(name, key())
    }

    /// The same, for a key.
    ///
    /// # Panics
    /// If it cannot be signed for.
    pub fn issue_for(&self, name: &str, key: KeyPair) -> Self {
        let params = params(name);
        let certificate = params.signed_by(&key, &self.issuer).expect("an authority signs");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The certificate of a workload that is good until then, and its key, PEM.
    ///
    /// # Panics
    /// If it cannot be signed for.
    pub fn workload(&self, id: &str, until: SystemTime) -> String {
        let (mut params, key) = (params("workload"), key());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("an ID is ASCII"))];
        params.not_after = until.into();
        let certificate = params.signed_by(&key, &self.issuer).expect("an authority signs");
        certificate.pem() + &key.serialize_pem()
    }

    /// With which this one signs, under that root.
    pub fn secret(&self, root: &Self) -> Secret {
        [
            ("tls.crt", self.pem.clone()),
            ("tls.key", self.issuer.key().serialize_pem()),
            ("ca.crt", root.pem.clone()),
        ]
    }
}

/// Mounts a Secret, or changes one that is: all at once, by a link, as a kubelet does.
///
/// # Panics
/// If the folder cannot be written.
pub fn mount(folder: &Path, secret: &Secret) {
    fs::create_dir_all(folder).expect("the folder is writable");
    let version = tempfile::Builder::new().prefix("..").tempdir_in(folder);
    let version = version.expect("the folder is writable").keep();
    for (name, text) in secret {
        fs::write(version.join(name), text).expect("the folder is writable");
        if fs::symlink_metadata(folder.join(name)).is_err() {
            let there = Path::new("..data").join(name);
            symlink(there, folder.join(name)).expect("the folder is writable");
        }
    }
    let beside = folder.join("..data_tmp");
    symlink(version.file_name().unwrap_or_default(), &beside).expect("the folder is writable");
    fs::rename(beside, folder.join("..data")).expect("the folder is writable");
}

fn key() -> KeyPair {
    KeyPair::generate().expect("the system has random numbers")
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now();
    // From before what a slow clock is waited for.
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + Duration::from_secs(30 * 24 * 3600)).into();
    params
}
