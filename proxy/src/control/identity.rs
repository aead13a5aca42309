//! Who this sidecar is: a key, and a certificate that says whose it is. The key leaves its memory for that of the
//! process that takes its place, and for the folder of --snapshot, where there is one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

mod claimed;
mod kept;
mod renewal;

use jitney_api::SpiffeId;
use jitney_api::push::config::certificates_client::CertificatesClient;
use jitney_api::push::config::{SignedCertificate, SigningRequest};
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;

use super::channel::{Channel, ControlPlaneUrl};
use super::session::Broken;
use super::snapshot::Disk;
use super::trust::Trust;
use super::{Papers, Settings, Shared, SharedPapers};
use crate::mtls::{Credentials, Mesh, spiffe_id};
use claimed::claimed;
use kept::{Claim, Kept};
use renewal::Renewal;

/// The certificate, and how to get another.
#[derive(Debug)]
pub(super) struct Identity {
    token_file: PathBuf,
    /// What this sidecar calls itself.
    node: String,
    standing: Shared,
    mesh: Mesh,
    papers: SharedPapers,
    present: Option<Held>,
    /// Where it outlives the process.
    kept: Option<Kept>,
    /// Of the request under way: a token is good for one key, and its answer may get lost.
    next_key: Option<KeyPair>,
    /// How often in a row the certificate may have been turned away, although its time is not up.
    turned_away: usize,
    /// The control planes that there are.
    planes: usize,
}

/// The certificate in use.
#[derive(Debug)]
struct Held {
    credentials: Credentials,
    /// As it came.
    signed: SignedCertificate,
    /// When there is to be another one.
    renewal: Renewal,
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
    #[error("{}; {way_out}", status.message())]
    TokenRefused {
        way_out: String,
        status: Box<tonic::Status>,
    },
    #[error("the control plane sent a certificate that is none: {0}")]
    Unusable(&'static str),
}

/// Of whoever has shown a token, with what can be done where that is refused.
fn refused(status: tonic::Status, way_out: Option<String>) -> IdentityError {
    let status = Box::new(status);
    match way_out.filter(|_| status.code() == tonic::Code::Unauthenticated) {
        Some(way_out) => IdentityError::TokenRefused { way_out, status },
        None => IdentityError::Refused(status),
    }
}

/// What becomes of a refused token. A control plane's own begins with its version; any other is an account's.
fn way_out(token: &str, file: &Path) -> String {
    let file = file.display();
    if token.starts_with("v1.") {
        return format!(
            "a token is good for one start of one sidecar: write a new one to --token-file {file} (jitney-control-plane token \
             NAMESPACE/ACCOUNT), and it is taken up within seconds"
        );
    }
    format!(
        "--token-file {file} is to be a token of the pod's service account for the audience jitney.dev, as kubelet mounts and renews it"
    )
}

impl Identity {
    pub(super) fn new(settings: &Settings, standing: Shared, mesh: Mesh) -> Self {
        Self {
            token_file: settings.token_file.clone(),
            node: settings.node.clone(),
            standing,
            mesh,
            papers: Arc::clone(&settings.papers),
            present: None,
            kept: settings.snapshot.clone().map(Disk::new).map(Kept::new),
            next_key: None,
            turned_away: 0,
            planes: settings.urls.len(),
        }
    }

    /// Goes on as the process before this one, where that has said who it was.
    pub(super) fn inherit(&mut self, trust: &Trust) {
        let Some(papers) = self.papers.lock().take() else {
            return;
        };
        if papers.node != self.node {
            let (node, other) = (&self.node, &papers.node);
            tracing::info!(
                node,
                other,
                "the process before this one had another --node; its certificate is kept"
            );
        }
        let held = SignedCertificate::decode(papers.signed.as_slice())
            .map_err(|error| error.to_string())
            .and_then(|signed| Held::of(signed, papers.key).map_err(|error| error.to_string()));
        match held {
            Ok(held) => {
                if let Some(Err(reason)) = held.signed.trust.clone().map(|roots| trust.remember(roots)) {
                    tracing::warn!(reason, "the roots of the process before this one are not used");
                }
                self.hold(held, trust);
                self.keep();
                self.compare_token();
            }
            Err(reason) => tracing::warn!(
                reason,
                "the certificate of the process before this one is not used"
            ),
        }
    }

