//! Who may read a resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::Workload;

/// Who may read a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Every sidecar of the mesh, if it asks by name.
    Everyone,
    /// The sidecars of these workloads, and they get it without asking.
    Workloads(Vec<Workload>),
    /// Likewise, but of each workload only the sidecars that call themselves so. A workload's sidecars are
    /// one another's equals, so that nothing is kept from one that takes another's name.
    Sidecars(Arc<BTreeMap<Workload, BTreeSet<Arc<str>>>>),
}

impl Readers {
    /// Whether a sidecar is one of them.
    pub fn include(&self, workload: &Workload, node: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::Workloads(workloads) => workloads.contains(workload),
            Self::Sidecars(sidecars) => sidecars.get(workload).is_some_and(|nodes| nodes.contains(node)),
        }
    }

    /// The workloads whose sidecars, or some of them, get it without asking; `None` where everyone may read
    /// it, and nobody gets it so.
    pub fn workloads(&self) -> Option<Vec<&Workload>> {
        match self {
            Self::Everyone => None,
            Self::Workloads(workloads) => Some(workloads.iter().collect()),
            Self::Sidecars(sidecars) => Some(sidecars.keys().collect()),
        }
    }
}
