//! Who makes a call, as every service learns it: by the connection, never by the call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jitney_api::Workload;
use jitney_api::push::ads::DeltaDiscoveryRequest;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use crate::identity::{Alive, Peer, PeerFault, Roots, Trust};
use crate::metrics::{Counts, Refusal};
use crate::push::{Admission, Admitted, Authenticate, NoPlace, Places, Room, Term};

/// The connection that a call came on; in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Caller {
    peer: Result<Arc<Peer>, Nobody>,
    /// Where it comes from.
    pub address: SocketAddr,
    term: Term,
    /// Tells it from every other connection of this process.
    pub connection: u64,
    /// Taken by its stream: more than one are for nothing, and would be places that cost nobody a handshake.
    stream: Arc<Semaphore>,
    /// Told when it has asked for a certificate.
    asked: Arc<Notify>,
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
    pub fn new(peer: Result<Peer, Nobody>, address: SocketAddr, term: Term, connection: u64) -> Self {
        Self {
            peer: peer.map(Arc::new),
            address,
            term,
            connection,
            stream: Arc::new(Semaphore::new(1)),
            asked: Arc::default(),
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

    /// It has asked for a certificate, and now waits for us.
    pub fn asks(&self) {
        self.asked.notify_one();
    }

    /// Told of that.
    pub fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Whose it is; `None` for who may have nothing but a certificate.
    pub fn workload(&self) -> Option<&Workload> {
        self.peer.as_ref().ok().map(|peer| &peer.id.workload)
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
    alive: Arc<Alive>,
    places: Arc<Places>,
    admission: Admission,
    counts: Counts,
}

impl Gate {
    /// A stream takes one of these places.
    pub const fn new(
        trust: Arc<Trust>,
        alive: Arc<Alive>,
        places: Arc<Places>,
        admission: Admission,
        counts: Counts,
    ) -> Self {
        Self {
            trust,
            alive,
            places,
            admission,
            counts,
        }
    }

    /// Has a certificate noted that is in use, where nobody knew of it or of that.
    fn note(&self, peer: &Peer) {
        if self.alive.is_settled(&peer.key) {
            return;
        }
        let (alive, peer) = (Arc::clone(&self.alive), peer.clone());
        // Nobody waits for it: as long as the stream is open, the sidecar is counted by it.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = alive.seen(&peer, SystemTime::now()) {
                tracing::error!(%error, workload = %peer.id.workload, "a certificate that is in use cannot be noted");
            }
        }));
    }

    fn room(&self, caller: &Caller, workload: &Workload) -> Result<Room, Status> {
        let only = Arc::clone(&caller.stream).try_acquire_owned().map_err(|_| {
            self.counts.refused(Refusal::Second);
            Status::already_exists("the connection has a stream already, and a sidecar needs one")
        })?;
        let place = self.places.take(workload).map_err(|error| {
            self.counts.refused(error.into());
            come_back(&error.to_string(), FULL_WAIT)
        })?;
        Ok(Room { place, only })
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
        let room = self.room(caller, &peer.id.workload)?;
        self.admission.admit(Instant::now()).map_err(|wait| {
            self.counts.refused(Refusal::Admission);
            come_back("too many streams begin at once", wait)
        })?;
        self.note(peer);
        Ok(Admitted {
            workload: peer.id.workload.clone(),
            root: Some(peer.root),
            key: Some(peer.key),
            connection: Some(caller.connection),
            term: caller.term.clone(),
            room: Some(room),
        })
    }
}

impl From<NoPlace> for Refusal {
    fn from(why: NoPlace) -> Self {
        match why {
            NoPlace::Full(_) => Self::Full,
            NoPlace::Share(_) => Self::Share,
        }
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
