//! How the sidecars that are connected stand to the roots: what the exchange of a root waits for.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aws_lc_rs::digest;
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
    /// Who they are, as many as fit in a small file.
    #[serde(default)]
    pub names: Vec<Names>,
}

/// Sidecars that stand to the roots alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Names {
    /// The roots that they trust.
    pub trusting: Vec<RootId>,
    /// The root that signed their certificates.
    pub root: Option<RootId>,
    /// What their workloads and nodes are called.
    pub of: Vec<NameHash>,
}

/// Tells sidecars apart in a few bytes, by workload and node.
pub type NameHash = u64;

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
        let (mut names, mut named) = (BTreeMap::<_, Vec<NameHash>>::new(), 0);
        self.each(|sidecar| {
            found.connected += 1;
            workloads.insert(sidecar.recipient.workload.clone());
            if let Some(root) = sidecar.root {
                *found.holding.entry(root).or_default() += 1;
            }
            let bundle = sidecar.runs[Kind::TrustBundle as usize].values().next();
            let alike = bundles.entry(bundle.copied()).or_default();
            alike.count += 1;
            let recipient = &sidecar.recipient;
            let shown = format!("{} {}", recipient.workload, recipient.node);
            // One that has not said what it is called may be any.
            if named < MOST_NAMES && !recipient.node.is_empty() {
                named += 1;
                let of = names.entry((bundle.copied(), sidecar.root)).or_default();
                of.push(hash(&shown));
            }
            if alike.some.len() < A_FEW {
                alike.some.push(shown.trim_end().to_owned());
            }
        });
        let roots_in = |bundle: Option<Version>| bundle.and_then(|version| trust.in_bundle(version));
        let names = names.into_iter().map(|((bundle, root), of)| Names {
            trusting: roots_in(bundle).unwrap_or_default(),
            root,
            of,
        });
        found.names = names.collect();
        let workloads = workloads.iter().take(MOST_WORKLOADS);
        found.workloads = workloads.map(ToString::to_string).collect();
        let in_force = trust.roots();
        for (bundle, alike) in bundles {
            let roots = roots_in(bundle).unwrap_or_default();
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
    /// The same without those who are connected elsewhere.
    #[must_use]
    pub fn without(mut self, elsewhere: &HashSet<NameHash>) -> Self {
        for names in &mut self.names {
            let before = names.of.len();
            names.of.retain(|name| !elsewhere.contains(name));
            let gone = before - names.of.len();
            self.connected = self.connected.saturating_sub(gone);
            let less = |count: &mut usize| *count = count.saturating_sub(gone);
            for root in &names.trusting {
                self.trusting.entry(*root).and_modify(less);
            }
            if let Some(root) = names.root {
                self.holding.entry(root).and_modify(less);
            }
        }
        self.behind.retain(|shown| !elsewhere.contains(&hash(shown)));
        self
    }

    /// Who they are.
    pub fn names(&self) -> impl Iterator<Item = NameHash> {
        self.names.iter().flat_map(|names| names.of.iter().copied())
    }

    /// Sidecars that trust a root.
    pub fn trust(&self, root: RootId) -> usize {
        self.trusting.get(&root).copied().unwrap_or_default()
    }

    /// Sidecars whose certificate a root signed.
    pub fn hold(&self, root: RootId) -> usize {
        self.holding.get(&root).copied().unwrap_or_default()
    }
}

fn hash(shown: &str) -> NameHash {
    let hash = digest::digest(&digest::SHA256, shown.as_bytes());
    let first = hash.as_ref().iter().take(8);
    first.fold(0, |number, byte| number << 8 | NameHash::from(*byte))
}

/// Sidecars that other replicas can tell apart, in at most 350 kB: more than a control plane is made for.
const MOST_NAMES: usize = 16 * 1024;
/// Workloads that other replicas are told of.
const MOST_WORKLOADS: usize = 4096;
/// Sidecars that are named, where there may be thousands.
pub const A_FEW: usize = 3;
