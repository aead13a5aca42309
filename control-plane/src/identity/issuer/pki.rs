//! Authorities of somebody else's, as people and cert-manager make them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jitney_api::program::pem;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;

use super::{Offer, OfferFiles};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A certificate that may sign others, and its key.
#[derive(Debug)]
pub(crate) struct Ca {
    pub(crate) params: CertificateParams,
    pub(crate) certificate: Certificate,
    pub(crate) key: KeyPair,
}

impl Ca {
    /// A root that is good from yesterday on, for a month.
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            certificate,
            key,
        }
    }

    /// An issuing certificate of this one.
    pub(crate) fn issue(&self, name: &str) -> Self {
        self.issue_with(name, KeyPair::generate().unwrap(), |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        name: &str,
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = params(name);
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self {
            params,
            certificate,
            key,
        }
    }

    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", self.certificate.der())
    }

    /// The files with which it signs, of which this is the root.
    pub(crate) fn files(&self, root: &Self) -> OfferFiles {
        OfferFiles {
            certificate: self.pem(),
            key: self.key.serialize_pem(),
            roots: root.pem(),
        }
    }

    pub(crate) fn offer(&self, root: &Self) -> Offer {
        Offer::read(&self.files(root), "example.org", now()).unwrap()
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::from(now() - DAY);
    params.not_after = OffsetDateTime::from(now() + 30 * DAY);
    params
}
