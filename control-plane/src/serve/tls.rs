//! TLS of the port: TLS 1.3 only, HTTP/2 only, the certificate our own authority's, by the root that everybody
//! knows, and whoever shows a certificate shows one of the roots in force.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use jitney_api::Workload;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::identity::{AuthorityError, CertificateRequest, Roots, Trust};

/// What the next connection is accepted with. Connections that are open keep what they have.
pub struct Tls {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    present: ArcSwap<Present>,
}

struct Present {
    config: Arc<ServerConfig>,
    renew_at: SystemTime,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The control plane's own certificate cannot be made.
    #[error("cannot make the control plane's certificate: {0}")]
    Certificate(#[from] AuthorityError),
    /// Its key cannot be made.
    #[error("cannot make the control plane's key: {0}")]
    Key(#[from] rcgen::Error),
    /// The roots cannot be verified with.
    #[error("cannot verify with the roots: {0}")]
    Roots(#[from] rustls::server::VerifierBuilderError),
    /// Key, certificate or version are not to TLS's liking.
    #[error("cannot set up TLS: {0}")]
    Config(#[from] rustls::Error),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("renew_at", &self.present.load().renew_at)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// With a key and a certificate of its own.
    ///
    /// # Errors
    /// When the authority cannot sign.
    pub fn new(trust: &Arc<Trust>, now: SystemTime) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let present = present(&provider, &trust.roots(), now)?;
        Ok(Self {
            trust: Arc::clone(trust),
            provider,
            present: ArcSwap::from_pointee(present),
        })
    }

    /// What to accept the next connection with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.present.load().config)
    }

    /// Takes another key and certificate, signed by the root that everybody knows, and the roots in force.
    ///
    /// # Errors
    /// When the authority cannot sign. What there was stays.
    pub fn renew(&self, now: SystemTime) -> Result<(), TlsError> {
        let present = present(&self.provider, &self.trust.roots(), now)?;
        self.present.store(Arc::new(present));
        Ok(())
    }

    /// Renews the certificate before it expires, for as long as this is polled. After a change of the
    /// roots whoever notices it calls [`Tls::renew`].
    ///
    /// # Cancellation
    /// Safe: a renewal is done or not.
    pub async fn keep_renewed(&self) {
        loop {
            let renew_at = self.present.load_full().renew_at;
            let wait = renew_at.duration_since(SystemTime::now()).unwrap_or_default();
            // Clocks are set, and sleeps do not notice.
            tokio::time::sleep(wait.min(LOOK_EVERY)).await;
            let now = SystemTime::now();
            if now < renew_at {
                continue;
            }
            match self.renew(now) {
                Ok(()) => tracing::info!("the control plane's certificate is renewed"),
                Err(error) => {
                    tracing::error!(%error, "the control plane's certificate is not renewed");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }
}

fn present(provider: &Arc<CryptoProvider>, roots: &Roots, now: SystemTime) -> Result<Present, TlsError> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    let request = CertificateRequest::read(request.der())?;
    let issued = roots
        .vouching(now)
        .authority
        .sign(&request, &Workload::control_plane(), now)?;
    let mut trusted = RootCertStore::empty();
    for root in roots.all() {
        trusted.add(CertificateDer::from(root.authority.root().to_vec()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), Arc::clone(provider))
        .allow_unauthenticated()
        .build()?;
    let chain = [issued.certificate].into_iter().chain(issued.chain);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.map(CertificateDer::from).collect(), key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every connection proves itself anew: a session that is resumed would bring along a certificate
    // that was verified by other roots.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Present {
        config: Arc::new(config),
        renew_at: now + (issued.not_after.duration_since(now).unwrap_or_default()).mul_f64(RENEW_AFTER),
    })
}

/// The share of its life after which the certificate is renewed: below the 0.7 that sidecars keep to.
const RENEW_AFTER: f64 = 0.6;

/// The longest sleep between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(60);
