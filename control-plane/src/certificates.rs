//! Certificates for sidecars: signed for who shows a token, or a certificate that is good still.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jitney_api::Workload;
use jitney_api::push::config::certificates_server::Certificates;
use jitney_api::push::config::{SignedCertificate, SigningRequest};
use tonic::{Request, Response, Status, async_trait};

use crate::identity::{
    Alive, Attest, AttestError, AuthorityError, CertificateRequest, KeyHash, Signed, Trust,
};
use crate::metrics::{Counts, Signing};
use crate::serve::Caller;
use crate::status::Refusals;

/// The service.
#[derive(Clone, Debug)]
pub struct Signer {
    trust: Arc<Trust>,
    attest: Arc<dyn Attest>,
    alive: Arc<Alive>,
    refusals: Arc<Refusals>,
    counts: Counts,
}

impl Signer {
    /// Signs with the root that signs now, for whom `attest` vouches.
    pub fn new(
        trust: Arc<Trust>,
        attest: Arc<dyn Attest>,
        alive: Arc<Alive>,
        refusals: Arc<Refusals>,
        counts: Counts,
    ) -> Self {
        Self {
            trust,
            attest,
            alive,
            refusals,
            counts,
        }
    }

    async fn certificate(
        &self,
        caller: &Caller,
        asked: &SigningRequest,
    ) -> Result<(SignedCertificate, Workload, Signing), Status> {
        let request = CertificateRequest::read(&asked.request).map_err(|error| refused(&error))?;
        let (workload, before) = if asked.token.is_empty() {
            let peer = caller.peer(&self.trust.roots(), SystemTime::now())?;
            (peer.id.workload.clone(), Some(peer.key))
        } else {
            let shown = self.attest.workload(&asked.token, &request.key_hash()).await;
            (shown.map_err(|error| self.unattested(&error, &asked.node))?, None)
        };
        // Whoever has this one is believed by every sidecar.
        if workload == Workload::control_plane() {
            let told = format!("{workload} is the control plane itself");
            return Err(Status::permission_denied(told));
        }
        let roots = self.trust.roots();
        let issued = roots
            .issuing()
            .authority
            .sign(&request, &workload, SystemTime::now())
            .map_err(|error| refused(&error))?;
        let signed = Signed {
            key: request.key_hash(),
            workload: workload.clone(),
            node: asked.node.clone(),
            root: roots.issuing().id,
            not_after: issued.not_after,
        };
        self.remember(signed, before).await?;
        self.refusals.signed(&workload, &asked.node);
        let signing = before.map_or(Signing::Token, |_| Signing::Renewal);
        let signed = SignedCertificate {
            chain: vec![issued.certificate.into()],
            not_before: seconds(issued.not_before),
            not_after: seconds(issued.not_after),
            trust: Some(roots.bundle()),
        };
        Ok((signed, workload, signing))
    }

    fn unattested(&self, error: &AttestError, node: &str) -> Status {
        match error {
            AttestError::Refused { reason, workload } => {
                self.refusals
                    .note(workload.as_ref(), node, reason, SystemTime::now());
                Status::unauthenticated(reason)
            }
            AttestError::Unavailable(reason) => Status::unavailable(reason),
        }
    }

    /// Has it noted before it is sent: a root is not dropped as long as a sidecar may need it.
    async fn remember(&self, signed: Signed, before: Option<KeyHash>) -> Result<(), Status> {
        let alive = Arc::clone(&self.alive);
        let note = move || alive.signed(&signed, before.as_ref(), SystemTime::now());
        let noted = tokio::task::spawn_blocking(note).await;
        let told = match noted {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(
            error = told,
            "a certificate cannot be noted, and is not handed out"
        );
        Err(Status::unavailable(
            "the certificate cannot be noted: try again later",
        ))
    }
}

#[async_trait]
impl Certificates for Signer {
    async fn sign(&self, request: Request<SigningRequest>) -> Result<Response<SignedCertificate>, Status> {
        let caller = Caller::of(&request)?.clone();
        caller.asks();
        match self.certificate(&caller, request.get_ref()).await {
            Ok((signed, workload, signing)) => {
                self.counts.signing(signing);
                tracing::debug!(%workload, ?signing, "certificate signed");
                Ok(Response::new(signed))
            }
            Err(status) => {
                self.counts.signing(Signing::Refused);
                tracing::info!(code = ?status.code(), reason = status.message(), "no certificate signed");
                Err(status)
            }
        }
    }
}

fn refused(error: &AuthorityError) -> Status {
    match error {
        AuthorityError::Request(_) => Status::invalid_argument(error.to_string()),
        AuthorityError::TrustDomain(_) | AuthorityError::Stored(_) | AuthorityError::Signing(_) => {
            tracing::error!(%error, "the authority cannot sign");
            Status::internal("the authority cannot sign")
        }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
