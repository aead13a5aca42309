//! A set as one sidecar may see it: what its workload may read, and of a policy that is staged the side
//! that it is on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use jitney_api::Workload;
use jitney_api::push::{Held, Kind, Readers, Version, View};

use super::{Entry, Snapshot, below};

/// Who is to have something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Whose sidecar it is, by its certificate: what it may read follows from this alone.
    pub workload: Workload,
    /// What it calls itself, which tells it from the others of its workload when a change is staged;
    /// empty when it does not say.
    pub node: String,
}

impl Display for Recipient {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.node.is_empty() {
            write!(f, "a sidecar of {}", self.workload)
        } else {
            f.write_str(&self.node)
        }
    }
}

/// A set as one sidecar may see it.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    snapshot: &'a Snapshot,
    recipient: &'a Recipient,
}

impl<'a> Sight<'a> {
    pub(super) const fn new(snapshot: &'a Snapshot, recipient: &'a Recipient) -> Self {
        Self { snapshot, recipient }
    }

    /// The resource of a name, if the sidecar may read it.
    pub fn entry(&self, kind: Kind, name: &str) -> Option<&'a Entry> {
        let entry = self.side(kind, name).get(name)?;
        self.may_read(entry).then_some(entry)
    }

    /// Whether the sidecar is to run a staged change of the policy; `None` when there is no stage.
    pub fn takes(&self, policy: &str) -> Option<bool> {
        let rollout = self.snapshot.rollouts.get(policy)?;
        rollout.stage.as_ref()?;
        Some(rollout.is_for(policy, self.recipient))
    }

    /// The policy and its content, where the sidecar is to run a staged change of it.
    pub fn staged(&self, policy: &str) -> Option<(Arc<str>, Version)> {
        let (name, rollout) = self.snapshot.rollouts.get_key_value(policy)?;
        let stage = rollout.stage.as_ref()?;
        (self.takes(policy) == Some(true)).then(|| (Arc::clone(name), stage.content))
    }

    /// Whether this version of a resource came to the sidecar with a stage, and not from before.
    pub fn is_staged(&self, kind: Kind, name: &str, version: Option<Version>) -> bool {
        let takes = kind.policy_of(name).and_then(|policy| self.takes(policy));
        let version_of = |entry: &Entry| entry.held.version;
        let baseline = self.snapshot.baseline[kind as usize].get(name).map(version_of);
        takes == Some(true)
            && version.is_some()
            && version != baseline
            && version == self.entry(kind, name).map(version_of)
    }

    /// Who sees it.
    pub const fn recipient(&self) -> &'a Recipient {
        self.recipient
    }

    /// Where the sidecar's resource of this name is, if there is one.
    fn side(&self, kind: Kind, name: &str) -> &'a BTreeMap<Arc<str>, Entry> {
        let is_baseline = !self.snapshot.rollouts.is_empty()
            && kind
                .policy_of(name)
                .is_some_and(|policy| self.takes(policy) == Some(false));
        let side = if is_baseline {
            &self.snapshot.baseline
        } else {
            &self.snapshot.kinds
        };
        &side[kind as usize]
    }

    fn may_read(&self, entry: &Entry) -> bool {
        entry
            .readers
            .include(&self.recipient.workload, &self.recipient.node)
    }
}

impl View for Sight<'_> {
    fn get(&self, kind: Kind, name: &str) -> Option<Held> {
        self.entry(kind, name).map(|entry| entry.held.clone())
    }

    fn below(&self, kind: Kind, prefix: &str) -> Vec<Arc<str>> {
        let present = below(&self.snapshot.kinds[kind as usize], prefix);
        let baseline = &self.snapshot.baseline[kind as usize];
        if baseline.is_empty() {
            let mine = present.filter(|(_, entry)| self.may_read(entry));
            return mine.map(|(name, _)| Arc::clone(name)).collect();
        }
        let both: BTreeSet<&Arc<str>> = present
            .chain(below(baseline, prefix))
            .map(|(name, _)| name)
            .collect();
        let mine = both.into_iter().filter(|name| self.entry(kind, name).is_some());
        mine.cloned().collect()
    }

    fn own(&self, kind: Kind) -> Vec<Arc<str>> {
        if is_for_everyone(kind) {
            return self.below(kind, "");
        }
        let own = self.snapshot.own_of(&self.recipient.workload, kind);
        own.filter(|name| self.is_own(kind, name)).cloned().collect()
    }

    fn is_own(&self, kind: Kind, name: &str) -> bool {
        self.entry(kind, name).is_some_and(|entry| match &entry.readers {
            Readers::Everyone => is_for_everyone(kind),
            Readers::Workloads(_) | Readers::Sidecars(_) => true,
        })
    }
}

/// Whether whoever asks for everything of a kind is to have what everyone may read: of policies that callers'
/// sidecars run only those of the backends that they have calls for.
const fn is_for_everyone(kind: Kind) -> bool {
    matches!(kind, Kind::TrustBundle | Kind::Backend | Kind::Endpoint)
}
