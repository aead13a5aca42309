//! Certificates for sidecars: signed for who shows a token, or a certificate that is good still.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jitney_api::Workload;
use jitney_api::push::config::certificates_server::Certificates;
use jitney_api::push::config::{SignedCertificate, SigningRequest};
use tonic::{Request, Response, Status, async_trait};

use crate::faults::{Doing, Faults};
use crate::identity::{
    Alive, AliveError, Attest, AttestError, AuthorityError, CertificateRequest, Issued, KeyHash, Roots,
    Signed, Trust,
};
use crate::metrics::{Counts, Signing};
use crate::serve::Caller;
use crate::status::{Refusals, name};

/// The service: signs with the root that signs now.
#[derive(Clone, Debug)]
pub struct Signer {
    /// Whose root that is.
    pub trust: Arc<Trust>,
    /// Who vouches for those that show tokens.
    pub attest: Arc<dyn Attest>,
    /// Where what is signed is noted.
    pub alive: Arc<Alive>,
    /// Where it is noted for whom nothing is signed.
    pub refusals: Arc<Refusals>,
    /// Where it is noted when nothing can be.
    pub faults: Arc<Faults>,
    /// Where it is counted.
    pub counts: Counts,
}

/// Why nothing is signed, and for whom, where that is known.
struct Unsigned {
    status: Status,
    workload: Option<Workload>,
}

impl From<Status> for Unsigned {
    fn from(status: Status) -> Self {
        Self {
            status,
            workload: None,
        }
    }
}

impl Signer {
    async fn certificate(
        &self,
        caller: &Caller,
        asked: &SigningRequest,
    ) -> Result<(SignedCertificate, Workload, Signing), Unsigned> {
        let request = CertificateRequest::read(&asked.request).map_err(|error| refused(&error))?;
        let (workload, before) = if asked.token.is_empty() {
            let peer = caller.peer(&self.trust.roots(), SystemTime::now())?;
            (peer.id.workload.clone(), Some(peer.key))
        } else {
            let shown = self
                .attest
                .workload(&asked.token, &request.key_hash(), &asked.node)
                .await;
            (shown.map_err(|error| self.unattested(error, &asked.node))?, None)
        };
        let signed = self.signed(&request, &workload, asked, before).await;
        let (signed, signing) = signed.map_err(|status| Unsigned {
            status,
            workload: Some(workload.clone()),
        })?;
        Ok((signed, workload, signing))
    }

    async fn signed(
        &self,
        request: &CertificateRequest,
        workload: &Workload,
        asked: &SigningRequest,
        before: Option<KeyHash>,
    ) -> Result<(SignedCertificate, Signing), Status> {
        // Whoever has this one is believed by every sidecar.
        if *workload == Workload::control_plane() {
            let told = format!("{workload} is the control plane itself");
            return Err(Status::permission_denied(told));
        }
        let (issued, roots) = self.issued(request, workload, &asked.node, before).await?;
        self.refusals.has_certificate(workload, &asked.node);
        let signing = before.map_or(Signing::Token, |_| Signing::Renewal);
        let signed = SignedCertificate {
            chain: [issued.certificate]
                .into_iter()
                .chain(issued.chain)
                .map(Into::into)
                .collect(),
            not_before: seconds(issued.not_before),
            not_after: seconds(issued.not_after),
            trust: Some(roots.bundle()),
        };
        Ok((signed, signing))
    }

    fn unattested(&self, error: AttestError, node: &str) -> Unsigned {
        let told = error.to_string();
        let note = |workload: Option<&Workload>, told: [&str; 2]| {
            self.refusals.note(workload, node, told, SystemTime::now());
        };
        match error {
            AttestError::Refused { reason, workload } => {
                note(
                    workload.as_ref(),
                    [&reason, &self.attest.way_out(workload.as_ref())],
                );
                Unsigned {
                    status: Status::unauthenticated(reason),
                    workload,
                }
            }
            // Another code: who is told of one that is not authentic is told to look for another token.
            AttestError::Misnamed {
                reason,
                way_out,
                workload,
            } => {
                note(Some(&workload), [&reason, &way_out]);
                Unsigned {
                    status: Status::permission_denied(told),
                    workload: Some(workload),
                }
            }
            AttestError::Unavailable(reason) => Status::unavailable(reason).into(),
        }
    }

