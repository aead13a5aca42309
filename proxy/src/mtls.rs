//! TLS between sidecars: each shows the certificate of its workload, and both are looked at.
//!
//! Whoever connects says by the name of a protocol (ALPN, RFC 7301) that a sidecar is meant, so that TLS which
//! is the service's own is told apart and passed on unread. TLS 1.3 only; no session is resumed, as its
//! certificates were looked at by other roots.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use jitney_api::{SpiffeId, Workload};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    AlertDescription, ClientConfig, CommonState, InvalidMessage, RootCertStore, ServerConfig, version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[cfg(test)]
pub(crate) mod authority;
pub(crate) mod hello;
mod standing;
mod verify;

pub(crate) use standing::Standing;
pub(crate) use verify::{OneOfMesh, spiffe_id};

use crate::keepalive::Attended;
use crate::transport::Transport;
use crate::wire::Wire;
use standing::{Before, By};

/// Who this sidecar is to others, as of now. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Mesh(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown {
    present: ArcSwapOption<Present>,
    /// How often it was another certificate, or were other roots.
    times: AtomicU64,
    /// Told of other roots.
    roots_changed: watch::Sender<()>,
}

/// A certificate, and what it is used with.
struct Present {
    id: SpiffeId,
    not_after: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    callers: Arc<dyn ClientCertVerifier>,
    callees: Arc<OneOfMesh>,
    server: Arc<ServerConfig>,
    /// By [`Inside`].
    clients: [Arc<ClientConfig>; 3],
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// Whose it is.
    pub(crate) id: SpiffeId,
    /// The certificate first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    pub(crate) key: Vec<u8>,
    /// Until when it is good.
    pub(crate) not_after: SystemTime,
}

/// What is spoken within TLS; whoever connects says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// HTTP/2, whatever the call came as.
    Http2,
    /// HTTP/1.1, for a call that is to switch protocols.
    Http1,
    /// Bytes that are not HTTP.
    Bytes,
}

/// Why there is no TLS with another sidecar.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MtlsError {
    /// This one has no certificate, or none that is good still.
    #[error("this sidecar has no certificate")]
    NoCertificate,
    /// That one says that it has none, or that its callers are to be bare.
    #[error("the other sidecar has no certificate, or mtls.mode Disabled")]
    PeerDeclines,
    /// Nobody there knows TLS: a service without a sidecar, or one that speaks first, before a sidecar that does
    /// not look at its bytes.
    #[error("what answers does not speak TLS")]
    NoTls,
    /// It is somebody else.
    #[error("found {found}, expected a sidecar of {expected}")]
    Somebody { found: String, expected: String },
    /// It does not come about.
    #[error("TLS failed: {0}")]
    Failed(#[from] io::Error),
}

/// A connection that another sidecar made.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Transport<Attended>,
    /// Who made it.
    pub(crate) peer: SpiffeId,
    /// For how long that is proven.
    pub(crate) standing: Standing,
    pub(crate) inside: Inside,
}

/// A connection that was made to another sidecar.
#[derive(Debug)]
pub(crate) struct Connected<S> {
    pub(crate) stream: Transport<S>,
    /// For how long it is proven who took it.
    pub(crate) standing: Standing,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Present {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Present")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Inside {
    const ALL: [Self; 3] = [Self::Http2, Self::Http1, Self::Bytes];

    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"jitney-h2",
            Self::Http1 => b"jitney-http/1.1",
            Self::Bytes => b"jitney-tcp",
        }
    }

    fn of(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|inside| inside.alpn() == alpn)
    }
}

impl Mesh {
    /// Has connections that are made from now on show these credentials, and be checked against these roots.
    ///
    /// # Errors
    /// When TLS cannot use them; then all stays as it was.
    pub(crate) fn show(&self, credentials: &Credentials, roots: RootCertStore) -> io::Result<()> {
        let before = self.0.present.load_full();
        let has_same = |before: &Arc<Present>| before.roots.roots == roots.roots;
        let has_same_roots = before.as_ref().is_some_and(has_same);
        if has_same_roots && before.is_some_and(|before| before.chain == credentials.chain) {
            return Ok(());
        }
        let present = Present::new(credentials, roots).map_err(io::Error::other)?;
        self.0.present.store(Some(Arc::new(present)));
        self.0.times.fetch_add(1, Ordering::Release);
        if !has_same_roots {
            self.0.roots_changed.send_replace(());
        }
        Ok(())
    }

    /// Which certificate and roots these are, of all that there were.
    fn shown(&self) -> u64 {
        self.0.times.load(Ordering::Acquire)
    }

    fn before(&self) -> Before {
        Before {
            shown: self.shown(),
            roots_changed: self.0.roots_changed.subscribe(),
        }
    }

