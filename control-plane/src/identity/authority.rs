//! The certificate authority of a mesh: short-lived certificates for SPIFFE IDs.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use jitney_api::{SpiffeId, Workload, is_trust_domain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;

use super::certificate::{Life, subject};

/// Signs certificates of one trust domain: with a root's own key, or with one that the root vouches for.
pub struct Authority {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    root: Vec<u8>,
    /// Between the root and what is signed here, the issuing certificate first; none where the root itself signs.
    chain: Vec<Vec<u8>>,
    /// Of the certificate among these that ends first.
    life: Life,
}

/// A request for a certificate, whose signature shows that the asker has the key.
pub struct CertificateRequest(CertificateSigningRequestParams);

/// The SHA-256 of a public key (SubjectPublicKeyInfo, DER).
pub type KeyHash = [u8; 32];

/// An authority as it is kept: secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// The root's certificate, PEM.
    pub certificate: String,
    /// The key that signs, PEM: the root's, or that of the first certificate of the chain.
    pub key: String,
    /// The issuing certificate and those between it and the root, PEM; empty where the root itself signs.
    pub chain: String,
}

/// A certificate that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Whose it is.
    pub id: SpiffeId,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Those between it and the root, DER, in this order.
    pub chain: Vec<Vec<u8>>,
    /// From when it is good: a little before it was signed, for clocks that are slow.
    pub not_before: SystemTime,
    /// Until when: for [`LIFETIME`], or until the first of those above it ends.
    pub not_after: SystemTime,
}

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The name cannot be in a SPIFFE ID.
    #[error("trust domain: found {0:?}, expected lower-case letters, digits, '.', '-' and '_'")]
    TrustDomain(String),
    /// The request is none, its signature does not fit its key, or its key is of a kind not signed here.
    #[error("certificate signing request: {0}")]
    Request(#[source] rcgen::Error),
    /// The stored certificate or key cannot be used.
    #[error("stored authority: {0}")]
    Stored(#[source] rcgen::Error),
    /// Nothing that it signs would be good.
    #[error("what signs certificates has expired: {0}")]
    Expired(String),
    /// The certificate could not be made.
    #[error("cannot sign: {0}")]
    Signing(#[source] rcgen::Error),
}

/// How long a sidecar's certificate is good. It is refreshed long before.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a root is good that an authority made for itself.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far a clock may be behind.
pub(super) const BACKDATED: Duration = Duration::from_secs(5 * 60);

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stored(***)")
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateRequest")
    }
}

impl CertificateRequest {
    /// Reads a request (PKCS #10, DER).
    ///
    /// # Errors
    /// When it cannot be read, or its signature does not show that the asker has the key.
    pub fn read(request: &[u8]) -> Result<Self, AuthorityError> {
        CertificateSigningRequestParams::from_der(&request.into())
            .map(Self)
            .map_err(AuthorityError::Request)
    }

    /// The key that it is for.
    pub fn key_hash(&self) -> KeyHash {
        key_hash(&self.0.public_key.subject_public_key_info())
    }
}

impl Authority {
    /// A new authority, with a root and a key of its own.
    ///
    /// # Errors
    /// When the name of the trust domain cannot be in a SPIFFE ID, or no key can be made.
    pub fn generate(trust_domain: &str, now: SystemTime) -> Result<(Self, Stored), AuthorityError> {
        check(trust_domain)?;
        let key = KeyPair::generate().map_err(AuthorityError::Signing)?;
        let mut params = dated(now, ROOT_LIFETIME);
        params.distinguished_name = named(&format!("jitney root of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // SPIFFE X.509-SVID §4.1: a signing certificate names its trust domain.
        let name = format!("spiffe://{trust_domain}").as_str().try_into();
        params.subject_alt_names = vec![SanType::URI(name.map_err(AuthorityError::Signing)?)];
        let root = params.self_signed(&key).map_err(AuthorityError::Signing)?;
        let stored = Stored {
            certificate: root.pem(),
            key: key.serialize_pem(),
            chain: String::new(),
        };
        let authority = Self::load(trust_domain, &stored)?;
        Ok((authority, stored))
    }

    /// An authority that was stored.
    ///
    /// # Errors
    /// When certificate or key cannot be read.
    pub fn load(trust_domain: &str, stored: &Stored) -> Result<Self, AuthorityError> {
        check(trust_domain)?;
        let key = KeyPair::from_pem(&stored.key).map_err(AuthorityError::Stored)?;
        let unreadable = || AuthorityError::Stored(rcgen::Error::CouldNotParseCertificate);
        let root = CertificateDer::from_pem_slice(stored.certificate.as_bytes()).map_err(|_| unreadable())?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(stored.chain.as_bytes()).collect();
        let chain = chain.map_err(|_| unreadable())?;
        let issuing = chain.first().unwrap_or(&root);
        let issuer = Issuer::from_ca_cert_der(issuing, key).map_err(AuthorityError::Stored)?;
        let lives: Option<Vec<Life>> = chain.iter().chain([&root]).map(|one| Life::of(one)).collect();
        let life = lives.and_then(|lives| lives.into_iter().min_by_key(|life| life.until));
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            issuer,
            life: life.ok_or_else(unreadable)?,
            chain: chain.iter().map(|one| one.to_vec()).collect(),
            root: root.to_vec(),
        })
    }

    /// The root's certificate, DER.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Who signs with another key than the root's, as its certificate names it; `None` where the root does.
    pub fn signer(&self) -> Option<String> {
        self.chain.first().map(|issuing| subject(issuing))
    }

    /// Of the root, the issuing certificate and those between, the life that ends first: nothing that is signed here
    /// is good for longer.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Since when the youngest of the certificates is good that come with what is signed here.
    pub(super) fn chain_since(&self) -> Option<SystemTime> {
        let since = |one: &Vec<u8>| Some(Life::of(one)?.from);
        self.chain.iter().filter_map(since).max()
    }

    /// Signs a request for a workload. Of the request only the key is used: what else it asks for,
    /// names above all, is not for the asker to say.
    ///
    /// # Errors
    /// When the certificate cannot be made, or would be good for no time at all.
    pub fn sign(
        &self,
        request: &CertificateRequest,
        workload: &Workload,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let id = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            workload: workload.clone(),
        };
        if self.life.until <= now {
            let who = self.signer().unwrap_or_else(|| subject(&self.root));
            return Err(AuthorityError::Expired(who));
        }
        let not_after = self.life.until.min(now + LIFETIME);
        let mut params = dated(now, LIFETIME);
        params.not_after = OffsetDateTime::from(not_after);
        let name = id
            .to_string()
            .as_str()
            .try_into()
            .map_err(AuthorityError::Signing)?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let signed = params
            .signed_by(&request.0.public_key, &self.issuer)
            .map_err(AuthorityError::Signing)?;
        Ok(Issued {
            id,
            certificate: signed.der().to_vec(),
            chain: self.chain.clone(),
            not_before: now - BACKDATED,
            not_after,
        })
    }
}

/// The hash of a key (SubjectPublicKeyInfo, DER).
pub(super) fn key_hash(key: &[u8]) -> KeyHash {
    let hash = digest::digest(&digest::SHA256, key);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn check(trust_domain: &str) -> Result<(), AuthorityError> {
    if is_trust_domain(trust_domain) {
        Ok(())
    } else {
        Err(AuthorityError::TrustDomain(trust_domain.to_owned()))
    }
}

fn dated(now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now - BACKDATED);
    params.not_after = OffsetDateTime::from(now + lifetime);
    params
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(test)]
mod tests;
