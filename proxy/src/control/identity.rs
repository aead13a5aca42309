//! Who this sidecar is: a key that never leaves its memory, and a certificate that says whose it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jitney_api::SpiffeId;
use jitney_api::push::config::certificates_client::CertificatesClient;
use jitney_api::push::config::{SignedCertificate, SigningRequest};
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::Shared;
use super::backoff::random;
use super::channel::{Channel, ControlPlaneUrl};
use super::session::Broken;
use super::trust::{Trust, spiffe_id};

/// The certificate, and how to get another.
#[derive(Debug)]
pub(super) struct Identity {
    token_file: PathBuf,
    standing: Shared,
    present: Option<Credentials>,
    /// Of the request under way: a token is good for one key, and its answer may get lost.
    next_key: Option<KeyPair>,
    /// The control plane does not take the certificate, although its time is not up.
    is_doubted: bool,
    /// When to take one from the new issuer, once there is one.
    switch_at: Option<SystemTime>,
}

/// A certificate and its key.
struct Credentials {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    key: Vec<u8>,
    /// The root that signed it.
    issuer: Vec<u8>,
    not_after: SystemTime,
    /// Jittered: sidecars that started together do not come back together.
    renew_at: SystemTime,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("{0}")]
    Token(io::Error),
    #[error("no key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("no certificate came: {}: {}", .0.code(), .0.message())]
    Refused(Box<tonic::Status>),
    #[error("the control plane sent a certificate that is none: {0}")]
    Unusable(&'static str),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Identity {
    pub(super) fn new(token_file: PathBuf, standing: Shared) -> Self {
        Self {
            token_file,
            standing,
            present: None,
            next_key: None,
            is_doubted: false,
            switch_at: None,
        }
    }

    /// The control plane does not take the certificate: the next one is asked for with a token.
    pub(super) const fn doubt(&mut self) {
        self.is_doubted = true;
    }

    /// Whose sidecar this is; `None` before the first certificate.
    pub(super) fn id(&self) -> Option<&SpiffeId> {
        self.present.as_ref().map(|present| &present.id)
    }

    /// How long the certificate is good without being renewed; zero when there is none.
    pub(super) fn fresh_for(&mut self, trust: &Trust, now: SystemTime) -> Duration {
        let Some(present) = self.present.as_ref().filter(|_| !self.is_doubted) else {
            return Duration::ZERO;
        };
        let left = present.renew_at.duration_since(now).unwrap_or_default();
        if !trust.is_outdated(&present.issuer) {
            self.switch_at = None;
            return left;
        }
        let switch_at = *self
            .switch_at
            .get_or_insert_with(|| now + SWITCHING.mul_f64(random()));
        left.min(switch_at.duration_since(now).unwrap_or_default())
    }

    /// Whether a stream can be opened with it.
    fn is_good(&self, now: SystemTime) -> bool {
        let is_in_time = |present: &Credentials| present.not_after > now;
        !self.is_doubted && self.present.as_ref().is_some_and(is_in_time)
    }

    /// Gets a certificate: with the present one while that is good, else with a token.
    pub(super) async fn renew(&mut self, url: &ControlPlaneUrl, trust: &Trust) -> Result<(), Broken> {
        let is_good = self.is_good(SystemTime::now());
        let asked = self.ask(url, trust, is_good).await;
        // Without a token that is good, the certificate may be taken again.
        let is_not_taken = |broken: &Broken| is_good && broken.is_about_identity();
        self.is_doubted = asked.as_ref().err().is_some_and(is_not_taken);
        asked
    }

    async fn ask(&mut self, url: &ControlPlaneUrl, trust: &Trust, is_good: bool) -> Result<(), Broken> {
        let key = match self.next_key.take() {
            Some(key) => key,
            None => KeyPair::generate().map_err(IdentityError::from)?,
        };
        let key = self.next_key.insert(key);
        let request = CertificateParams::default().serialize_request(key);
        let request = request.map_err(IdentityError::from)?;
        let key = key.serialize_der();
        let token = if is_good { String::new() } else { self.token()? };
        let channel = Channel::connect(url, self.tls(trust)?).await?;
        let request = SigningRequest {
            request: request.der().to_vec().into(),
            token,
        };
        let mut client = CertificatesClient::with_origin(channel, url.origin());
        let signing = tokio::time::timeout(PATIENCE, client.sign(request));
        let signed = signing
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer"));
        let signed = signed.and_then(|signed| signed);
        let signed = signed
            .map_err(|status| IdentityError::Refused(Box::new(status)))?
            .into_inner();
        let credentials = Credentials::of(&signed, key)?;
        if let Some(bundle) = signed.trust {
            trust
                .replace(bundle)
                .map_err(|_| IdentityError::Unusable("its trust bundle"))?;
        }
        tracing::info!(identity = %credentials.id, "certificate received");
        let mut standing = self.standing.lock();
        standing.identity = Some(credentials.id.to_string());
        standing.expires = Some(credentials.not_after);
        drop(standing);
        self.present = Some(credentials);
        self.next_key = None;
        Ok(())
    }

    /// It could not be renewed: after a pause it is tried again, several times before it expires.
    pub(super) fn postpone(&mut self, now: SystemTime) {
        if let Some(present) = &mut self.present {
            let left = present.not_after.duration_since(now).unwrap_or_default();
            let again = now + left.mul_f64(0.05 + 0.05 * random()).max(PATIENCE);
            present.renew_at = again;
            self.switch_at = Some(again);
        }
    }

    fn token(&self) -> Result<String, IdentityError> {
        read_token(&self.token_file).map_err(IdentityError::Token)
    }

    /// What a connection is made with: the certificate where there is a good one.
    pub(super) fn tls(&self, trust: &Trust) -> io::Result<Arc<ClientConfig>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(trust.verifier()?);
        let present = self.present.as_ref().filter(|_| self.is_good(SystemTime::now()));
        let mut config = match present {
            Some(Credentials { chain, key, .. }) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
                builder
                    .with_client_auth_cert(chain.clone(), key)
                    .map_err(io::Error::other)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is resumed is one whose certificates nobody looks at again.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

impl Credentials {
    fn of(signed: &SignedCertificate, key: Vec<u8>) -> Result<Self, IdentityError> {
        let chain = signed.chain.iter().map(|one| CertificateDer::from(one.to_vec()));
        let chain: Vec<_> = chain.collect();
        let leaf = chain.first().ok_or(IdentityError::Unusable("it is empty"))?;
        let id = spiffe_id(leaf).ok_or(IdentityError::Unusable("it names no workload"))?;
        let [not_before, not_after] =
            [signed.not_before, signed.not_after].map(|at| UNIX_EPOCH + Duration::from_secs(at));
        let lifetime = not_after.duration_since(not_before);
        let lifetime = lifetime.map_err(|_| IdentityError::Unusable("it ends before it begins"))?;
        let issuer = signed.trust.as_ref().map(|trust| trust.issuer.to_vec());
        Ok(Self {
            id,
            chain,
            key,
            issuer: issuer.unwrap_or_default(),
            not_after,
            renew_at: not_before + lifetime.mul_f64(0.63 + 0.14 * random()),
        })
    }
}

/// A line; `name: value` of a longer file is none.
fn read_token(file: &Path) -> io::Result<String> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("--token-file {}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(named)?;
    let token = text.trim();
    if token.is_empty() || token.len() > TOKEN_MAX {
        let reason = format!("found {} characters, expected 1 to {TOKEN_MAX}", token.len());
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    Ok(token.to_owned())
}

/// A Kubernetes token is about 1 KiB.
const TOKEN_MAX: usize = 16 << 10;

/// The longest that the control plane may take to sign.
const PATIENCE: Duration = Duration::from_secs(10);

/// All sidecars get a certificate from the new issuer within this time.
const SWITCHING: Duration = Duration::from_secs(10);
