//! How the sidecars that are connected stand to the roots: what the exchange of a root waits for.

use std::collections::{BTreeMap, BTreeSet};

use jitney_api::push::{Kind, Version};
use serde::{Deserialize, Serialize};

use super::Sidecars;
use crate::identity::{KeyHash, RootId, Trust};

/// How many trust which root, and whose certificates are of which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trusting {
    /// Sidecars that are connected.
    pub connected: usize,
    /// Those that have applied a bundle with the root in it.
    pub trusting: BTreeMap<RootId, usize>,
    /// Those whose certificate the root signed.
    pub holding: BTreeMap<RootId, usize>,
    /// Workloads that they are of, as many as fit in a small file.
    #[serde(default)]
    pub workloads: BTreeSet<String>,
    /// A few that do not trust every root in force, by workload and node.
    pub behind: Vec<String>,
}

/// Sidecars that have applied the same version of the bundle.
#[derive(Default)]
struct Alike {
    count: usize,
    some: Vec<String>,
}

impl Sidecars {
    /// How they stand to the roots now. Takes time in proportion to the sidecars.
    pub fn trusting(&self, trust: &Trust) -> Trusting {
        let (mut found, mut workloads) = (Trusting::default(), BTreeSet::new());
        // A control plane has one trust domain, and so one bundle.
        let mut bundles: BTreeMap<Option<Version>, Alike> = BTreeMap::new();
        self.each(|sidecar| {
            found.connected += 1;
            workloads.insert(sidecar.recipient.workload.clone());
            if let Some(root) = sidecar.root {
                *found.holding.entry(root).or_default() += 1;
            }
            let bundle = sidecar.runs[Kind::TrustBundle as usize].values().next();
            let alike = bundles.entry(bundle.copied()).or_default();
            alike.count += 1;
            if alike.some.len() < A_FEW {
                let recipient = &sidecar.recipient;
                let shown = format!("{} {}", recipient.workload, recipient.node);
                alike.some.push(shown.trim_end().to_owned());
            }
        });
        let names = workloads.iter().take(MOST_WORKLOADS);
        found.workloads = names.map(ToString::to_string).collect();
        let in_force = trust.roots();
        for (bundle, alike) in bundles {
            let roots = bundle.and_then(|version| trust.in_bundle(version));
            let roots = roots.unwrap_or_default();
            if !in_force.all().iter().all(|root| roots.contains(&root.id)) {
                found.behind.extend(alike.some);
            }
            for root in roots {
                *found.trusting.entry(root).or_default() += alike.count;
            }
        }
        found.behind.truncate(A_FEW);
        found
    }
}

impl Sidecars {
    /// The keys of those that trust a root, as far as they have certificates.
    pub fn that_trust(&self, root: RootId, trust: &Trust) -> Vec<KeyHash> {
        let mut keys = Vec::new();
        self.each(|sidecar| {
            let bundle = sidecar.runs[Kind::TrustBundle as usize].values().next();
            let roots = bundle.and_then(|version| trust.in_bundle(*version));
            if roots.is_some_and(|roots| roots.contains(&root)) {
                keys.extend(sidecar.key);
            }
        });
        keys
    }
}

impl Trusting {
    /// Sidecars that trust a root.
    pub fn trust(&self, root: RootId) -> usize {
        self.trusting.get(&root).copied().unwrap_or_default()
    }

    /// Sidecars whose certificate a root signed.
    pub fn hold(&self, root: RootId) -> usize {
        self.holding.get(&root).copied().unwrap_or_default()
    }
}

/// Workloads that other replicas are told of.
const MOST_WORKLOADS: usize = 4096;
/// Sidecars that are named, where there may be thousands.
pub const A_FEW: usize = 3;
