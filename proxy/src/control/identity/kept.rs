//! The key and the certificate beside the snapshot, so that a sidecar that restarts while the control plane is away
//! is who it was. One file, which only its user may read, in a folder that only its user may enter.
//!
//! What is read is believed no more than a stranger: a root that is trusted without it must have signed it, and all
//! that can be told of it otherwise is told from the certificate. A line before it says whose name it was given to.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jitney_api::Workload;
use jitney_api::program::pem;
use jitney_api::push::config::{SignedCertificate, TrustBundle};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::snapshot::{Disk, IDENTITY};
use super::super::trust::Trust;
use crate::mtls::{Credentials, OneOfMesh, spiffe_id};

/// Where they are kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    disk: Disk,
    /// Who alone may own and read it.
    user: u32,
}

/// Who the sidecar says that it is.
#[derive(Debug)]
pub(super) struct Claim<'c> {
    /// Its --node.
    pub(super) node: &'c str,
    /// By its token; `None` when there is none, or it names nobody.
    pub(super) workload: Option<Workload>,
}

/// Why what is kept is not used, or nothing is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("{what} is user {owner}'s, and this sidecar runs as user {user}")]
    Stranger {
        what: &'static str,
        owner: u32,
        user: u32,
    },
    #[error("others than its owner have access to {what}, whose mode is {mode:03o}: chmod go= it")]
    Open { what: &'static str, mode: u32 },
    #[error("it is not whole: {0}")]
    Broken(String),
    #[error("it was given to --node {found}, and this sidecar is {expected}")]
    Node { found: String, expected: String },
    #[error("it is {found}'s, and the token is for {expected}")]
    Workload { found: Workload, expected: Workload },
    #[error("it has expired, or will within {} s", LEAST.as_secs())]
    Expired,
    #[error("its key is not that of its certificate: {0}")]
    Key(rustls::Error),
    #[error("no root that is trusted has signed it for now: {0}")]
    Chain(String),
}

impl Kept {
    pub(super) fn new(disk: Disk) -> Self {
        let user = nix::unistd::geteuid().as_raw();
        Self { disk, user }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.disk.folder().join(IDENTITY)
    }

    /// Replaces what is kept. Returns when it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written, or others would get at it.
    pub(super) fn save(&self, node: &str, credentials: &Credentials) -> Result<(), Refusal> {
        self.disk.make()?;
        self.check_folder()?;
        self.disk.replace(IDENTITY, &written(node, credentials))?;
        Ok(self.disk.sync()?)
    }

