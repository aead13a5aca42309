//! Tells on each policy and Runtime what became of it. One replica does, which has the Lease, and asks the others what they
//! know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, Patch, PatchParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::authority::MANAGER;
use super::index::{Index, Kinds};
use super::lease::Leadership;
use super::missed::Missed;
use super::owner::Owner;
use super::peers::Peers;
use crate::faults::{Doing, Faults};
use crate::replicas::Replicas;
use crate::source::Standings;
use crate::status::{Sidecars, Tally};
use crate::store::Store;

mod wanted;

use wanted::Status;

/// Who writes the status of policies and Runtimes.
#[derive(Clone)]
pub struct StatusWriter {
    /// The connection to the API server.
    pub client: Client,
    /// What is known of the cluster.
    pub index: Arc<Mutex<Index>>,
    /// What is pushed.
    pub store: Arc<Store>,
    /// Who runs it.
    pub sidecars: Arc<Sidecars>,
    /// What is wrong with what there is.
    pub standing: Standings,
    /// What is wrong with the writing.
    pub faults: Arc<Faults>,
    /// What this replica is called by the others.
    pub replicas: Arc<Replicas>,
    /// What it is called in the Lease.
    pub identity: String,
    /// Whose the Lease is where it has to be made again.
    pub owner: Owner,
    /// The port of the admin endpoint, here and at the other replicas.
    pub admin_port: u16,
}

/// Kind, namespace and name of an object.
type Name = (Kinds, String, String);

/// What was written, and when.
type Written = BTreeMap<Name, (Instant, Status)>;

/// What a status is made of: another value whenever one may have to be another.
#[derive(Debug, PartialEq, Eq)]
struct Revision {
    index: u64,
    activity: u64,
    generation: u64,
    /// The others' own, by who they are.
    others: Vec<String>,
}

impl std::fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusWriter").finish_non_exhaustive()
    }
}

impl StatusWriter {
    /// Writes for as long as it is polled, whenever this replica has the Lease; so is what was missed told.
    pub async fn keep(self, missed: Missed) {
        let (leads, is_leading) = watch::channel(false);
        let lease = Leadership {
            client: self.client.clone(),
            identity: self.identity.clone(),
            owner: self.owner.clone(),
            faults: Arc::clone(&self.faults),
        };
        tokio::select! {
            () = lease.keep(leads) => {}
            () = missed.keep(is_leading.clone()) => {}
            () = self.write_while(is_leading) => {}
        }
    }

    async fn write_while(self, is_leading: watch::Receiver<bool>) {
        let mut every = interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let nobody = || Peers::new(self.replicas.name(), self.admin_port);
        let (mut written, mut seen, mut peers) = (Written::new(), None, nobody());
        loop {
            every.tick().await;
            if !*is_leading.borrow() {
                (written, seen, peers) = (Written::new(), None, nobody());
                self.faults.note(Doing::Peers, Ok::<_, String>(()));
                continue;
            }
            // First of all, so that whoever begins to lead takes nothing back.
            self.faults.note(Doing::Peers, peers.look(&self.client).await);
            let others = peers.tallies();
            let now = self.revision(&others);
            if seen.as_ref() == Some(&now) {
                continue;
            }
            let done = self.write(&mut written, others).await;
            // What was put off is looked at again.
            seen = matches!(done, Ok(true)).then_some(now);
            self.faults.note(Doing::Status, done.map(drop));
        }
    }

    fn revision(&self, others: &[Arc<Tally>]) -> Revision {
        Revision {
            index: self.index.lock().revision(),
            activity: self.sidecars.activity(),
            generation: self.store.snapshot().generation(),
            others: others.iter().map(|tally| tally.revision.clone()).collect(),
        }
    }

    /// Writes what is another than before; what has changed a moment ago only if a condition has. False when
    /// something was put off.
    async fn write(&self, written: &mut Written, others: Vec<Arc<Tally>>) -> Result<bool, String> {
        let (found, before) = (self.clone(), written.clone());
        let wanted = tokio::task::spawn_blocking(move || found.wanted(&before, &others)).await;
        let wanted = wanted.map_err(|error| error.to_string())?;
        written.retain(|name, _| wanted.contains_key(name));
        let (now, mut is_done, mut failed) = (Instant::now(), true, None);
        for (name, (present, wanted)) in wanted {
            if present == wanted {
                continue;
            }
            let last = written.get(&name).map(|(at, _)| *at);
            let is_early = last.is_some_and(|at| now.saturating_duration_since(at) < BETWEEN_WRITES);
            if is_early && present.conditions() == wanted.conditions() {
                is_done = false;
                continue;
            }
            match self.patch(&name, &wanted).await {
                Ok(()) => {
                    written.insert(name, (now, wanted));
                }
                // It is gone, and so will be what is known of it.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    let (kinds, namespace, name) = name;
                    failed = Some(format!("{} {namespace}/{name}: {error}", kinds.kind()));
                }
            }
        }
        failed.map_or(Ok(is_done), Err)
    }

    async fn patch(&self, (kinds, namespace, name): &Name, status: &Status) -> kube::Result<()> {
        let kind = GroupVersionKind::gvk("jitney.dev", "v1alpha1", kinds.kind());
        let resource = ApiResource::from_gvk_with_plural(&kind, kinds.plural());
        let objects = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        let object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        objects
            .patch_status(name, &parameters, &Patch::Apply(&object))
            .await?;
        Ok(())
    }
}

/// How soon a status is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often one is written of which only counts and texts have changed.
const BETWEEN_WRITES: Duration = Duration::from_secs(5);
/// How long the watch may take to show what was written.
const ECHO: Duration = Duration::from_secs(10);
