//! A sidecar's end of the connection: its key and certificate, the calls that it makes, and a stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use jitney_api::push::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use jitney_api::push::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use jitney_api::push::config::certificates_client::CertificatesClient;
use jitney_api::push::config::{Cause, SignedCertificate, SigningRequest};
use jitney_api::push::{Change, Kind, Subscriber};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, version,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::process::{PATIENCE, Plane};

/// A key, and perhaps a certificate for it.
pub(crate) struct Identity {
    pub(crate) key: KeyPair,
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Verifies that one of the roots signed; whose certificate it is is not what is tested with it.
#[derive(Debug)]
struct Roots {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    pub(crate) fn new() -> Self {
        Self {
            key: KeyPair::generate().unwrap(),
            certificate: None,
        }
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        let request = CertificateParams::default().serialize_request(&self.key);
        request.unwrap().der().to_vec()
    }

    /// Asks for a certificate, with a token or with the certificate that there is.
    pub(crate) async fn sign(&self, plane: &Plane, token: &str) -> Result<SignedCertificate, Status> {
        let channel = self.connect(plane).await.unwrap();
        let request = SigningRequest {
            request: self.request().into(),
            token: token.to_owned(),
            node: String::new(),
        };
        let signed = CertificatesClient::new(channel).sign(request).await?;
        Ok(signed.into_inner())
    }

    /// Becomes the successor of an identity that has a certificate, signed for at this address.
    pub(crate) async fn renewed(mut self, before: &Self, address: SocketAddr, roots: &str) -> Self {
        let request = SigningRequest {
            request: self.request().into(),
            token: String::new(),
            node: String::new(),
        };
        let channel = before.connect_to(address, roots).await.unwrap();
        let signed = CertificatesClient::new(channel).sign(request).await.unwrap();
        self.certificate = Some(signed.into_inner().chain[0].to_vec());
        self
    }

    /// The identity of a sidecar of this account.
    pub(crate) async fn of(plane: &Plane, account: &str) -> Self {
        let mut identity = Self::new();
        let signed = identity.sign(plane, &plane.folder.token(account)).await.unwrap();
        identity.certificate = Some(signed.chain[0].to_vec());
        identity
    }

    pub(crate) async fn connect(&self, plane: &Plane) -> Result<Channel, tonic::transport::Error> {
        self.connect_to(plane.address, &plane.folder.roots()).await
    }

    pub(crate) async fn connect_to(
        &self,
        address: SocketAddr,
        roots: &str,
    ) -> Result<Channel, tonic::transport::Error> {
        let connector = TlsConnector::from(Arc::new(self.config(roots)));
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("control-plane").unwrap();
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        Endpoint::from_static("http://control-plane")
            .connect_with_connector(connect)
            .await
    }

    /// TLS, and nothing said in it.
    pub(crate) async fn secured(&self, plane: &Plane) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(Arc::new(self.config(&plane.folder.roots())));
        let stream = TcpStream::connect(plane.address).await.unwrap();
        let name = ServerName::try_from("control-plane").unwrap();
        connector.connect(name, stream).await.unwrap()
    }

    /// What TLS says to this identity; in TLS 1.3 a client learns it with the first byte that it reads.
    pub(crate) async fn refusal(&self, plane: &Plane) -> String {
        let mut stream = self.secured(plane).await;
        let mut preface = [0; 24];
        let read = stream.read_exact(&mut preface).await;
        read.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
    }

    /// The first word of TLS, after which the other end speaks.
    pub(crate) fn hello(&self, plane: &Plane) -> Vec<u8> {
        let name = ServerName::try_from("control-plane").unwrap();
        let config = Arc::new(self.config(&plane.folder.roots()));
        let mut hello = Vec::new();
        let mut connection = ClientConnection::new(config, name).unwrap();
        connection.write_tls(&mut hello).unwrap();
        hello
    }

    fn config(&self, roots: &str) -> ClientConfig {
        let shown = self.certificate.as_ref().map(|certificate| {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
            (vec![CertificateDer::from(certificate.clone())], key)
        });
        config(roots, shown, "h2")
    }
}

