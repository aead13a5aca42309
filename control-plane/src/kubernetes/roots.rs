//! The roots, in a ConfigMap of each namespace: a pod's sidecar needs them before it can ask for anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::StreamExt as _;

use super::authority::{MANAGED_BY, MANAGER};
use super::owner::Owner;
use crate::faults::{Doing, Faults};
use crate::identity::{BUNDLE_FILE, Trust};

/// Who writes the roots where pods can have them mounted.
#[derive(Clone)]
pub struct RootsWriter {
    client: Client,
    trust: Arc<Trust>,
    faults: Arc<Faults>,
    owner: Owner,
}

impl std::fmt::Debug for RootsWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootsWriter").finish_non_exhaustive()
    }
}

impl RootsWriter {
    /// Writes over this connection.
    pub const fn new(client: Client, trust: Arc<Trust>, faults: Arc<Faults>, owner: Owner) -> Self {
        Self {
            client,
            trust,
            faults,
            owner,
        }
    }

    /// Keeps the roots in these namespaces, or in all where none is named, for as long as it is polled. What
    /// somebody else has changed or deleted is put right within five minutes.
    pub async fn keep(self, namespaces: Vec<String>) {
        let mut changed = self.trust.subscribe();
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_fixed = !namespaces.is_empty();
        let mut known: BTreeSet<String> = namespaces.into_iter().collect();
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let events = watcher(namespaces, watcher::Config::default());
        let mut events = std::pin::pin!(events.default_backoff());
        loop {
            tokio::select! {
                _ = again.tick() => self.write_all(&known).await,
                told = changed.changed() => match told {
                    Ok(()) => self.write_all(&known).await,
                    Err(_) => return,
                },
                event = events.next(), if !is_fixed => match event {
                    Some(Ok(watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace))) => {
                        let is_leaving = namespace.metadata.deletion_timestamp.is_some();
                        let name = namespace.name_any();
                        if !is_leaving && known.insert(name.clone()) {
                            self.write_all(&BTreeSet::from([name])).await;
                        }
                    }
                    Some(Ok(watcher::Event::Delete(namespace))) => {
                        known.remove(&namespace.name_any());
                    }
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                    Some(Err(error)) => {
                        let told = format!("namespaces are not watched: {error}");
                        self.faults.note(Doing::RootsMap, Err(told));
                    }
                    None => return,
                },
            }
        }
    }

    async fn write_all(&self, namespaces: &BTreeSet<String>) {
        let pem = self.trust.roots().pem();
        let mut done = Ok(());
        for namespace in namespaces {
            if let Err(error) = self.write(namespace, &pem).await {
                // A namespace that is being deleted takes nothing new; nobody in it needs anything.
                let is_gone = matches!(&error, kube::Error::Api(status) if status.code == 404 || status.code == 403 && status.message.contains("being terminated"));
                if !is_gone {
                    done = Err(format!("ConfigMap {namespace}/{CONFIG_MAP}: {error}"));
                }
            }
        }
        self.faults.note(Doing::RootsMap, done);
    }

    async fn write(&self, namespace: &str, pem: &str) -> kube::Result<()> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": CONFIG_MAP,
                "labels": {MANAGED_BY: MANAGER},
                "ownerReferences": self.owner.references().unwrap_or_default(),
            },
            "data": {BUNDLE_FILE: pem},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        maps.patch(CONFIG_MAP, &parameters, &Patch::Apply(&map)).await?;
        Ok(())
    }
}

/// The ConfigMap's name, which is in the volume of every injected pod.
const CONFIG_MAP: &str = "jitney-roots";

/// How long it may be wrong when somebody has changed it.
const AGAIN: Duration = Duration::from_secs(300);
