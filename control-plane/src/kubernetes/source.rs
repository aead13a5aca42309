//! From watches to what is pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::HeaderValue;
use http::header::USER_AGENT;
use jitney_api::push::{Conflict, Resources};
use jitney_api::{Diagnostic, Workload};
use kube::{Client, Config};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::debounce::{Debounce, Pace};
use super::index::{Index, Kinds, Told};
use super::table::Scope;
use super::watch::{Complaint, News, Word};
use crate::rollout::Rollouts;
use crate::source::{Standing, Standings};

/// A cluster that is watched for as long as this lives.
pub struct Source {
    index: Arc<Mutex<Index>>,
    synced: watch::Receiver<bool>,
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("synced", &*self.synced.borrow())
            .finish_non_exhaustive()
    }
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not known where the API server is, and who asks.
    #[error("--source kubernetes: {0}; expected to run in a pod, or KUBECONFIG")]
    Unknown(#[source] kube::config::InferConfigError),
    /// There can be no connection.
    #[error("--source kubernetes: {0}")]
    Client(#[source] kube::Error),
}

/// A connection to the API server, as a pod or `KUBECONFIG` says it. That nobody answers is no error yet.
///
/// # Errors
/// When neither says it, or what they say is of no use.
pub async fn connect() -> Result<Client, SourceError> {
    let mut config = Config::infer().await.map_err(SourceError::Unknown)?;
    // Who looks for what loads an API server finds it by this.
    config.headers.push((USER_AGENT, AGENT));
    tracing::info!(server = %config.cluster_url, "the source is a cluster");
    Client::try_from(config).map_err(SourceError::Client)
}

impl Source {
    /// Watches these namespaces, or all of them where none is named. Nothing is pushed before
    /// [`Source::synced`].
    pub fn start(
        client: &Client,
        namespaces: &[String],
        rollouts: &Arc<Rollouts>,
        standing: &Standings,
    ) -> Self {
        let scopes = scopes(namespaces);
        let (to, news) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        for scope in &scopes {
            super::watch::start(client, scope, &mut tasks, &to);
        }
        let index = Arc::new(Mutex::new(Index::new(scopes)));
        let (is_synced, synced) = watch::channel(false);
        let taking = Taking {
            index: Arc::clone(&index),
            rollouts: Arc::clone(rollouts),
            standing: standing.clone(),
            pushed: BTreeMap::new(),
            workloads: BTreeMap::new(),
            complaints: BTreeMap::new(),
            is_synced,
        };
        tasks.spawn(taking.until_ended(news));
        Self {
            index,
            synced,
            _tasks: tasks,
        }
    }

    /// Becomes true when all that the cluster holds is pushed.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.clone()
    }

    /// What is known of the cluster.
    pub fn index(&self) -> Arc<Mutex<Index>> {
        Arc::clone(&self.index)
    }
}

/// These namespaces, or all where none is named.
pub(super) fn scopes(namespaces: &[String]) -> Vec<Scope> {
    match namespaces {
        [] => vec![Scope::All],
        some => some.iter().cloned().map(Scope::Namespace).collect(),
    }
}

/// Who takes in what is told.
struct Taking {
    index: Arc<Mutex<Index>>,
    rollouts: Arc<Rollouts>,
    standing: Standings,
    /// What each namespace pushes.
    pushed: BTreeMap<String, Resources>,
    /// The workloads that each knows.
    workloads: BTreeMap<String, BTreeSet<Workload>>,
    /// What was last said of a watch that does not come about, by kind.
    complaints: BTreeMap<&'static str, String>,
    is_synced: watch::Sender<bool>,
}