    /// Goes on with what is kept on disk, unless there is a process before this one to go on as.
    pub(super) fn bring_back(&mut self, trust: &Trust, now: SystemTime) {
        let Some(kept) = self.kept.as_ref().filter(|_| self.present.is_none()) else {
            return;
        };
        let token = self.token().ok();
        let claim = Claim {
            node: &self.node,
            workload: token.and_then(|token| claimed(&token)),
        };
        let held = kept
            .load(&claim, trust, now)
            .map_err(|refusal| refusal.to_string())
            .and_then(|found| {
                let held = found.map(|(signed, key)| Held::of(signed, key)).transpose();
                held.map_err(|error| error.to_string())
            });
        match held {
            Ok(None) => {}
            Ok(Some(held)) => {
                tracing::info!(identity = %held.credentials.id, "the certificate is back from disk");
                self.hold(held, trust);
            }
            Err(reason) => {
                let file = kept.file();
                tracing::warn!(file = %file.display(), reason, "the certificate that was kept is not used");
            }
        }
    }

    /// Has the certificate outlive the process.
    fn keep(&self) {
        let (Some(kept), Some(held)) = (&self.kept, &self.present) else {
            return;
        };
        if let Err(reason) = kept.save(&self.node, &held.credentials) {
            let file = kept.file();
            tracing::warn!(
                file = %file.display(),
                %reason,
                "the certificate is not kept: a start while the control plane is away begins without"
            );
        }
    }

    /// Tells of a token that would have made this another workload's sidecar than the one before it was.
    fn compare_token(&self) {
        let token = self.token().ok();
        let (Some(id), Some(claimed)) = (self.id(), token.and_then(|token| claimed(&token))) else {
            return;
        };
        if claimed != id.workload {
            let file = self.token_file.display();
            tracing::warn!(
                "the token in --token-file {file} is for {claimed}, and the process before this one is {id}: this one \
                 goes on as {}; to be another workload's, it has to be started once that one has ended",
                id.workload
            );
        }
    }

    /// A control plane may not have taken the certificate. Once none of them has, the next one is asked for with
    /// a token.
    pub(super) const fn doubt(&mut self) {
        self.turned_away = self.turned_away.saturating_add(1);
    }

    /// Whether no control plane takes the certificate. One of them was asked twice: a connection that breaks while
    /// it is made looks the same.
    const fn is_doubted(&self) -> bool {
        self.turned_away > self.planes
    }

    /// Whose sidecar this is; `None` before the first certificate.
    pub(super) fn id(&self) -> Option<&SpiffeId> {
        self.present.as_ref().map(|present| &present.credentials.id)
    }

    /// How long the certificate is good without being renewed; zero when there is none.
    pub(super) fn fresh_for(&mut self, trust: &Trust, now: SystemTime) -> Duration {
        let Some(present) = self.present.as_mut().filter(|_| self.turned_away <= self.planes) else {
            return Duration::ZERO;
        };
        let is_outdated = trust.is_outdated(present.issuer());
        present.renewal.wait(is_outdated, now)
    }

    /// A stream is open: the certificate is taken, and what could not be had of the control plane before may be
    /// had of this one.
    pub(super) const fn connected(&mut self) {
        self.turned_away = 0;
        if let Some(present) = &mut self.present {
            present.renewal.connected();
        }
    }

    /// Whether a stream can be opened with it.
    pub(super) fn is_good(&self, now: SystemTime) -> bool {
        let is_in_time = |present: &Held| present.credentials.not_after > now;
        !self.is_doubted() && self.present.as_ref().is_some_and(is_in_time)
    }

    /// Gets a certificate: with the present one while that is good, else with a token.
    pub(super) async fn renew(&mut self, url: &ControlPlaneUrl, trust: &Trust) -> Result<(), Broken> {
        let is_good = self.is_good(SystemTime::now());
        let asked = self.ask(url, trust, is_good).await;
        match &asked {
            Err(broken) if is_good => {
                if broken.is_about_identity() {
                    self.doubt();
                }
            }
            // Nobody was asked.
            Err(Broken::Connect(_)) => {}
            // Without a token that is good, the certificate may be taken again.
            Ok(()) | Err(_) => self.turned_away = 0,
        }
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
        let way_out = (!token.is_empty()).then(|| way_out(&token, &self.token_file));
        let channel = Channel::connect(url, self.tls(trust)?).await?;
        let request = SigningRequest {
            request: request.der().to_vec().into(),
            token,
            node: self.node.clone(),
        };
        let mut client = CertificatesClient::with_origin(channel, url.origin());
        let signing = tokio::time::timeout(PATIENCE, client.sign(request));
        let signed = signing
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer"));
        let signed = signed.and_then(|signed| signed);
        let signed = signed.map_err(|status| refused(status, way_out))?.into_inner();
        let mut held = Held::of(signed, key)?;
        held.renewal
            .received(held.credentials.not_after, SystemTime::now());
        if let Some(bundle) = held.signed.trust.clone() {
            trust
                .replace(bundle)
                .map_err(|_| IdentityError::Unusable("its trust bundle"))?;
        }
        tracing::info!(identity = %held.credentials.id, "certificate received");
        self.next_key = None;
        self.hold(held, trust);
        self.keep();
        Ok(())
    }