    /// Whether the roots of now would have taken certificates that were shown then.
    fn vouches_for(&self, chain: &[CertificateDer<'static>], by: By, then: SystemTime) -> bool {
        let (Some(present), Some((leaf, between))) = (self.0.present.load_full(), chain.split_first()) else {
            return false;
        };
        let then = then.duration_since(UNIX_EPOCH).unwrap_or_default();
        let then = UnixTime::since_unix_epoch(then);
        match by {
            By::Caller => present.callers.verify_client_cert(leaf, between, then).is_ok(),
            By::Callee => present.callees.verify(leaf, between, then).is_ok(),
        }
    }

    /// Whether there is a certificate that is good.
    pub(crate) fn is_known(&self) -> bool {
        self.present().is_ok()
    }

    fn present(&self) -> Result<Arc<Present>, MtlsError> {
        let present = self.0.present.load_full().ok_or(MtlsError::NoCertificate)?;
        let is_good = SystemTime::now() < present.not_after;
        is_good.then_some(present).ok_or(MtlsError::NoCertificate)
    }

    /// Has another sidecar prove who it is. `stream` begins with its hello.
    ///
    /// # Errors
    /// Why it does not. Whoever connects is told when it is this side that has no certificate.
    pub(crate) async fn accept(&self, mut stream: Wire<Attended>) -> Result<Accepted, MtlsError> {
        let before = self.before();
        let present = match self.present() {
            Ok(present) => present,
            Err(error) => {
                decline(&mut stream).await?;
                return Err(error);
            }
        };
        let stream = TlsAcceptor::from(Arc::clone(&present.server))
            .accept(stream)
            .await?;
        let state = stream.get_ref().1;
        let inside = state.alpn_protocol().and_then(Inside::of);
        let inside = inside.ok_or_else(|| io::Error::other("it does not say what it speaks"))?;
        let peer = present.peer(state)?;
        let standing = Standing::of(self, before, state, By::Caller);
        Ok(Accepted {
            stream: Transport::Secured(Box::new(stream.into())),
            peer,
            standing,
            inside,
        })
    }

    /// Connects to a sidecar of `peer`, over `stream`.
    ///
    /// # Errors
    /// Why it does not come about. Nothing was sent then that a call holds.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: &Workload,
        inside: Inside,
    ) -> Result<Connected<S>, MtlsError> {
        let before = self.before();
        let present = self.present()?;
        let config = Arc::clone(&present.clients[inside as usize]);
        // The certificate is checked for the workload's name, not for one of a host.
        let nobody = ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let connecting = TlsConnector::from(config).connect(nobody, Wire::new(stream));
        let stream = connecting.await.map_err(MtlsError::of)?;
        let found = present.peer(stream.get_ref().1)?;
        if found.workload != *peer {
            return Err(MtlsError::Somebody {
                found: found.to_string(),
                expected: peer.to_string(),
            });
        }
        let standing = Standing::of(self, before, stream.get_ref().1, By::Callee);
        Ok(Connected {
            stream: Transport::Secured(Box::new(stream.into())),
            standing,
        })
    }
}

impl MtlsError {
    fn of(error: io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Self::PeerDeclines,
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Self::NoTls,
            _ => Self::Failed(error),
        }
    }

    /// Whether one of both cannot, as while the control plane is away, or is not to.
    pub(crate) const fn is_want_of_certificate(&self) -> bool {
        matches!(self, Self::NoCertificate | Self::PeerDeclines | Self::NoTls)
    }
}

impl Present {
    fn new(
        credentials: &Credentials,
        roots: RootCertStore,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let callers =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        let callees = Arc::new(OneOfMesh::new(Arc::clone(&roots), Arc::clone(&provider)));
        let server = server(&provider, credentials, &callers)?;
        let client = |inside| client(&provider, credentials, &callees, inside).map(Arc::new);
        let [http2, http1, bytes] = Inside::ALL.map(client);
        Ok(Self {
            id: credentials.id.clone(),
            not_after: credentials.not_after,
            chain: credentials.chain.clone(),
            roots,
            callers,
            callees,
            server: Arc::new(server),
            clients: [http2?, http1?, bytes?],
        })
    }

    /// Whose certificate was shown, which TLS has verified.
    fn peer(&self, state: &CommonState) -> Result<SpiffeId, MtlsError> {
        let shown = state.peer_certificates().and_then(<[_]>::first);
        let id = shown.and_then(|leaf| spiffe_id(leaf));
        let id = id.ok_or_else(|| io::Error::other("the certificate names no workload"))?;
        if id.trust_domain != self.id.trust_domain {
            let reason = format!("{id} is not of {}", self.id.trust_domain);
            return Err(io::Error::other(reason).into());
        }
        Ok(id)
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    credentials: &Credentials,
    callers: &Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::clone(callers))
        .with_single_cert(credentials.chain.clone(), credentials.private_key())?;
    config.alpn_protocols = Inside::ALL.map(|inside| inside.alpn().to_vec()).into();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client(
    provider: &Arc<CryptoProvider>,
    credentials: &Credentials,
    callees: &Arc<OneOfMesh>,
    inside: Inside,
) -> Result<ClientConfig, rustls::Error> {
    let verifier: Arc<dyn ServerCertVerifier> = callees.clone();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(credentials.chain.clone(), credentials.private_key())?;
    config.alpn_protocols = vec![inside.alpn().to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Tells who connects that nothing is secured here. What it said first has been read.
pub(crate) async fn decline<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(&DECLINED).await?;
    stream.shutdown().await
}

impl Credentials {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// A fatal alert, `no_application_protocol` (RFC 8446 sections 5.1 and 6): this sidecar does not speak what it
/// is asked to, for as long as it has no certificate, or at all.
const DECLINED: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];
