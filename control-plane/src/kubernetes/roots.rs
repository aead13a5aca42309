//! The roots, in a ConfigMap of each namespace: a pod's sidecar needs them before it can ask for anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_stream::StreamExt as _;

use super::authority::MANAGER;
use super::owner::Owner;
use crate::faults::{Doing, Faults};
use crate::identity::Trust;

mod map;

use map::{CONFIG_MAP, Wanted};

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
    /// somebody else has changed or deleted is put right within seconds; while it cannot be watched, within five minutes.
    pub async fn keep(self, namespaces: Vec<String>) {
        let mut changed = self.trust.subscribe();
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_fixed = !namespaces.is_empty();
        let mut known: BTreeSet<String> = namespaces.into_iter().collect();
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let events = watcher(namespaces, watcher::Config::default());
        let mut events = std::pin::pin!(events.default_backoff());
        let (to, mut seen) = mpsc::channel(QUEUE);
        // They end with this.
        let _watches = self.watch_maps(&known, &to);
        let mut spoilt = Spoilt::default();
        loop {
            tokio::select! {
                Some(map) = seen.recv() => match map {
                    Ok((namespace, map)) => {
                        let is_wrong = known.contains(&namespace) && !self.is_met(map.as_deref());
                        spoilt.note(namespace, is_wrong, Instant::now());
                    }
                    Err(told) => self.faults.note(Doing::RootsMap, Err(told)),
                },
                () = spoilt.is_due() => self.write_all(&spoilt.take()).await,
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

    /// Watches the ConfigMaps in these namespaces, or in all where none is named.
    fn watch_maps(&self, namespaces: &BTreeSet<String>, to: &mpsc::Sender<Seen>) -> JoinSet<()> {
        let all = || vec![Api::all(self.client.clone())];
        let of = |name: &String| Api::namespaced(self.client.clone(), name);
        let maps: Vec<Api<ConfigMap>> = match namespaces.is_empty() {
            true => all(),
            false => namespaces.iter().map(of).collect(),
        };
        maps.into_iter().map(|maps| watch(maps, to.clone())).collect()
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

    /// Whether a ConfigMap is as it is to be; one that is not there is not.
    fn is_met(&self, map: Option<&ConfigMap>) -> bool {
        let pem = self.trust.roots().pem();
        let wanted = Wanted {
            pem: &pem,
            owner: &self.owner,
        };
        map.is_some_and(|map| wanted.is_met(map))
    }

    async fn write(&self, namespace: &str, pem: &str) -> kube::Result<()> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let map = match self.apply(&maps, pem).await {
            // What it holds cannot be another, though what it is called can.
            Err(kube::Error::Api(status)) if status.code == 422 => match immutable(&maps).await? {
                Some(map) => map,
                None => return Err(kube::Error::Api(status)),
            },
            applied => applied?,
        };
        let map = if map::is_immutable(&map) {
            remove(&maps, &map).await?;
            tracing::warn!("ConfigMap {namespace}/{CONFIG_MAP} was immutable, and is made anew");
            self.apply(&maps, pem).await?
        } else {
            map
        };
        if let Some(patch) = map::surplus(&map) {
            let parameters = PatchParams::default();
            maps.patch(CONFIG_MAP, &parameters, &Patch::Merge(&patch)).await?;
        }
        Ok(())
    }

    async fn apply(&self, maps: &Api<ConfigMap>, pem: &str) -> kube::Result<ConfigMap> {
        let wanted = Wanted {
            pem,
            owner: &self.owner,
        };
        let parameters = PatchParams::apply(MANAGER).force();
        maps.patch(CONFIG_MAP, &parameters, &Patch::Apply(&wanted.applied()))
            .await
    }
}

/// The ConfigMap, if nobody can change it.
async fn immutable(maps: &Api<ConfigMap>) -> kube::Result<Option<ConfigMap>> {
    // As it is watched, so that it takes no other right.
    let own = ListParams::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    Ok(maps.list(&own).await?.into_iter().find(map::is_immutable))
}

/// Deletes this one, and no other that has come in its place or is another by now.
async fn remove(maps: &Api<ConfigMap>, map: &ConfigMap) -> kube::Result<()> {
    let exactly = DeleteParams::default().preconditions(Preconditions {
        resource_version: map.metadata.resource_version.clone(),
        uid: map.metadata.uid.clone(),
    });
    maps.delete(CONFIG_MAP, &exactly).await.map(drop)
}

/// A ConfigMap as it is now: its namespace, and itself unless it is gone.
type Seen = Result<(String, Option<Box<ConfigMap>>), String>;

/// Tells of each ConfigMap with roots until nobody listens.
async fn watch(maps: Api<ConfigMap>, to: mpsc::Sender<Seen>) {
    let own = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut events = std::pin::pin!(watcher(maps, own).default_backoff());
    while let Some(event) = events.next().await {
        let seen = match event {
            Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
                Ok((map.namespace().unwrap_or_default(), Some(Box::new(map))))
            }
            Ok(watcher::Event::Delete(map)) => Ok((map.namespace().unwrap_or_default(), None)),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => continue,
            Err(error) => Err(format!("ConfigMaps {CONFIG_MAP} are not watched: {error}")),
        };
        if to.send(seen).await.is_err() {
            return;
        }
    }
}

/// Namespaces whose ConfigMap is another one than it is to be.
#[derive(Debug, Default)]
struct Spoilt {
    namespaces: BTreeSet<String>,
    /// When they are put right.
    due: Option<Instant>,
}

impl Spoilt {
    fn note(&mut self, namespace: String, is_wrong: bool, now: Instant) {
        match is_wrong {
            true => self.namespaces.insert(namespace),
            false => self.namespaces.remove(&namespace),
        };
        self.due = (!self.namespaces.is_empty()).then(|| self.due.unwrap_or(now + SETTLE));
    }

    /// Never, while there are none.
    async fn is_due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    fn take(&mut self) -> BTreeSet<String> {
        self.due = None;
        std::mem::take(&mut self.namespaces)
    }
}

/// How long it may be wrong when somebody has changed it, and it is not watched.
const AGAIN: Duration = Duration::from_secs(300);
/// How long it may be wrong else: another replica that has other roots is soon followed, and one that writes what this
/// one is about to learn is not to be overwritten.
const SETTLE: Duration = Duration::from_secs(2);
/// What watches may tell before they wait for it to be taken in.
const QUEUE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_for_a_moment_is_left_alone() {
        let (mut spoilt, start) = (Spoilt::default(), Instant::now());
        spoilt.note("shop".to_owned(), true, start);
        spoilt.note("bank".to_owned(), true, start + SETTLE / 2);
        spoilt.note("shop".to_owned(), false, start + SETTLE / 2);
        spoilt.is_due().await;
        assert_eq!(Instant::now(), start + SETTLE, "the first of them is waited for");
        assert_eq!(spoilt.take(), BTreeSet::from(["bank".to_owned()]));
        spoilt.note("shop".to_owned(), true, start);
        spoilt.note("shop".to_owned(), false, start);
        let waited = tokio::time::timeout(AGAIN, spoilt.is_due()).await;
        assert!(waited.is_err() && spoilt.take().is_empty());
    }
}
