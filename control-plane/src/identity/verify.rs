//! Whether a root vouches for a certificate, as sidecars see it.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{Error, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::roots::Root;

impl Root {
    /// Whether a certificate is good by this root, with the help of those between.
    pub(super) fn vouches_for(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> bool {
        as_server(self.authority.root(), leaf, between, now).is_ok()
    }
}

/// That a root vouches for a certificate of who is connected to.
pub(super) fn as_server(
    root: &[u8],
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), Error> {
    let algorithms = default_provider().signature_verification_algorithms.all;
    let leaf = ParsedCertificate::try_from(leaf)?;
    verify_server_cert_signed_by_trust_anchor(&leaf, &only(root)?, between, unix(now), algorithms)
}

/// That it vouches for one of who connects.
pub(super) fn as_client(
    root: &[u8],
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), Error> {
    let roots = only(root)?.into();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, default_provider().into()).build();
    let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
    verifier.verify_client_cert(leaf, between, unix(now)).map(drop)
}

fn only(root: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root))?;
    Ok(roots)
}

fn unix(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}