    /// What is kept, and its key, where it is this sidecar's and as good as new; `None` when there is nothing.
    ///
    /// # Errors
    /// Why it is not used.
    pub(super) fn load(
        &self,
        claim: &Claim<'_>,
        trust: &Trust,
        now: SystemTime,
    ) -> Result<Option<(SignedCertificate, Vec<u8>)>, Refusal> {
        let file = match File::open(self.file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        self.check_folder()?;
        self.check("the file", &file.metadata()?)?;
        let mut content = Vec::new();
        file.take(LENGTH_MAX).read_to_end(&mut content)?;
        Read::of(&content)?.checked(claim, trust, now).map(Some)
    }

    fn check_folder(&self) -> Result<(), Refusal> {
        self.check("its folder", &fs::metadata(self.disk.folder())?)
    }

    /// That nobody else can have read or written it.
    fn check(&self, what: &'static str, about: &fs::Metadata) -> Result<(), Refusal> {
        let (owner, user, mode) = (about.uid(), self.user, about.mode() & 0o777);
        if owner != user {
            return Err(Refusal::Stranger { what, owner, user });
        }
        if mode & OTHERS != 0 {
            return Err(Refusal::Open { what, mode });
        }
        Ok(())
    }
}

/// What the file says.
struct Read {
    node: String,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Read {
    fn of(content: &[u8]) -> Result<Self, Refusal> {
        let broken = |why: &str| Refusal::Broken(why.to_owned());
        let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let node = line.strip_prefix(NODE.as_bytes());
        let node = node.and_then(|node| serde_json::from_slice(node).ok());
        let node = node.ok_or_else(|| broken("it does not begin with the name of a node"))?;
        let (mut chain, mut keys) = (Vec::new(), Vec::new());
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(content) {
            match section.map_err(|error| Refusal::Broken(error.to_string()))? {
                (SectionKind::Certificate, der) => chain.push(CertificateDer::from(der)),
                (SectionKind::PrivateKey, der) => keys.push(der),
                (other, _) => return Err(Refusal::Broken(format!("found a section {other:?}"))),
            }
        }
        let [key] = keys
            .try_into()
            .map_err(|keys: Vec<_>| Refusal::Broken(format!("found {} keys, expected 1", keys.len())))?;
        if chain.is_empty() {
            return Err(broken("found no certificate"));
        }
        Ok(Self { node, chain, key })
    }

    fn checked(
        self,
        claim: &Claim<'_>,
        trust: &Trust,
        now: SystemTime,
    ) -> Result<(SignedCertificate, Vec<u8>), Refusal> {
        let Self { node, chain, key } = self;
        let leaf = chain.first();
        let id = leaf.and_then(|leaf| spiffe_id(leaf));
        let dates = leaf.and_then(|leaf| dates(leaf));
        let (Some(id), Some((not_before, not_after))) = (id, dates) else {
            return Err(Refusal::Broken("its certificate names no workload".to_owned()));
        };
        if node != claim.node {
            let (found, expected) = (node, claim.node.to_owned());
            return Err(Refusal::Node { found, expected });
        }
        if let Some(expected) = claim.workload.clone().filter(|named| *named != id.workload) {
            let found = id.workload;
            return Err(Refusal::Workload { found, expected });
        }
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if not_after <= (seconds + LEAST).as_secs() {
            return Err(Refusal::Expired);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let private = PrivatePkcs8KeyDer::from(key.clone()).into();
        CertifiedKey::from_der(chain.clone(), private, &provider).map_err(Refusal::Key)?;
        let roots = trust.roots().map_err(|error| Refusal::Chain(error.to_string()))?;
        verify(&chain, roots, &provider, seconds).map_err(|error| Refusal::Chain(error.to_string()))?;
        let is_issuer = |root: &&Bytes| {
            let mut only = RootCertStore::empty();
            let added = only.add(CertificateDer::from(root.to_vec()));
            added.is_ok() && verify(&chain, only, &provider, seconds).is_ok()
        };
        // As it is told when one is signed: the roots of now, and which of them has signed this one.
        let trust = trust.bundle().map(|TrustBundle { roots, .. }| TrustBundle {
            issuer: roots.iter().find(is_issuer).cloned().unwrap_or_default(),
            roots,
        });
        let signed = SignedCertificate {
            chain: chain.iter().map(|one| one.to_vec().into()).collect(),
            not_before,
            not_after,
            trust,
        };
        Ok((signed, key))
    }
}

/// Whether one of the roots has signed it, for a workload and for now.
fn verify(
    chain: &[CertificateDer<'static>],
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
    now: Duration,
) -> Result<(), rustls::Error> {
    let (leaf, between) = chain
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    let nobody = ServerName::from(std::net::IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED));
    let verifier = OneOfMesh::new(Arc::new(roots), Arc::clone(provider));
    let now = UnixTime::since_unix_epoch(now);
    verifier
        .verify_server_cert(leaf, between, &nobody, &[], now)
        .map(drop)
}

/// From when to when it is good, in seconds since the epoch.
fn dates(certificate: &[u8]) -> Option<(u64, u64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let [from, to] = [validity.not_before, validity.not_after].map(|at| u64::try_from(at.timestamp()));
    Some((from.ok()?, to.ok()?))
}

/// The key comes last: what is cut off has none.
fn written(node: &str, credentials: &Credentials) -> Vec<u8> {
    let mut text = format!("{NODE}{}\n", serde_json::Value::from(node));
    for certificate in &credentials.chain {
        text += &pem("CERTIFICATE", certificate);
    }
    text += &pem("PRIVATE KEY", &credentials.key);
    text.into_bytes()
}

/// Before the name of the node, a JSON string: what stands outside the sections of PEM is text (RFC 7468 section 5.2).
const NODE: &str = "node: ";

/// Permissions of whoever is not the owner.
const OTHERS: u32 = 0o077;

/// How long a certificate must be good still: with less, it would expire while the sidecar gets ready.
const LEAST: Duration = Duration::from_secs(60);

/// A certificate and a key are about 2 KiB.
const LENGTH_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests;
