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

mod outdated;
mod wanted;

use outdated::Outdated;
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

/// What whoever leads knows of its own writing.
struct Writing {
    written: Written,
    /// What all statuses were made of that are written.
    seen: Option<Revision>,
    peers: Peers,
    outdated: Outdated,
}

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

impl Writing {
    /// Nothing is written yet.
    fn new(writer: &StatusWriter) -> Self {
        Self {
            written: Written::new(),
            seen: None,
            peers: Peers::new(writer.replicas.name(), writer.admin_port),
            outdated: Outdated::default(),
        }
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
        let mut writing = None;
        loop {
            every.tick().await;
            if *is_leading.borrow() {
                let writing = writing.get_or_insert_with(|| Writing::new(&self));
                self.write_once(writing).await;
            } else if writing.take().is_some() {
                // Whoever leads now has them, or not.
                for doing in [Doing::Peers, Doing::Status, Doing::Definitions] {
                    self.faults.note(doing, Ok::<_, String>(()));
                }
            }
        }
    }

    async fn write_once(&self, writing: &mut Writing) {
        // First of all, so that whoever begins to lead takes nothing back.
        self.faults
            .note(Doing::Peers, writing.peers.look(&self.client).await);
        let others = writing.peers.tallies();
        let now = self.revision(&others);
        let is_due = writing.outdated.is_due(Instant::now());
        if writing.seen.as_ref() == Some(&now) && !is_due {
            return;
        }
        let looked = match is_due {
            true => writing.outdated.look(&self.client).await,
            false => Ok(()),
        };
        let done = match looked {
            Ok(()) => self.write(writing, others).await,
            Err(error) => Err(error.to_string()),
        };
        // What was put off is looked at again.
        writing.seen = matches!(done, Ok(true)).then_some(now);
        self.faults.note(Doing::Definitions, writing.outdated.verdict());
        self.faults.note(Doing::Status, done.map(drop));
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
    async fn write(&self, writing: &mut Writing, others: Vec<Arc<Tally>>) -> Result<bool, String> {
        let Writing {
            written, outdated, ..
        } = writing;
        let (found, before) = (self.clone(), written.clone());
        let wanted = tokio::task::spawn_blocking(move || found.wanted(&before, &others)).await;
        let wanted = wanted.map_err(|error| error.to_string())?;
        written.retain(|name, _| wanted.contains_key(name));
        let (now, mut is_done, mut is_missing, mut failed) = (Instant::now(), true, false, None);
        for (name, (present, wanted)) in wanted {
            if present == wanted || outdated.has(name.0) {
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
                // It is gone, and so will be what is known of it; or its kind has no status, which is said in the same words.
                Err(kube::Error::Api(status)) if status.code == 404 => is_missing = true,
                Err(error) => {
                    let (kinds, namespace, name) = name;
                    failed = Some(format!("{} {namespace}/{name}: {error}", kinds.kind()));
                }
            }
        }
        if is_missing && let Err(error) = outdated.look(&self.client).await {
            failed = Some(error.to_string());
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
