//! The sidecar's end of the control plane: who this sidecar is, what it is pushed, and what it says to
//! that. In a thread of its own, so that reading a policy never holds up a call.
//!
//! [`Control::new`] brings back the last good set from disk, and who this sidecar was; [`Control::start`] keeps one stream open for as
//! long as the process lives: over mTLS, with a certificate that it renews, to whichever of the control planes answers.
//! What comes is put in force through [`Force`] before it is acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use jitney_api::Workload;
use jitney_api::push::{Assembly, Kind, OwnLimits};
use parking_lot::Mutex;

mod backoff;
mod channel;
mod complaints;
mod duty;
mod identity;
mod papers;
mod session;
mod snapshot;
mod trust;
mod watch;

pub use channel::{ControlPlaneUrl, NotAControlPlane};
pub use papers::{Papers, SharedPapers};

use crate::listeners::Listeners;
use crate::metrics::Metrics;
use crate::mtls::Mesh;
use duty::Duty;
use identity::Identity;
use session::Session;
use snapshot::Disk;
use trust::Trust;

/// Puts what was pushed in force.
pub trait Force: Send + 'static {
    /// Makes what runs be what is pushed, in a sidecar of this workload, but for listeners whose addresses are
    /// taken: they are pending, and tried again.
    ///
    /// # Errors
    /// Why it cannot; then everything is as it was.
    fn apply(&mut self, pushed: &Assembly, workload: &Workload) -> Result<(), String>;

    /// Where it listens, and where it is to and cannot yet.
    fn listeners(&self) -> Listeners;
}

/// Where the control plane is, and who asks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The control planes, tried in turn.
    pub urls: Vec<ControlPlaneUrl>,
    /// What this sidecar calls itself.
    pub node: String,
    /// The zone that it is in, if it knows.
    pub zone: Option<String>,
    /// Read whenever a token is needed.
    pub token_file: PathBuf,
    /// Roots to begin with, PEM; what is pushed takes their place until the file is changed.
    pub trust_bundle: PathBuf,
    /// Where the last good set is kept, and the key and certificate of this sidecar.
    pub snapshot: Option<PathBuf>,
    /// Calls may go to any backend: all of them are asked for, and not only those that listeners name.
    pub any_backend: bool,
    /// What this sidecar can do.
    pub limits: OwnLimits,
    /// What the process before this one was, to begin with; and what this one is.
    pub papers: SharedPapers,
}

/// What the admin endpoint tells of the control plane.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The one that the stream is open to.
    pub connected: Option<String>,
    /// Why there is no stream.
    pub fault: Option<String>,
    /// Whose sidecar this is, by its certificate.
    pub identity: Option<String>,
    /// Until when the certificate is good.
    pub expires: Option<SystemTime>,
    /// What is in force came from disk, not from a control plane.
    pub from_snapshot: bool,
    /// Versions of the resources in force, by type and name.
    pub resources: BTreeMap<(Kind, String), String>,
    /// Resources whose latest version this sidecar cannot run: a hundred at most.
    pub rejected: Vec<Rejected>,
}

/// A resource that was rejected; its last good version stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its type.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Where in it, if that can be said.
    pub field: String,
    /// Why.
    pub reason: String,
}

/// The standing, shared between who changes and who shows it.
pub type Shared = Arc<Mutex<Standing>>;

/// The sidecar's end.
#[derive(Debug)]
pub struct Control {
    session: Session,
}

impl Control {
    /// Brings back the last good set. That there is no control plane, no token or no snapshot is no error:
    /// it is tried again until there is.
    ///
    /// # Errors
    /// When the roots cannot be read.
    pub fn new(
        settings: Settings,
        metrics: &Metrics,
        mesh: &Mesh,
        force: Box<dyn Force>,
    ) -> io::Result<Self> {
        let standing = Shared::default();
        metrics.process().control_plane.begin();
        let trust = Trust::read(&settings.trust_bundle)?;
        // First, so that nothing that is in force then waits for a certificate.
        let mut identity = Identity::new(&settings, Arc::clone(&standing), mesh.clone());
        identity.inherit(&trust);
        let disk = settings.snapshot.clone().map(Disk::new);
        let mut duty = Duty::new(&settings, force, Arc::clone(&standing), metrics.clone());
        if let Some(disk) = &disk {
            let now = SystemTime::now();
            disk.sweep(now);
            duty.restore(disk, &trust);
            identity.bring_back(&trust, now);
            duty.begin(identity.id().map(|id| &id.workload));
        }
        let session = Session {
            identity,
            urls: settings.urls,
            trust,
            duty,
            disk,
            standing,
            metrics: metrics.clone(),
        };
        Ok(Self { session })
    }

    /// Whether the last good set is in force.
    pub const fn is_in_force(&self) -> bool {
        self.session.duty.is_in_force()
    }

    /// What is known of the control plane, from now on.
    pub fn standing(&self) -> Shared {
        Arc::clone(&self.session.standing)
    }

    /// Keeps a stream open, for ever, in a thread of its own.
    ///
    /// # Errors
    /// When the system grants no thread or runtime.
    pub fn start(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(self.run()))?;
        Ok(())
    }

    /// Keeps a stream open, for ever.
    ///
    /// # Cancellation
    /// Ends the stream; what is in force stays.
    pub async fn run(self) {
        Box::pin(self.session.run()).await;
    }
}