    fn hold(&mut self, held: Held, trust: &Trust) {
        let Credentials { id, not_after, .. } = &held.credentials;
        let mut standing = self.standing.lock();
        standing.identity = Some(id.to_string());
        standing.expires = Some(*not_after);
        drop(standing);
        self.present = Some(held);
        self.show(trust);
    }

    /// Has other sidecars see the certificate, and be checked against the roots of now; and the process that
    /// takes this one's place.
    pub(super) fn show(&self, trust: &Trust) {
        let Some(held) = &self.present else { return };
        let mut signed = held.signed.clone();
        if let (Some(with), Some(now)) = (&mut signed.trust, trust.bundle()) {
            // The issuer stays the one that signed.
            with.roots = now.roots;
        }
        *self.papers.lock() = Some(Papers {
            node: self.node.clone(),
            key: held.credentials.key.clone(),
            signed: signed.encode_to_vec(),
        });
        let shown = trust
            .roots()
            .and_then(|roots| self.mesh.show(&held.credentials, roots));
        if let Err(error) = shown {
            tracing::warn!(%error, "other sidecars see the certificate and the roots of before");
        }
    }

    /// It could not be renewed: after a pause it is tried again.
    pub(super) fn postpone(&mut self, trust: &Trust, now: SystemTime) {
        if let Some(present) = &mut self.present {
            let is_outdated = trust.is_outdated(present.issuer());
            let left = present.credentials.not_after.duration_since(now);
            present.renewal.failed(is_outdated, left.unwrap_or_default(), now);
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
            Some(Held { credentials, .. }) => builder
                .with_client_auth_cert(credentials.chain.clone(), credentials.private_key())
                .map_err(io::Error::other)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is resumed is one whose certificates nobody looks at again.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

impl Held {
    fn of(signed: SignedCertificate, key: Vec<u8>) -> Result<Self, IdentityError> {
        let chain = signed.chain.iter().map(|one| CertificateDer::from(one.to_vec()));
        let chain: Vec<_> = chain.collect();
        let leaf = chain.first().ok_or(IdentityError::Unusable("it is empty"))?;
        let id = spiffe_id(leaf).ok_or(IdentityError::Unusable("it names no workload"))?;
        let [not_before, not_after] =
            [signed.not_before, signed.not_after].map(|at| UNIX_EPOCH + Duration::from_secs(at));
        let lifetime = not_after.duration_since(not_before);
        let lifetime = lifetime.map_err(|_| IdentityError::Unusable("it ends before it begins"))?;
        Ok(Self {
            credentials: Credentials {
                id,
                chain,
                key,
                not_after,
            },
            signed,
            renewal: Renewal::new(not_before, lifetime),
        })
    }

    /// The root that signed it.
    fn issuer(&self) -> &[u8] {
        let trust = self.signed.trust.as_ref();
        trust.map_or(&[], |trust| &trust.issuer)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody can write a token of Kubernetes by the command of a control plane of files.
    #[test]
    fn a_refused_token_is_replaced_where_it_comes_from() {
        let told = |token: &str, code| {
            let status = tonic::Status::new(code, "token: no");
            let way_out = (!token.is_empty()).then(|| way_out(token, Path::new("t")));
            refused(status, way_out).to_string()
        };
        let unauthenticated = tonic::Code::Unauthenticated;
        let own = told("v1.a.b", unauthenticated);
        assert!(
            own.starts_with("token: no; a token is good for one start") && own.contains("--token-file t"),
            "{own}"
        );
        let of_account = told("eyJ.a.b", unauthenticated);
        assert!(
            of_account.contains("token of the pod's service account"),
            "{of_account}"
        );
        assert!(!of_account.contains("jitney-control-plane token"), "{of_account}");
        for (token, code) in [("", unauthenticated), ("v1.a.b", tonic::Code::Unavailable)] {
            assert!(told(token, code).starts_with("no certificate came"), "{code}");
        }
    }
}
