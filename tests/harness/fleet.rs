//! Many sidecars in one process: the real client code of the sidecar, each with a key, a certificate and a
//! connection of its own, and with a data path that does nothing but look at what it is to run.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jitney_api::Workload;
use jitney_api::push::{Assembly, OwnLimits};
use jitney_proxy::control::{Control, Force, Settings, SharedPapers};
use jitney_proxy::listeners::Listeners;
use jitney_proxy::metrics::Metrics;
use jitney_proxy::mtls::Mesh;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;

/// The sidecars; they end when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    wanted: Arc<Mutex<Wanted>>,
    met: Receiver<Met>,
    /// `None` while this is dropped.
    runtime: Option<Runtime>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Member {
    /// What it calls itself.
    pub node: String,
    /// The file with its token.
    pub token: PathBuf,
}

/// What all of them have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// Where the control plane is, as a URL.
    pub control_plane: String,
    /// The file with the roots.
    pub roots: PathBuf,
    /// Whether each has calls for every backend, as a pod's sidecar has, or only for those of its listeners.
    pub any_backend: bool,
}

/// What a sidecar is to run, right before it acknowledges it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// What the sidecar calls itself.
    pub node: &'a str,
    /// Whose it is.
    pub workload: &'a Workload,
    /// What was pushed.
    pub pushed: &'a Assembly,
}

/// What is waited for.
#[derive(Clone)]
struct Wanted {
    /// Which it is of those that there were.
    number: u64,
    is_met: Arc<dyn Fn(&Seen<'_>) -> bool + Send + Sync>,
}

/// A sidecar has what is waited for.
#[derive(Debug)]
struct Met {
    number: u64,
    at: Instant,
}

/// A data path that does nothing but what has to be done before it could.
struct Looks {
    node: String,
    wanted: Arc<Mutex<Wanted>>,
    met: SyncSender<Met>,
    last: u64,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Force for Looks {
    fn apply(&mut self, pushed: &Assembly, workload: &Workload) -> Result<(), String> {
        let at = Instant::now();
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let seen = Seen {
            node: &self.node,
            workload,
            pushed,
        };
        if self.last < wanted.number && (wanted.is_met)(&seen) {
            self.last = wanted.number;
            let number = wanted.number;
            match self.met.try_send(Met { number, at }) {
                // Nobody waits any more.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(_)) => return Err("nobody has looked for long".to_owned()),
            }
        }
        Ok(())
    }

    fn listeners(&self) -> Listeners {
        watch::Sender::default().subscribe()
    }
}

impl Fleet {
    /// Starts all of them, which wait for the first fact.
    ///
    /// # Errors
    /// When the URL is none, the roots cannot be read, or the system grants no threads.
    pub fn start(
        common: &Common,
        members: &[Member],
        first: impl Fn(&Seen<'_>) -> bool + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let runtime = Runtime::new()?;
        let (sender, met) = sync_channel(16 * members.len().max(1));
        let wanted = Arc::new(Mutex::new(Wanted {
            number: 1,
            is_met: Arc::new(first),
        }));
        let metrics = Metrics::new();
        for Member { node, token } in members {
            let settings = Settings {
                urls: vec![common.control_plane.parse()?],
                node: node.clone(),
                zone: None,
                token_file: token.clone(),
                trust_bundle: common.roots.clone(),
                snapshot: None,
                any_backend: common.any_backend,
                papers: SharedPapers::default(),
                limits: OwnLimits::default(),
            };
            let looks = Looks {
                node: node.clone(),
                wanted: Arc::clone(&wanted),
                met: sender.clone(),
                last: 0,
            };
            let control = Control::new(settings, &metrics, &Mesh::default(), Box::new(looks))?;
            runtime.spawn(control.run());
        }
        Ok(Self {
            wanted,
            met,
            runtime: Some(runtime),
        })
    }

    /// From now on this is waited for. It has to become true after this, of each sidecar that is concerned: one
    /// whose set does not change is not looked at.
    pub fn expect(&self, fact: impl Fn(&Seen<'_>) -> bool + Send + Sync + 'static) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.number += 1;
        wanted.is_met = Arc::new(fact);
    }

    /// Waits until it is true of so many sidecars; gives how long after `since` that was of each, in order.
    ///
    /// # Errors
    /// When a minute passes in which it becomes true of none.
    pub fn met(&self, count: usize, since: Instant) -> anyhow::Result<Vec<Duration>> {
        let number = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).number;
        let mut took = Vec::with_capacity(count);
        while took.len() < count {
            match self.met.recv_timeout(PATIENCE) {
                Ok(met) if met.number == number => took.push(met.at.saturating_duration_since(since)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} of {count} sidecars have it after {PATIENCE:?}", took.len());
                }
                Err(error @ RecvTimeoutError::Disconnected) => {
                    return Err(error).context("the sidecars have ended");
                }
            }
        }
        took.sort_unstable();
        Ok(took)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Whoever drops this may be in a runtime of its own, where nobody waits for another's threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(60);
