//! Who makes a call, as every service learns it: by the connection, never by the call.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jitney_api::Workload;
use jitney_api::push::ads::DeltaDiscoveryRequest;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use crate::identity::{Peer, PeerFault, Roots, Trust};
use crate::metrics::{Counts, Refusal};
use crate::push::{Admission, Admitted, Authenticate, Term};
use crate::status::Sidecars;

/// The connection that a call came on; in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Caller {
    peer: Result<Arc<Peer>, Nobody>,
    term: Term,
    /// Tells it from every other connection of this process.
    pub connection: u64,
}

/// Why a connection is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    /// It may ask for a certificate, and for nothing else.
    #[error("the connection has no client certificate")]
    NoCertificate,
    /// It has one that names no workload of this mesh.
    #[error(transparent)]
    Fault(#[from] PeerFault),
}

impl Caller {
    /// The other end of a connection that has just been accepted.
    pub fn new(peer: Result<Peer, Nobody>, term: Term, connection: u64) -> Self {
        Self {
            peer: peer.map(Arc::new),
            term,
            connection,
        }
    }

    /// Who made a request.
    ///
    /// # Errors
    /// When it came some other way than through the port.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        let caller = request.extensions().get::<Self>();
        caller.ok_or_else(|| Status::unauthenticated("the request came on no connection"))
    }

    /// Returns when it is nobody any more: the certificate has expired, or its root was dropped. For
    /// who is nobody from the start that is never.
    ///
    /// # Cancellation
    /// Safe: nothing is lost when the future is dropped.
    pub async fn until_nobody(&self, trust: &Trust) {
        let Ok(peer) = &self.peer else {
            return std::future::pending().await;
        };
        let mut changed = trust.subscribe();
        while peer.check(&trust.roots(), SystemTime::now()).is_ok() {
            let left = peer
                .not_after
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            tokio::select! {
                // Clocks are set, and sleeps do not notice.
                () = tokio::time::sleep(left.min(LOOK_EVERY)) => {}
                Ok(()) = changed.changed() => {}
            }
        }
    }

    /// Whether it has no name, and so may have nothing but a certificate.
    pub const fn is_nobody(&self) -> bool {
        self.peer.is_err()
    }

    /// Who it is, as of now.
    ///
    /// # Errors
    /// Why it is nobody: what the caller is told.
    pub fn peer(&self, roots: &Roots, now: SystemTime) -> Result<&Peer, Status> {
        let nobody = |nobody: &dyn std::fmt::Display| Status::unauthenticated(nobody.to_string());
        let peer = self.peer.as_deref().map_err(|fault| nobody(fault))?;
        peer.check(roots, now).map_err(|fault| nobody(&fault))?;
        Ok(peer)
    }
}

/// Lets streams of known workloads begin, so many at once and so many in all.
#[derive(Debug)]
pub struct Gate {
    trust: Arc<Trust>,
    sidecars: Arc<Sidecars>,
    admission: Admission,
    most: usize,
    counts: Counts,
}

impl Gate {
    /// At most so many streams. Two that come at the same moment may both be the last.
    pub const fn new(
        trust: Arc<Trust>,
        sidecars: Arc<Sidecars>,
        admission: Admission,
        most: usize,
        counts: Counts,
    ) -> Self {
        Self {
            trust,
            sidecars,
            admission,
            most,
            counts,
        }
    }
}

impl Authenticate for Gate {
    fn workload(&self, request: &Request<Streaming<DeltaDiscoveryRequest>>) -> Result<Workload, Status> {
        let peer = Caller::of(request)?.peer(&self.trust.roots(), SystemTime::now())?;
        Ok(peer.id.workload.clone())
    }

    fn admit(&self, request: &Request<Streaming<DeltaDiscoveryRequest>>) -> Result<Admitted, Status> {
        let caller = Caller::of(request)?;
        let peer = caller.peer(&self.trust.roots(), SystemTime::now());
        let peer = peer.inspect_err(|_| self.counts.refused(Refusal::Unauthenticated))?;
        if self.sidecars.len() >= self.most {
            self.counts.refused(Refusal::Full);
            let told = format!(
                "as many sidecars as this control plane takes are connected: {}",
                self.most
            );
            return Err(come_back(&told, FULL_WAIT));
        }
        self.admission.admit(Instant::now()).map_err(|wait| {
            self.counts.refused(Refusal::Admission);
            come_back("too many streams begin at once", wait)
        })?;
        Ok(Admitted {
            workload: peer.id.workload.clone(),
            root: Some(peer.root),
            connection: Some(caller.connection),
            term: caller.term.clone(),
        })
    }
}

/// gRFC A6: when to try again, in milliseconds.
fn come_back(message: &str, wait: Duration) -> Status {
    let mut status = Status::resource_exhausted(message);
    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", MetadataValue::from(wait));
    status
}

/// The longest sleep between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// When there may be room again, or another replica has some.
const FULL_WAIT: Duration = Duration::from_secs(10);
