//! A start with what was kept on disk: read first, for the roots in it say who the sidecar may be, and in force
//! once it is known who it is.

use jitney_api::Workload;
use jitney_api::push::{Change, Delta, Kind};
use tokio::time::Instant;

use super::super::snapshot::Disk;
use super::super::trust::Trust;
use super::delta::each_bundle;
use super::{Duty, RETRY};

impl Duty {
    /// Reads what was kept on disk, if there is something. Its roots are trusted from now on.
    pub(in super::super) fn restore(&mut self, disk: &Disk, trust: &Trust) {
        let Some(snapshot) = disk.load() else {
            return;
        };
        let Ok(workload) = snapshot.workload.parse() else {
            return;
        };
        self.workload = Some(workload);
        self.mark();
        for kind in Kind::ALL {
            let of_kind = snapshot
                .resources
                .iter()
                .filter(|kept| kept.type_url == kind.type_url());
            let changes = of_kind.map(|kept| Change::Set {
                name: kept.name.clone(),
                version: kept.version.clone(),
                content: kept.content.clone(),
            });
            let mut delta = Delta::remembered(kind, changes.collect());
            if kind == Kind::TrustBundle {
                each_bundle(&mut delta, |bundle| trust.remember(bundle));
            }
            self.assembly.take(&mut delta);
            self.hold(&delta);
        }
        for ((kind, name), (version, _)) in &*self.held {
            self.subscriber.hold(*kind, name, version);
        }
        self.ask();
        // It was wanted by other flags.
        for kind in Kind::ALL {
            for name in self.subscriber.release_unwanted(kind) {
                self.assembly.remove(kind, &name);
                self.held.remove(&(kind, name));
            }
        }
        for (_, name) in self.held.keys().filter(|(kind, _)| *kind == Kind::Backend) {
            self.known.set(name.clone(), ());
        }
        self.assembly.expect_nothing();
        self.is_unsaved = false;
    }

    /// Puts in force what [`Duty::restore`] has read, unless that is for another workload than this sidecar is known
    /// to be of. While it has no certificate it is not known to be of any.
    pub(in super::super) fn begin(&mut self, identified: Option<&Workload>) {
        let Some(workload) = self.workload.clone() else {
            return;
        };
        if let Some(identified) = identified.filter(|identified| **identified != workload) {
            self.serve(identified);
            return;
        }
        let applied = self.apply();
        self.complain();
        match applied {
            Ok(()) => {
                self.standing.lock().from_snapshot = true;
                tracing::info!(resources = self.held.len(), "the last good set is back from disk");
            }
            Err(reason) => {
                tracing::error!(reason, "the last good set is not in force");
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
        self.show();
    }
}
