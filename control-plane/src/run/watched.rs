//! The source of a run, whichever it is.

use std::sync::Arc;

use super::{RunError, State};
use crate::config::{self, RunArgs};
use crate::files::{self, Files};
use crate::identity::{Attest, Bootstrap};
use crate::kubernetes;
use crate::metrics::Metrics;
use crate::source::Standings;

/// The source, which is watched for as long as this lives.
pub(super) enum Watched {
    Files { _files: Box<Files> },
    Cluster(Box<kubernetes::Source>),
}

/// A source that is good, as far as that can be told before it is watched.
pub(super) enum Found {
    Files(Box<files::Found>),
    Cluster(Vec<String>),
}

impl Found {
    pub(super) fn of(args: &RunArgs) -> Result<Self, RunError> {
        Ok(match args.sources()? {
            config::Sources::Files(paths) => Self::Files(Box::new(Files::read(paths)?)),
            config::Sources::Kubernetes(namespaces) => Self::Cluster(namespaces),
        })
    }

    pub(super) async fn watch(
        self,
        state: &State,
        standing: &Standings,
        metrics: &Metrics,
    ) -> Result<Watched, RunError> {
        let (rollouts, counts) = (&state.rollouts, metrics.counts.clone());
        Ok(match self {
            Self::Files(found) => Watched::Files {
                _files: Box::new(Files::start(*found, rollouts, &state.folder, standing, counts)?),
            },
            Self::Cluster(namespaces) => {
                let cluster = kubernetes::Source::start(&namespaces, rollouts, standing).await?;
                Watched::Cluster(Box::new(cluster))
            }
        })
    }
}

impl Watched {
    /// Whose a sidecar without a certificate is, is told by who made its token.
    pub(super) fn attest(&self, state: &State) -> Arc<dyn Attest> {
        match self {
            Self::Files { .. } => {
                Arc::new(Bootstrap::new(Arc::clone(&state.tokens), Arc::clone(&state.used)))
            }
            Self::Cluster(cluster) => Arc::new(kubernetes::TokenReviews::new(cluster.client())),
        }
    }

    /// Returns when all that it holds has been pushed.
    pub(super) async fn synced(&self) {
        if let Self::Cluster(cluster) = self {
            // It does not end before this does.
            drop(cluster.synced().wait_for(|synced| *synced).await);
        }
    }
}
