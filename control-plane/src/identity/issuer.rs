//! An authority that somebody else keeps: an issuing certificate, its key, and the roots that vouch for it, as they
//! are in a Secret of cert-manager. It is tried out before anything is signed with it.

use std::fmt;
use std::time::SystemTime;

use jitney_api::Workload;
use jitney_api::program::pem;
use rcgen::{CertificateParams, KeyPair};
use rustls::CertificateError;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::{Authority, AuthorityError, CertificateRequest, Issued, Stored};
use super::certificate::{Life, key_id, subject};
use super::verify::{as_client, as_server};

/// Somebody who can sign for the mesh. Whoever trusts the root takes what is signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Offer {
    stored: Stored,
    signer: String,
    life: Life,
}

/// What is offered, as text: the files of a Secret of the type `kubernetes.io/tls`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OfferFiles {
    /// `tls.crt`: the issuing certificate, and what is between it and a root; with or without the root.
    pub certificate: String,
    /// `tls.key`: its key, in PKCS #8, PKCS #1 or SEC 1.
    pub key: String,
    /// `ca.crt`: one or more roots.
    pub roots: String,
}

/// Why nothing is signed with it.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct OfferFault {
    /// The file that is to be another one.
    pub file: &'static str,
    /// What is wrong with it, and what to do.
    pub what: OfferWrong,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum OfferWrong {
    /// It has no section of the kind that it should have, or one that cannot be read.
    #[error("found {found}, expected {expected} in PEM")]
    Section {
        /// What there is.
        found: String,
        /// What there should be.
        expected: &'static str,
    },
    /// The certificate is no authority's.
    #[error("{0} may not sign certificates: issue it with isCA: true, and with the usage \"cert sign\"")]
    NotAnAuthority(String),
    /// Nobody could tell what it signs apart from what another one does.
    #[error("{0} has no subject key identifier, by which certificates say who signed them")]
    NoKeyId(String),
    /// Certificates repeat the subject of who signed them; such a one is not written as it was.
    #[error(
        "the subject {0:?} has an attribute more than once, with which nothing can be signed: issue it with one each"
    )]
    Subject(String),
    /// The key cannot be used.
    #[error(
        "it holds a key that cannot sign here: {0}; expected RSA, ECDSA with P-256, P-384 or P-521, or Ed25519"
    )]
    Key(#[source] rcgen::Error),
    /// The key is another one's.
    #[error(
        "it is not the key of the first certificate in {CERTIFICATE}, {0}: the three files have to be of one Secret"
    )]
    AnotherKey(String),
    /// It is too late.
    #[error("{subject} has expired at {at}: have it renewed")]
    Expired {
        /// Whose certificate.
        subject: String,
        /// When.
        at: String,
    },
    /// It is too early.
    #[error("{subject} is not good before {at}: see that the clocks agree")]
    Early {
        /// Whose certificate.
        subject: String,
        /// Until when.
        at: String,
    },
    /// The root is not there, or something between it and the issuing certificate.
    #[error(
        "none of its certificates ({roots}) vouches for {signer}: put the root there that does, and what is between both \
         into {CERTIFICATE}, after the issuing certificate"
    )]
    NoRoot {
        /// Who issues.
        signer: String,
        /// Who there is.
        roots: String,
    },
    /// Sidecars would not take what it signs.
    #[error("sidecars would take nothing that {signer} signs: {why}")]
    Useless {
        /// Who issues.
        signer: String,
        /// What a sidecar would say.
        why: String,
    },
    /// It cannot sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("signer", &self.signer)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OfferFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfferFiles(***)")
    }
}