/// TLS with somebody of a mesh, in which a certificate is shown and a protocol is named.
pub(crate) fn config(
    roots: &str,
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    protocol: &str,
) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut trusted = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        trusted.add(root.unwrap()).unwrap();
    }
    let verifier = Roots {
        roots: trusted,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    config
}

impl ServerCertVerifier for Roots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A sidecar: applies what it is sent, but for routes that are to gather more than it can.
pub(crate) struct Sidecar {
    pub(crate) subscriber: Subscriber,
    pub(crate) runs: Vec<(Kind, String)>,
    /// Resources that it was sent, in all.
    pub(crate) sent: usize,
    pub(crate) rejects: bool,
    stream: Option<(
        mpsc::Sender<DeltaDiscoveryRequest>,
        Streaming<DeltaDiscoveryResponse>,
    )>,
}

impl Sidecar {
    pub(crate) fn new(node: &str) -> Self {
        let mut subscriber = Subscriber::new(Node {
            id: node.into(),
            // What it says of itself gives it nothing.
            cluster: "shop/orders".into(),
            ..Node::default()
        });
        for kind in [Kind::TrustBundle, Kind::Policy, Kind::Route] {
            subscriber.subscribe(kind, "*");
        }
        Self {
            subscriber,
            runs: Vec::new(),
            sent: 0,
            rejects: false,
            stream: None,
        }
    }

    /// Opens a stream.
    pub(crate) async fn open(&mut self, channel: Channel) -> Result<(), Status> {
        let (requests, sent) = mpsc::channel(16);
        self.subscriber.open();
        self.stream = None;
        while let Some(request) = self.subscriber.poll() {
            requests.send(request).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(sent))
            .await?;
        self.stream = Some((requests, responses.into_inner()));
        Ok(())
    }

    /// Sends what there is to say.
    pub(crate) async fn say(&mut self) {
        let (requests, _) = self.stream.as_mut().unwrap();
        while let Some(request) = self.subscriber.poll() {
            // If the stream has ended meanwhile, the next response says how.
            drop(requests.send(request).await);
        }
    }

    /// Takes in one response.
    pub(crate) async fn take(&mut self) -> Result<(), Status> {
        let (_, responses) = self.stream.as_mut().unwrap();
        let response = tokio::time::timeout(PATIENCE, responses.message());
        let response = response.await.expect("something comes")?;
        let response = response.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        self.sent += response.resources.len();
        let mut delta = self.subscriber.response(response).unwrap();
        for change in delta.changes.clone() {
            match change {
                Change::Set { name, version, .. } if self.rejects && delta.kind == Kind::Route => {
                    let reason = "more than this sidecar gathers";
                    delta.reject(&name, &version, Cause::Limit, "batch.maxSize", reason);
                }
                Change::Set { name, .. } => self.runs.push((delta.kind, name)),
                Change::Gone { name } => self.runs.retain(|(_, other)| *other != name),
            }
        }
        self.subscriber.answer(delta);
        self.say().await;
        Ok(())
    }

    /// Takes in responses until one of the type was there.
    pub(crate) async fn take_until(&mut self, kind: Kind) -> Result<(), Status> {
        self.runs.retain(|(of, _)| *of != kind);
        while !self.runs.iter().any(|(of, _)| *of == kind) {
            self.take().await?;
        }
        Ok(())
    }

    /// A sidecar of this account that runs what it is to run.
    pub(crate) async fn running(plane: &Plane, account: &str) -> (Self, Identity) {
        let identity = Identity::of(plane, account).await;
        let mut sidecar = Self::new(&format!("{account}-1"));
        sidecar
            .open(identity.connect(plane).await.unwrap())
            .await
            .unwrap();
        sidecar.take_until(Kind::Policy).await.unwrap();
        (sidecar, identity)
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.take().await {
                return status;
            }
        }
    }
}

pub(crate) fn hour() -> Duration {
    Duration::from_secs(3600)
}

pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
