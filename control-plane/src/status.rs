//! What runs where: each sidecar that is connected, what it acknowledged and what it rejected.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jitney_api::Workload;
use jitney_api::push::{Answer, Kind, Nack, Version, View as _};
use parking_lot::Mutex;

use crate::store::Snapshot;

/// Every sidecar that is connected.
#[derive(Debug, Default)]
pub struct Sidecars {
    streams: Mutex<HashMap<u64, Sidecar>>,
    numbers: AtomicU64,
}

/// One sidecar, for as long as its stream is open.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Whose it is, by its certificate.
    pub workload: Workload,
    /// What it calls itself.
    pub node: String,
    runs: HashMap<(Kind, Arc<str>), Version>,
    rejected: HashMap<(Kind, Arc<str>), Nack>,
}

/// How far a policy has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sidecars that are to run it.
    pub selected: usize,
    /// Those that run it in its present version, with all its routes.
    pub acked: usize,
    /// Those that cannot.
    pub rejected: usize,
    /// Those that have not said yet.
    pub stale: usize,
    /// The node that rejected it last, and what it said.
    pub last_rejection: Option<(String, Nack)>,
}

impl Sidecars {
    /// A stream has been opened; what it says is noted under the number given.
    pub fn open(&self, workload: Workload) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let sidecar = Sidecar {
            workload,
            node: String::new(),
            runs: HashMap::new(),
            rejected: HashMap::new(),
        };
        self.streams.lock().insert(number, sidecar);
        number
    }

    /// The stream has ended.
    pub fn close(&self, stream: u64) {
        self.streams.lock().remove(&stream);
    }

    /// The sidecar has said who it is.
    pub fn named(&self, stream: u64, node: &str) {
        if let Some(sidecar) = self.streams.lock().get_mut(&stream) {
            node.clone_into(&mut sidecar.node);
        }
    }

    /// It came with these, from an earlier stream or from its disk.
    pub fn holds<'a>(&self, stream: u64, kind: Kind, held: impl Iterator<Item = (&'a String, &'a String)>) {
        if !is_followed(kind) {
            return;
        }
        if let Some(sidecar) = self.streams.lock().get_mut(&stream) {
            let known = held
                .filter_map(|(name, version)| Some(((kind, name.as_str().into()), version.parse().ok()?)));
            sidecar.runs.extend(known);
        }
    }

    /// It has answered a response.
    pub fn answered(&self, stream: u64, answer: Answer) {
        let Answer::Applied {
            kind,
            applied,
            rejected,
        } = answer
        else {
            return;
        };
        for nack in &rejected {
            tracing::warn!(%kind, name = %nack.name, field = nack.field, reason = nack.reason, "a sidecar rejected a resource");
        }
        let mut streams = self.streams.lock();
        let Some(sidecar) = streams.get_mut(&stream).filter(|_| is_followed(kind)) else {
            return;
        };
        for (name, version) in applied {
            sidecar.rejected.remove(&(kind, Arc::clone(&name)));
            match version {
                Some(version) => sidecar.runs.insert((kind, name), version),
                None => sidecar.runs.remove(&(kind, name)),
            };
        }
        for nack in rejected {
            sidecar.rejected.insert((kind, Arc::clone(&nack.name)), nack);
        }
    }

    /// Every sidecar that is connected now.
    pub fn all(&self) -> Vec<Sidecar> {
        self.streams.lock().values().cloned().collect()
    }

    /// How far a policy has come, of which `routes` are the names of its routes.
    pub fn progress(&self, snapshot: &Snapshot, policy: &Arc<str>, routes: &[Arc<str>]) -> Progress {
        let mut progress = Progress::default();
        let parts = || {
            let routes = routes.iter().map(|route| (Kind::Route, route));
            std::iter::once((Kind::Policy, policy)).chain(routes)
        };
        for sidecar in self.streams.lock().values() {
            let sight = snapshot.to(&sidecar.workload);
            let key = (Kind::Policy, Arc::clone(policy));
            let has_it = sidecar.runs.contains_key(&key) || sidecar.rejected.contains_key(&key);
            if !has_it && !sight.is_own(Kind::Policy, policy) {
                continue;
            }
            progress.selected += 1;
            let present = |(kind, name): (Kind, &Arc<str>)| {
                let version = sight.get(kind, name).map(|held| held.version);
                version.is_some() && sidecar.runs.get(&(kind, Arc::clone(name))).copied() == version
            };
            let refused = parts().find_map(|(kind, name)| {
                let nack = sidecar.rejected.get(&(kind, Arc::clone(name)))?;
                (nack.version == sight.get(kind, name).map(|held| held.version)).then_some(nack)
            });
            if let Some(nack) = refused {
                progress.rejected += 1;
                progress.last_rejection = Some((sidecar.node.clone(), nack.clone()));
            } else if parts().all(present) {
                progress.acked += 1;
            } else {
                progress.stale += 1;
            }
        }
        progress
    }
}

/// Endpoints come and go by the thousand, and nobody asks which sidecar has which.
const fn is_followed(kind: Kind) -> bool {
    !matches!(kind, Kind::Endpoint | Kind::Backend)
}
