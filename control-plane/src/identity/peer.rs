//! Who is at the other end of a connection: what its certificate says, after TLS has verified it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jitney_api::{NotAWorkload, SpiffeId};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::{KeyHash, key_hash};
use super::roots::{RootId, Roots};

/// The owner of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub id: SpiffeId,
    /// The root that signed the certificate.
    pub root: RootId,
    /// Until when the certificate is good.
    pub not_after: SystemTime,
    /// The key that it is for.
    pub key: KeyHash,
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// SPIFFE X.509-SVID §2: exactly one.
    #[error("the certificate has {0} URI names, expected one")]
    Names(usize),
    /// The name is no workload's.
    #[error("the certificate's name: {0}")]
    Name(#[from] NotAWorkload),
    /// The name is of another mesh.
    #[error("the certificate is of trust domain {found:?}, expected {expected:?}")]
    TrustDomain {
        /// The name's.
        found: String,
        /// Ours.
        expected: String,
    },
    /// It was signed by none of the roots in force.
    #[error("the certificate was signed by a root that is not trusted")]
    Root,
    /// Its time is up.
    #[error("the certificate has expired")]
    Expired,
}

impl Peer {
    /// Reads certificates of which TLS has verified that one of the roots signed the first, with or without others
    /// in between, which follow it.
    ///
    /// # Errors
    /// Why they name nobody.
    pub fn read(
        chain: &[CertificateDer<'_>],
        trust_domain: &str,
        roots: &Roots,
        now: SystemTime,
    ) -> Result<Self, PeerFault> {
        let (leaf, between) = chain.split_first().ok_or(PeerFault::Unreadable)?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| PeerFault::Unreadable)?;
        let names = uris(&certificate)?;
        let [name] = names[..] else {
            return Err(PeerFault::Names(names.len()));
        };
        let id: SpiffeId = name.parse()?;
        if id.trust_domain != trust_domain {
            return Err(PeerFault::TrustDomain {
                found: id.trust_domain,
                expected: trust_domain.to_owned(),
            });
        }
        let root = match between {
            [] => key_id(&certificate).and_then(|key_id| roots.by_key(key_id)),
            // What is in between is whatever the other end shows: which of it TLS went by has to be found again.
            _ => roots.longest_trusted(|root| root.vouches_for(leaf, between, now)),
        };
        let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        Ok(Self {
            id,
            root: root.ok_or(PeerFault::Root)?.id,
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
            key: key_hash(certificate.public_key().raw),
        })
    }

    /// Whether the certificate is good still: a connection may be older than a change of the roots,
    /// and outlive its certificate.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, roots: &Roots, now: SystemTime) -> Result<(), PeerFault> {
        if self.not_after <= now {
            return Err(PeerFault::Expired);
        }
        roots.by_id(self.root).map(drop).ok_or(PeerFault::Root)
    }
}

/// URI names of a certificate. One with a name of another sort still has one identity.
fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, PeerFault> {
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|_| PeerFault::Unreadable)?;
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let uri = |name: &'a GeneralName<'_>| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        Some(*uri)
    };
    Ok(names.filter_map(uri).collect())
}

/// The identifier of the key that signed the certificate.
fn key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        id.key_identifier.as_ref().map(|id| id.0)
    })
}

#[cfg(test)]
mod tests;