impl Offer {
    /// Reads what is offered, and has it sign something that is looked at as a sidecar would.
    ///
    /// # Errors
    /// Which file is at fault, and why.
    pub fn read(files: &OfferFiles, trust_domain: &str, now: SystemTime) -> Result<Self, OfferFault> {
        let chain = certificates(&files.certificate).map_err(OfferWrong::of(CERTIFICATE))?;
        let roots = certificates(&files.roots).map_err(OfferWrong::of(ROOTS))?;
        let issuing = &chain[0];
        check_issuing(issuing).map_err(OfferWrong::of(CERTIFICATE))?;
        let key = key(&files.key, issuing).map_err(OfferWrong::of(KEY))?;
        for one in &chain {
            check_time(one, now).map_err(OfferWrong::of(CERTIFICATE))?;
        }
        let (mut refusal, mut odd) = (None, None);
        for root in &roots {
            if let Err(wrong) = check_root(root, now) {
                odd.get_or_insert(wrong);
                continue;
            }
            let stored = stored(&chain, &key, root);
            let authority = Authority::load(trust_domain, &stored);
            let authority = authority.map_err(|error| OfferWrong::of(CERTIFICATE)(error.into()))?;
            match tried(&authority, now) {
                Ok(()) => {
                    return Ok(Self {
                        signer: subject(issuing),
                        life: authority.life(),
                        stored,
                    });
                }
                Err(Tried::Wrong(wrong)) => return Err(OfferWrong::of(CERTIFICATE)(wrong)),
                Err(Tried::Unknown) => {}
                Err(Tried::Refused(why)) => refusal = Some(why),
            }
        }
        let signer = subject(issuing);
        if let Some(why) = refusal {
            return Err(OfferWrong::of(CERTIFICATE)(OfferWrong::Useless { signer, why }));
        }
        let names = || {
            roots
                .iter()
                .map(|root| subject(root))
                .collect::<Vec<_>>()
                .join("; ")
        };
        let wrong = odd.unwrap_or_else(|| OfferWrong::NoRoot {
            signer,
            roots: names(),
        });
        Err(OfferWrong::of(ROOTS)(wrong))
    }

    /// As it is kept.
    pub(super) const fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Who issues, as the certificate names it.
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// Of the certificates from the issuing one to the root, the life that ends first.
    pub const fn life(&self) -> Life {
        self.life
    }
}

impl OfferWrong {
    fn of(file: &'static str) -> impl Fn(Self) -> OfferFault {
        move |what| OfferFault { file, what }
    }
}