    /// Signs, and has that noted before it is sent: a root is not dropped as long as a sidecar may need it. Another
    /// replica may have switched roots, or dropped one, before it was noted; then it is signed anew. A root is
    /// dropped while nothing can be noted, so that what is noted before the roots are read again stays good.
    async fn issued(
        &self,
        request: &CertificateRequest,
        workload: &Workload,
        node: &str,
        before: Option<KeyHash>,
    ) -> Result<(Issued, Arc<Roots>), Status> {
        for _ in 0..SIGNINGS_MAX {
            let roots = self.trust.roots();
            let root = roots.issuing();
            let issued = root.authority.sign(request, workload, SystemTime::now());
            let issued = issued.map_err(|error| refused(&error))?;
            let signed = Signed {
                key: request.key_hash(),
                workload: workload.clone(),
                node: node.to_owned(),
                root: root.id,
                not_after: issued.not_after,
            };
            self.remember(signed, before).await?;
            let roots = self.trust.roots();
            if roots.issuing().id == root.id {
                return Ok((issued, roots));
            }
        }
        Err(Status::unavailable(
            "the roots are being changed: try again later",
        ))
    }

    /// Has it noted, and takes over what another replica has changed of the roots meanwhile.
    async fn remember(&self, signed: Signed, before: Option<KeyHash>) -> Result<(), Status> {
        let (alive, trust) = (Arc::clone(&self.alive), Arc::clone(&self.trust));
        let noted = tokio::task::spawn_blocking(move || {
            alive.signed(&signed, before.as_ref(), SystemTime::now())?;
            if let Err(error) = trust.reload() {
                tracing::debug!(%error, "signed by the last good roots");
            }
            Ok::<(), AliveError>(())
        });
        let noted = noted.await.map_err(|error| error.to_string());
        let noted = noted.and_then(|noted| noted.map_err(|error| error.to_string()));
        let is_noted = noted.is_ok();
        self.faults.note(Doing::Signing, noted);
        if is_noted {
            return Ok(());
        }
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
            Err(Unsigned { status, workload }) => {
                self.counts.signing(Signing::Refused);
                let workload = workload.as_ref().or_else(|| caller.workload());
                let workload = workload.map_or_else(|| "not known".to_owned(), ToString::to_string);
                let (address, node) = (caller.address, name(&request.get_ref().node));
                let (code, reason) = (status.code(), status.message());
                tracing::info!(%address, workload, node, ?code, reason, "no certificate signed");
                Err(status)
            }
        }
    }
}

fn refused(error: &AuthorityError) -> Status {
    match error {
        AuthorityError::Request(_) => Status::invalid_argument(error.to_string()),
        AuthorityError::Expired(_) => {
            tracing::error!(%error, "the authority cannot sign");
            Status::unavailable(error.to_string())
        }
        AuthorityError::TrustDomain(_) | AuthorityError::Stored(_) | AuthorityError::Signing(_) => {
            tracing::error!(%error, "the authority cannot sign");
            Status::internal("the authority cannot sign")
        }
    }
}

/// Roots are exchanged by people.
const SIGNINGS_MAX: usize = 3;

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::identity::{Bootstrap, Folder, Tokens, Used};

    #[tokio::test]
    async fn a_replica_that_lags_signs_anew() {
        let (state, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let folder = Folder::open(state.path()).unwrap();
        let trust = || Arc::new(Trust::open(&folder, "example.org", now).unwrap());
        let (late, other) = (trust(), trust());
        let tokens = Tokens::open(&folder, "example.org").unwrap();
        let used = Used::open(&folder, now).unwrap();
        let signer = Signer {
            trust: late,
            attest: Arc::new(Bootstrap::new(Arc::new(tokens), Arc::new(used))),
            alive: Arc::new(Alive::open(&folder, true, now).unwrap()),
            refusals: Arc::default(),
            faults: Arc::default(),
            counts: Counts::default(),
        };
        let old = other.roots().issuing().id;
        other.add(now).unwrap();
        other.switch(other.roots().all()[1].id, now).unwrap();
        other.drop_old(&[old]).unwrap();
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let request = CertificateRequest::read(request.der()).unwrap();
        let workload = "shop/users".parse().unwrap();
        let (_, roots) = signer.issued(&request, &workload, "a", None).await.unwrap();
        let signs_now = other.roots().issuing().id;
        assert_eq!(roots.issuing().id, signs_now);
        let living = signer
            .alive
            .of(&crate::identity::Those::Of([old, signs_now].into()), now);
        assert_eq!(living.certificates, [(signs_now, 1)].into());
    }
}
