//! Whom the API server believes: an authority for this webhook only, kept where all replicas find it, and the
//! certificate that it signs for each.
//!
//! Another authority is made long before one expires. It signs nothing before [`SETTLING`] is over: by then
//! every replica has seen it, and the API server been told.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jitney_api::program::pem;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

/// The authorities that are kept, the oldest first: secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities(Vec<Kept>);

#[derive(Clone, PartialEq, Eq)]
struct Kept {
    certificate: String,
    key: String,
    made: SystemTime,
    not_after: SystemTime,
}

/// What connections are accepted with, and until when.
#[derive(Clone)]
pub(super) struct Present {
    pub(super) config: Arc<ServerConfig>,
    /// By whom it is signed.
    authority: String,
    renew_at: SystemTime,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum PapersError {
    /// What is kept cannot be read.
    #[error("the authority that is kept cannot be read: {0}; where it is removed, another one is made")]
    Kept(String),
    /// Nothing can be signed.
    #[error("cannot sign a certificate: {0}")]
    Signing(#[from] rcgen::Error),
    /// Key, certificate or version are not to TLS's liking.
    #[error("cannot set up TLS: {0}")]
    Config(#[from] rustls::Error),
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Present")
            .field("renew_at", &self.renew_at)
            .finish_non_exhaustive()
    }
}

impl Authorities {
    /// One, to begin with.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn generate(now: SystemTime) -> Result<Self, PapersError> {
        Ok(Self(vec![Kept::generate(now)?]))
    }

    /// Those that are kept: certificates and keys, PEM, as many of one as of the other and in the same order.
    ///
    /// # Errors
    /// When that is not what they are.
    pub fn read(certificates: &str, keys: &str) -> Result<Self, PapersError> {
        let unreadable = |error: &dyn fmt::Display| PapersError::Kept(error.to_string());
        let certificates = CertificateDer::pem_slice_iter(certificates.as_bytes());
        let certificates: Vec<_> = certificates
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))?;
        let keys = PrivatePkcs8KeyDer::pem_slice_iter(keys.as_bytes());
        let keys: Vec<_> = keys
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))?;
        if certificates.is_empty() || certificates.len() != keys.len() || keys.len() > AUTHORITIES_MAX {
            let (certificates, keys) = (certificates.len(), keys.len());
            let told =
                format!("found {certificates} certificates and {keys} keys, expected one or a few of each");
            return Err(PapersError::Kept(told));
        }
        let kept = certificates
            .iter()
            .zip(&keys)
            .map(|(certificate, key)| Kept::read(certificate, key));
        kept.collect::<Result<_, _>>().map(Self)
    }

    /// Their certificates, PEM: what the API server is told to believe.
    pub fn certificates(&self) -> String {
        self.0.iter().map(|kept| kept.certificate.as_str()).collect()
    }

    /// Their keys, PEM.
    pub fn keys(&self) -> String {
        self.0.iter().map(|kept| kept.key.as_str()).collect()
    }

    /// With another one where the newest is about to expire, and without those that have; `None` when they are
    /// good as they are.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn renewed(&self, now: SystemTime) -> Result<Option<Self>, PapersError> {
        let is_alive = |kept: &&Kept| now < kept.not_after;
        let mut all: Vec<Kept> = self.0.iter().filter(is_alive).cloned().collect();
        let is_young = |kept: &Kept| now < kept.made + LIFETIME.mul_f64(RENEW_AFTER);
        if !all.last().is_some_and(is_young) {
            all.push(Kept::generate(now)?);
        }
        let all = Self(all);
        Ok((all != *self).then_some(all))
    }

    /// The one that signs: the newest that everybody has heard of, or else the oldest.
    fn signing(&self, now: SystemTime) -> Option<&Kept> {
        let is_settled = |kept: &&Kept| kept.made + SETTLING <= now;
        self.0.iter().rev().find(is_settled).or_else(|| self.0.first())
    }

    /// What to accept connections with, as `name`; what there is, where that is good still.
    pub(super) fn present(
        &self,
        before: Option<&Present>,
        name: &str,
        now: SystemTime,
    ) -> Result<Option<Present>, PapersError> {
        let none = || PapersError::Kept("there is none".to_owned());
        let signing = self.signing(now).ok_or_else(none)?;
        let is_good = |before: &Present| now < before.renew_at && before.authority == signing.certificate;
        if before.is_some_and(is_good) {
            return Ok(None);
        }
        let (key, not_after) = (KeyPair::generate()?, signing.not_after.min(now + LEAF_LIFETIME));
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.not_before = OffsetDateTime::from(now - BACKDATED);
        params.not_after = OffsetDateTime::from(not_after);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_pem(&signing.certificate, KeyPair::from_pem(&signing.key)?)?;
        let signed = params.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let lifetime = not_after.duration_since(now).unwrap_or_default();
        Ok(Some(Present {
            config: Arc::new(config),
            authority: signing.certificate.clone(),
            renew_at: now + lifetime.mul_f64(RENEW_AFTER),
        }))
    }
}

impl Kept {
    fn generate(now: SystemTime) -> Result<Self, PapersError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - BACKDATED);
        params.not_after = OffsetDateTime::from(now + LIFETIME);
        params
            .distinguished_name
            .push(DnType::CommonName, "jitney webhook");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?;
        let (certificate, key) = (certificate.pem(), key.serialize_der());
        let unreadable = |_| PapersError::Kept("it is no certificate".to_owned());
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unreadable)?;
        Self::read(&certificate, &PrivatePkcs8KeyDer::from(key))
    }

    /// What is told of it, is told by its certificate: every replica reads the same.
    fn read(certificate: &CertificateDer<'_>, key: &PrivatePkcs8KeyDer<'_>) -> Result<Self, PapersError> {
        let unreadable = |error: &dyn fmt::Display| PapersError::Kept(error.to_string());
        let (_, read) =
            x509_parser::parse_x509_certificate(certificate).map_err(|error| unreadable(&error))?;
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        };
        let validity = read.validity();
        let key = KeyPair::try_from(key).map_err(|error| unreadable(&error))?;
        Ok(Self {
            certificate: pem("CERTIFICATE", certificate),
            key: key.serialize_pem(),
            made: at(validity.not_before) + BACKDATED,
            not_after: at(validity.not_after),
        })
    }
}

/// How long an authority is good.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a certificate is, which is in memory only.
const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The share of its life after which either is renewed.
const RENEW_AFTER: f64 = 0.7;
/// How long after it was made an authority signs: replicas look every half a minute, and an API server that was
/// away hears of it when it is back.
const SETTLING: Duration = Duration::from_secs(600);
/// How far a clock may be behind.
const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// One that signs, one that will, and what was restored from somewhere.
const AUTHORITIES_MAX: usize = 8;

#[cfg(test)]
mod tests;