/// The offer with one of the roots: what is between it and the issuing certificate, and nothing where both are one.
fn stored(chain: &[CertificateDer<'_>], key: &str, root: &CertificateDer<'_>) -> Stored {
    let is_issuing = chain.first() == Some(root);
    let between = chain.iter().filter(|one| !is_issuing && *one != root);
    Stored {
        certificate: pem(SECTION, root),
        key: key.to_owned(),
        chain: between.map(|one| pem(SECTION, one)).collect(),
    }
}

/// How a certificate that was signed to see what becomes of it was refused.
enum Tried {
    /// Not even signed.
    Wrong(OfferWrong),
    /// This root has nothing to do with it.
    Unknown,
    /// For what the chain says.
    Refused(String),
}

/// Signs for the workload that is signed for first, and looks at it from both ends of a connection.
fn tried(authority: &Authority, now: SystemTime) -> Result<(), Tried> {
    let wrong = |error: AuthorityError| Tried::Wrong(error.into());
    let made = KeyPair::generate().and_then(|key| CertificateParams::default().serialize_request(&key));
    let request = made.map_err(|error| wrong(AuthorityError::Signing(error)))?;
    let request = CertificateRequest::read(request.der()).map_err(wrong)?;
    let signed = authority.sign(&request, &Workload::control_plane(), now);
    let signed = signed.map_err(wrong)?;
    let Issued {
        certificate, chain, ..
    } = signed;
    let leaf = CertificateDer::from(certificate);
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    for verify in [as_server, as_client] {
        verify(authority.root(), &leaf, &chain, now).map_err(refused)?;
    }
    Ok(())
}

fn refused(error: rustls::Error) -> Tried {
    let rustls::Error::InvalidCertificate(error) = error else {
        return Tried::Refused(error.to_string());
    };
    if matches!(
        error,
        CertificateError::UnknownIssuer | CertificateError::BadSignature
    ) {
        return Tried::Unknown;
    }
    let why = if let CertificateError::Other(other) = &error {
        other.0.to_string()
    } else {
        error.to_string()
    };
    let way_out = if why.contains("PathLen") {
        ": a path length leaves no room for what is signed; issue it with one that does"
    } else if why.contains("NameConstraint") {
        ": name constraints do not let names of workloads through, which are URIs; issue it without"
    } else if why.contains("extended key usage") {
        "; issue it without extended key usages, or with both server and client auth"
    } else {
        ""
    };
    Tried::Refused(format!("{why}{way_out}"))
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, OfferWrong> {
    let section = |found: String| OfferWrong::Section {
        found,
        expected: "one certificate or more",
    };
    let mut all = Vec::new();
    for one in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let one = one.map_err(|error| section(format!("what is not whole ({error})")))?;
        let number = all.len() + 1;
        if X509Certificate::from_der(&one).is_err() {
            return Err(section(format!(
                "a section (number {number}) that is no certificate"
            )));
        }
        if number > MOST {
            return Err(section(format!("more than {MOST}")));
        }
        if !all.contains(&one) {
            all.push(one);
        }
    }
    if all.is_empty() {
        return Err(section("none".to_owned()));
    }
    Ok(all)
}

fn check_issuing(issuing: &CertificateDer<'_>) -> Result<(), OfferWrong> {
    let name = || subject(issuing);
    let Ok((_, read)) = X509Certificate::from_der(issuing) else {
        return Err(OfferWrong::NotAnAuthority(name()));
    };
    let may_sign = read
        .key_usage()
        .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    if !read.is_ca() || !may_sign {
        return Err(OfferWrong::NotAnAuthority(name()));
    }
    let mut seen = Vec::new();
    for part in read.subject().iter() {
        let kinds: Vec<_> = part.iter().map(|attribute| attribute.attr_type()).collect();
        let is_single = matches!(&kinds[..], [kind] if !seen.contains(kind));
        if !is_single {
            return Err(OfferWrong::Subject(name()));
        }
        seen.extend(kinds);
    }
    Ok(())
}

/// Of a root there has to be a way to tell what it signed.
fn check_root(root: &CertificateDer<'_>, now: SystemTime) -> Result<(), OfferWrong> {
    check_time(root, now)?;
    match key_id(root) {
        Some(_) => Ok(()),
        None => Err(OfferWrong::NoKeyId(subject(root))),
    }
}

fn check_time(certificate: &CertificateDer<'_>, now: SystemTime) -> Result<(), OfferWrong> {
    let subject = || subject(certificate);
    let Some(life) = Life::of(certificate) else {
        return Err(OfferWrong::NotAnAuthority(subject()));
    };
    if life.until <= now {
        let (subject, at) = (subject(), shown(life.until));
        return Err(OfferWrong::Expired { subject, at });
    }
    if life.from > now {
        let (subject, at) = (subject(), shown(life.from));
        return Err(OfferWrong::Early { subject, at });
    }
    Ok(())
}

/// The key as it is kept: as it came, with nothing around it.
fn key(text: &str, issuing: &CertificateDer<'_>) -> Result<String, OfferWrong> {
    let found = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| OfferWrong::Section {
        found: if text.contains("ENCRYPTED") {
            "an encrypted one"
        } else {
            "none"
        }
        .to_owned(),
        expected: "a private key that is not encrypted,",
    })?;
    // Whoever reads it goes by what is in it.
    let label = "PRIVATE KEY";
    let key = KeyPair::try_from(&found).map_err(OfferWrong::Key)?;
    let is_its_own = X509Certificate::from_der(issuing).is_ok_and(|(_, issuing)| {
        let public = &issuing.public_key().subject_public_key.data;
        public.as_ref() == key.public_key_raw()
    });
    if !is_its_own {
        return Err(OfferWrong::AnotherKey(subject(issuing)));
    }
    Ok(pem(label, found.secret_der()))
}

/// RFC 3339, to the second.
fn shown(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// The files of a Secret of the type `kubernetes.io/tls`.
pub const CERTIFICATE: &str = "tls.crt";
/// See [`CERTIFICATE`].
pub const KEY: &str = "tls.key";
/// See [`CERTIFICATE`].
pub const ROOTS: &str = "ca.crt";

const SECTION: &str = "CERTIFICATE";

/// Certificates in a file: each between the issuing one and the root is in every handshake.
const MOST: usize = 8;

#[cfg(test)]
pub(crate) mod pki;
#[cfg(test)]
mod tests;
