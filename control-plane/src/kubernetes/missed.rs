//! Pods that are to have a sidecar and have none: nobody answered the API server when they were made, or they are
//! older than the label that asks for sidecars. All are counted, and of each one an Event tells.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::StreamExt as _;

use super::table::{Event, Scope};
use crate::faults::{Doing, Faults};
use crate::inject::{CLUSTER_NAMESPACE, INJECT, INJECTED};
use crate::metrics::Counts;

mod bare;
mod events;

use bare::Bare;
use events::Events;

/// Who finds them, and tells.
#[derive(Clone)]
pub struct Missed {
    /// The connection to the API server.
    pub client: Client,
    /// The namespaces that are watched; none: all of them.
    pub namespaces: Vec<String>,
    /// Namespaces whose pods never get a sidecar, beside the cluster's own.
    pub excluded: Vec<String>,
    /// What this replica is called.
    pub replica: String,
    /// Where they are counted.
    pub counts: Counts,
    /// What is wrong with the looking.
    pub faults: Arc<Faults>,
}

/// What the watches tell.
enum News {
    Namespace(Event<PartialObjectMeta<Namespace>>),
    Pod(Scope, Event<PartialObjectMeta<Pod>>),
    Fault(String),
}

impl Debug for Missed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Missed").finish_non_exhaustive()
    }
}

impl Missed {
    /// Counts them for as long as it is polled, and writes Events while this replica leads.
    pub async fn keep(self, is_leading: watch::Receiver<bool>) {
        let (to, mut news) = mpsc::channel(QUEUE);
        // They end with this.
        let _watches = self.watch(&to);
        let mut bare = self.bare();
        let mut events = Events::new(self.client.clone(), self.replica.clone());
        let mut every = interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = news.recv() => match told {
                    Some(News::Namespace(event)) => bare.take_namespace(event),
                    Some(News::Pod(scope, event)) => bare.take_pod(&scope, event),
                    Some(News::Fault(text)) => self.faults.note(Doing::Missed, Err(text)),
                    None => return,
                },
                _ = every.tick(), if bare.is_known() => {
                    let mut missed = bare.missed();
                    self.counts.missed(missed.len());
                    missed.extend(bare.odd());
                    let leads = *is_leading.borrow();
                    if leads {
                        self.faults.note(Doing::Missed, events.tell(&missed).await);
                    }
                }
            }
        }
    }

    fn bare(&self) -> Bare {
        let excluded = self
            .excluded
            .iter()
            .cloned()
            .chain([CLUSTER_NAMESPACE.to_owned()]);
        Bare::new(excluded.collect(), self.scopes(), self.reads_labels())
    }

    fn scopes(&self) -> Vec<Scope> {
        match &self.namespaces[..] {
            [] => vec![Scope::All],
            some => some.iter().cloned().map(Scope::Namespace).collect(),
        }
    }

    /// Who watches some namespaces only may not read their labels: pods there have to say so themselves.
    const fn reads_labels(&self) -> bool {
        self.namespaces.is_empty()
    }

    fn watch(&self, to: &mpsc::Sender<News>) -> JoinSet<()> {
        let mut watches = JoinSet::new();
        if self.reads_labels() {
            let asking = watcher::Config::default().labels(INJECT);
            let namespaces = Api::all(self.client.clone());
            watches.spawn(tell(
                "namespaces",
                namespaces,
                asking,
                News::Namespace,
                to.clone(),
            ));
        }
        for scope in self.scopes() {
            let without = watcher::Config::default()
                .labels(&format!("{INJECTED}!=true"))
                .fields(MAY_HAVE_ONE);
            let pods = match &scope {
                Scope::All => Api::all(self.client.clone()),
                Scope::Namespace(name) => Api::namespaced(self.client.clone(), name),
            };
            let wrap = move |event| News::Pod(scope.clone(), event);
            watches.spawn(tell("pods", pods, without, wrap, to.clone()));
        }
        watches
    }
}

/// Tells what a watch says of objects' metadata until nobody listens. A watch that fails begins again, later and
/// later.
async fn tell<K>(
    kind: &'static str,
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    wrap: impl Fn(Event<PartialObjectMeta<K>>) -> News + Send,
    to: mpsc::Sender<News>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let news = event.map_or_else(|error| News::Fault(format!("{kind}: {error}")), &wrap);
        if to.send(news).await.is_err() {
            return;
        }
    }
}

/// Pods in the node's network never get a sidecar, and those that have ended need none.
const MAY_HAVE_ONE: &str = "spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed";

/// How soon one is told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What watches may tell before they wait for it to be taken in.
const QUEUE: usize = 256;
