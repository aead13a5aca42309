//! Many sidecars in one process.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jitney_api::Workload;
use jitney_api::push::{Assembly, OwnLimits, Reached};
use jitney_proxy::control::{Control, Force, Settings, SharedPapers};
use jitney_proxy::listeners::Listeners;
use jitney_proxy::metrics::Metrics;
use jitney_proxy::mtls::Mesh;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::plane::Plane;

/// The sidecars; they end when this is dropped.
pub(crate) struct Fleet {
    count: usize,
    began: Instant,
    applied: Receiver<Applied>,
    _runtime: Runtime,
}

/// A sidecar has applied what came after so many changes of each kind.
struct Applied {
    changes: [usize; 2],
    at: Instant,
}

/// A data path that does nothing but what has to be done before it could.
struct Compiles {
    applied: SyncSender<Applied>,
    last: Option<[usize; 2]>,
}

impl Force for Compiles {
    fn apply(&mut self, pushed: &Assembly, workload: &Workload) -> Result<(), String> {
        let inbound = pushed.inbound(workload).policy;
        let policy = inbound.routes().first().map(|route| route.limits.max_size - 1);
        let (to, _) = pushed.outbound("shop/orders").ok_or("no backend")?;
        let newest = |reached: &Reached| {
            reached
                .endpoint
                .host
                .strip_prefix("10.0.1.")?
                .parse::<usize>()
                .ok()
        };
        let endpoint = to.endpoints.iter().filter_map(newest).max();
        let changes = [policy.ok_or("no policy")?, endpoint.ok_or("no endpoint")? - 1];
        if self.last.replace(changes) == Some(changes) {
            return Ok(());
        }
        let applied = Applied {
            changes,
            at: Instant::now(),
        };
        self.applied.send(applied).map_err(|error| error.to_string())
    }

    fn listeners(&self) -> Listeners {
        watch::Sender::default().subscribe()
    }
}

impl Fleet {
    pub(crate) fn start(count: usize, plane: &Plane) -> anyhow::Result<Self> {
        let runtime = Runtime::new()?;
        let (sender, applied) = sync_channel(16 * count);
        let (metrics, began) = (Metrics::new(), Instant::now());
        for number in 0..count {
            let settings = Settings {
                urls: vec![format!("https://{}", plane.address).parse()?],
                node: format!("users-{number}"),
                zone: None,
                token_file: plane.token(number)?,
                trust_bundle: plane.folder.path().join("state/roots.pem"),
                snapshot: None,
                any_backend: false,
                papers: SharedPapers::default(),
                limits: OwnLimits::default(),
            };
            let force = Compiles {
                applied: sender.clone(),
                last: None,
            };
            let control = Control::new(settings, &metrics, &Mesh::default(), Box::new(force))?;
            runtime.spawn(control.run());
        }
        Ok(Self {
            count,
            began,
            applied,
            _runtime: runtime,
        })
    }

    /// Waits until each has what it is to have; gives the time that this took.
    pub(crate) fn all_connected(&self) -> anyhow::Result<Duration> {
        let took = self.all_applied([0, 0], self.began)?;
        took.last().copied().context("there is a last one")
    }

    /// Waits until each has applied what is there after so many changes, of which the last was made at that
    /// time; gives how long each took.
    pub(crate) fn all_applied(&self, changes: [usize; 2], since: Instant) -> anyhow::Result<Vec<Duration>> {
        let mut took = Vec::with_capacity(self.count);
        while took.len() < self.count {
            match self.applied.recv_timeout(PATIENCE) {
                Ok(applied) if applied.changes == changes => took.push(applied.at - since),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    bail!("{} of {} sidecars applied the change", took.len(), self.count);
                }
            }
        }
        took.sort_unstable();
        Ok(took)
    }
}

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(60);
