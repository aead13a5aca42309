//! The source of a run, whichever it is, and what else of the run differs with it.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{RunError, State};
use crate::config::{self, RunArgs};
use crate::files::{self, Files};
use crate::identity::{Attest, Bootstrap};
use crate::kubernetes::{Keys, Missed, Owner, RootsWriter, Source, StatusWriter, TokenReviews, connect};
use crate::metrics::{Counts, Metrics};
use crate::source::Standings;
use crate::status::Sidecars;
use crate::store::Store;

/// The source, which is watched for as long as this lives.
pub(super) enum Watched {
    Files { _files: Box<Files> },
    Cluster(Box<Cluster>),
}

/// A cluster, and what is written there.
pub(super) struct Cluster {
    client: kube::Client,
    namespaces: Vec<String>,
    source: Source,
    owner: Owner,
    tasks: JoinSet<()>,
}

/// A source that is good, as far as that can be told before it is watched.
pub(super) enum Found {
    Files(Box<files::Found>),
    Cluster {
        client: kube::Client,
        namespaces: Vec<String>,
        keys: Box<Keys>,
    },
}

impl Found {
    /// Nothing is made yet, but for keys that are brought to the state folder.
    pub(super) async fn of(args: &RunArgs) -> Result<Self, RunError> {
        match args.sources()? {
            config::Sources::Files(paths) => Ok(Self::Files(Box::new(Files::read(paths)?))),
            config::Sources::Kubernetes(namespaces) => {
                let client = connect().await?;
                let mut keys = Keys::new(&client);
                keys.fetch(&args.mesh.state, &args.mesh.trust_domain).await?;
                keys.set_owner(Owner::find(&client, args.owner.as_deref()).await);
                Ok(Self::Cluster {
                    client,
                    namespaces,
                    keys: Box::new(keys),
                })
            }
        }
    }

    pub(super) async fn watch(
        self,
        state: &State,
        standing: &Standings,
        metrics: &Metrics,
    ) -> Result<Watched, RunError> {
        let (rollouts, counts) = (&state.rollouts, metrics.counts.clone());
        match self {
            Self::Files(found) => {
                let files = Files::start(*found, rollouts, &state.folder, standing, counts)?;
                Ok(Watched::Files {
                    _files: Box::new(files),
                })
            }
            Self::Cluster {
                client,
                namespaces,
                mut keys,
            } => {
                keys.keep(&state.trust).await?;
                let source = Source::start(&client, &namespaces, rollouts, standing);
                let (trust, faults, owner) = (&state.trust, &state.faults, keys.owner().clone());
                let (to, in_case) = (Arc::clone(trust), Arc::clone(faults));
                let roots = RootsWriter::new(client.clone(), to, in_case, owner.clone());
                let mut tasks = JoinSet::new();
                tasks.spawn(roots.keep(namespaces.clone()));
                tasks.spawn(keys.follow(Arc::clone(trust), Arc::clone(faults)));
                Ok(Watched::Cluster(Box::new(Cluster {
                    client,
                    namespaces,
                    source,
                    owner,
                    tasks,
                })))
            }
        }
    }
}

impl Watched {
    /// Whose a sidecar without a certificate is, is told by who made its token.
    pub(super) fn attest(&self, state: &State) -> Arc<dyn Attest> {
        match self {
            Self::Files { .. } => {
                Arc::new(Bootstrap::new(Arc::clone(&state.tokens), Arc::clone(&state.used)))
            }
            Self::Cluster(cluster) => Arc::new(TokenReviews::new(cluster.client.clone())),
        }
    }

    /// Has a cluster's policies say what became of them, here and at the other replicas, whose admin endpoints have
    /// the same port; and pods, that they lack what they are to have.
    pub(super) fn write_status(
        &mut self,
        args: &RunArgs,
        state: &State,
        store: &Arc<Store>,
        sidecars: &Arc<Sidecars>,
        standing: &Standings,
        counts: &Counts,
    ) {
        if let Self::Cluster(cluster) = self {
            let writer = StatusWriter {
                client: cluster.client.clone(),
                index: cluster.source.index(),
                store: Arc::clone(store),
                sidecars: Arc::clone(sidecars),
                standing: standing.clone(),
                faults: Arc::clone(&state.faults),
                replicas: Arc::clone(&state.replicas),
                identity: args
                    .replica
                    .clone()
                    .unwrap_or_else(|| made_up(state.replicas.name())),
                owner: cluster.owner.clone(),
                admin_port: args.admin.port(),
            };
            let own = args.webhook.settings.control_plane_namespace.clone();
            let missed = Missed {
                client: cluster.client.clone(),
                namespaces: cluster.namespaces.clone(),
                excluded: args.excluded_namespaces.iter().cloned().chain([own]).collect(),
                replica: state.replicas.name().to_owned(),
                counts: counts.clone(),
                faults: Arc::clone(&state.faults),
            };
            cluster.tasks.spawn(writer.keep(missed));
        }
    }

    /// Returns when all that it holds has been pushed.
    pub(super) async fn synced(&self) {
        if let Self::Cluster(cluster) = self {
            // It does not end before this does.
            drop(cluster.source.synced().wait_for(|synced| *synced).await);
        }
    }
}

/// What a replica is called that nobody has given a name.
fn made_up(unique: &str) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{}-{unique}", host.to_string_lossy())
}
