//! Who signs in tests: an authority with a root of its own.

use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use super::Credentials;

/// Somebody who signs.
pub(crate) struct Authority {
    pub(crate) root: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        Self { root, issuer }
    }

    /// A workload's certificate.
    pub(crate) fn sign(&self, workload: &str, not_before: SystemTime, not_after: SystemTime) -> Credentials {
        let id = format!("spiffe://cluster.local/ns/shop/sa/{workload}");
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Credentials {
            id: id.parse().unwrap(),
            chain: vec![leaf.der().clone()],
            key: key.serialize_der(),
            not_after,
        }
    }
}
