//! Whose certificate it is that somebody showed: one that a root of the mesh signed, and that names a workload.

use std::sync::Arc;

use jitney_api::{SpiffeId, Workload};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Accepts workloads of a mesh, by their SPIFFE ID and whatever address they have.
#[derive(Debug)]
pub(crate) struct OneOfMesh {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    only: Option<Workload>,
}

impl OneOfMesh {
    /// Every workload for whom these roots sign. Which of them it is remains to be looked at.
    pub(crate) const fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Self {
        Self {
            roots,
            provider,
            only: None,
        }
    }

    /// No other workload than this.
    pub(crate) fn only(self, workload: Workload) -> Self {
        Self {
            only: Some(workload),
            ..self
        }
    }

    /// Whether a certificate is that of a workload.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let id = spiffe_id(end_entity).ok_or(CertificateError::NotValidForName)?;
        match &self.only {
            Some(only) if id.workload != *only => Err(CertificateError::NotValidForName.into()),
            Some(_) | None => Ok(()),
        }
    }
}

impl ServerCertVerifier for OneOfMesh {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The one URI of a certificate, where it is that of a workload (X.509-SVID §2: exactly one).
pub(crate) fn spiffe_id(certificate: &[u8]) -> Option<SpiffeId> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return None;
        };
        Some(&names.general_names)
    })?;
    let mut uris = names.iter().filter_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        Some(*uri)
    });
    let (uri, another) = (uris.next()?, uris.next());
    uri.parse().ok().filter(|_| another.is_none())
}