impl Taking {
    async fn until_ended(mut self, mut news: mpsc::Receiver<News>) {
        let mut debounce = Debounce::default();
        loop {
            let due = debounce.due().filter(|_| self.index.lock().is_synced());
            let is_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = news.recv() => {
                    let Some((scope, told)) = told else { return };
                    if let Some(pace) = self.take(&scope, told) {
                        debounce.note(pace, Instant::now());
                    }
                }
                () = is_due => {
                    let changed = debounce.take().unwrap_or_else(Instant::now);
                    // Others may write to a disk meanwhile.
                    let pushed = tokio::task::spawn_blocking(move || {
                        self.push(changed);
                        self
                    });
                    match pushed.await {
                        Ok(back) => self = back,
                        // It panicked, and that was logged: what was pushed last stays.
                        Err(_) => return,
                    }
                }
            }
        }
    }

    fn take(&mut self, scope: &Scope, said: Result<Word, Complaint>) -> Option<Pace> {
        match said {
            Ok(Word::Told(told)) => {
                self.is_watched(told.kind());
                let pace = match told {
                    Told::Custom(..) | Told::Route(..) | Told::Unserved(_) => Pace::Edit,
                    Told::Service(_) | Told::Slice(_) | Told::Pod(_) => Pace::Address,
                };
                self.index.lock().take(scope, told).then_some(pace)
            }
            Ok(Word::GoesOn(kind)) => {
                self.is_watched(kind);
                None
            }
            Err(Complaint { kind, text, .. }) => {
                if self.complaints.get(kind) != Some(&text) {
                    tracing::error!("{text}");
                    self.complaints.insert(kind, text);
                    self.stand();
                }
                None
            }
        }
    }

    /// There is nothing to say of the watch of a kind.
    fn is_watched(&mut self, kind: &'static str) {
        if self.complaints.remove(kind).is_some() {
            self.stand();
        }
    }

    fn push(&mut self, changed: Instant) {
        let mut generations = BTreeMap::new();
        {
            let mut index = self.index.lock();
            for namespace in index.changed() {
                let resources = index.resources(&namespace);
                generations.insert(namespace.clone(), index.good_generations(&namespace));
                if resources == Resources::default() {
                    self.pushed.remove(&namespace);
                    self.workloads.remove(&namespace);
                } else {
                    let workloads = index.workloads(&namespace);
                    self.workloads.insert(namespace.clone(), workloads);
                    self.pushed.insert(namespace, resources);
                }
            }
        }
        self.stand();
        let mut all = Resources::default();
        for resources in self.pushed.values() {
            all.pushed.extend(resources.pushed.iter().cloned());
            all.conflicts.extend(resources.conflicts.iter().cloned());
            all.shares.extend(
                resources
                    .shares
                    .iter()
                    .map(|(policy, share)| (Arc::clone(policy), *share)),
            );
        }
        self.rollouts.replace(all, changed);
        let mut index = self.index.lock();
        for (namespace, generations) in generations {
            index.note_pushed(&namespace, generations);
        }
        drop(index);
        self.is_synced.send_replace(true);
    }

    /// Has others know how the source stands, and says in the log what is another than before.
    fn stand(&self) {
        let next = self.standing();
        let before = self.standing.replace(next.clone());
        let is_news = |told: &&Diagnostic| !before.refused.contains(told) && !before.warnings.contains(told);
        for fault in next.refused.iter().filter(is_news) {
            tracing::error!("refused, what was good last stays: {fault}");
        }
        for warning in next.warnings.iter().filter(is_news) {
            tracing::warn!("{warning}");
        }
    }

    fn standing(&self) -> Standing {
        let index = self.index.lock();
        let mut standing = Standing {
            sources: vec!["kubernetes".to_owned()],
            is_by_document: true,
            of_pods: Some(index.of_pods()),
            generations: index.generations(),
            ..Standing::default()
        };
        let objects = Kinds::ALL.into_iter().flat_map(|kinds| index.all(kinds));
        for (_, _, custom) in objects {
            standing.refused.extend(custom.faults.iter().cloned());
            standing.warnings.extend(custom.warnings.iter().cloned());
        }
        let namespaces = index.namespaces().into_iter();
        let unkept = namespaces.flat_map(|namespace| index.unkept(namespace));
        standing.warnings.extend(unkept);
        let complaint = |(kind, text): (&&str, &String)| Diagnostic::of_file(&(**kind).into(), text);
        standing.refused.extend(self.complaints.iter().map(complaint));
        let conflicts = self.pushed.values().flat_map(|resources| &resources.conflicts);
        standing.conflicts = conflicts.cloned().collect::<Vec<Conflict>>();
        let conflicts = standing.conflicts.iter().map(|conflict| &conflict.warning);
        standing.warnings.extend(conflicts.cloned());
        standing
            .workloads
            .extend(self.workloads.values().flatten().cloned());
        standing
    }
}

/// What this calls itself in its requests.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("jitney-control-plane/", env!("CARGO_PKG_VERSION")));

/// What watches may tell before they wait for it to be taken in.
pub(super) const QUEUE: usize = 1024;
