//! What a replica tells the others of its sidecars: how many of them run each policy and Runtime. Sums of these
//! are what all replicas know together.

use std::collections::BTreeMap;
use std::sync::Arc;

use jitney_api::Rejection;
use jitney_api::push::{Kind, Version};
use serde::{Deserialize, Serialize};

use super::{FIELD_BYTES, NODE_BYTES, Progress, REASON_BYTES, Sidecars, cut};
use crate::store::{Snapshot, Store};

/// What one replica counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Which replica: a name that it made up when it started.
    pub replica: String,
    /// Another text whenever anything in here may be another.
    pub revision: String,
    /// The policies that a sidecar is connected for, by name.
    pub policies: BTreeMap<String, Count>,
    /// The Runtimes that a sidecar is connected for, by name. A replica of an earlier version says nothing of them.
    #[serde(default)]
    pub runtimes: BTreeMap<String, Count>,
}

/// How the sidecars that are connected stand to a policy, or to a Runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// A hash of what it consists of where they are connected: what the counts are about. Empty where
    /// there is none.
    pub content: String,
    /// Sidecars that run what they are to.
    pub acked: u32,
    /// Those that cannot.
    pub rejected: u32,
    /// Those that have not said yet.
    pub stale: u32,
    /// Those that are to run nothing of it as long as it is staged.
    pub without: u32,
    /// What one said that cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rejection: Option<Rejection>,
}

impl Tally {
    /// That of this replica. Takes time in proportion to the sidecars.
    pub fn of(replica: &str, store: &Store, sidecars: &Sidecars) -> Self {
        // Before the look, so that what changes meanwhile is looked at the next time.
        let revision = Self::revision(replica, store, sidecars);
        let snapshot = store.snapshot();
        let overview = sidecars.overview(&snapshot);
        let counts = |kind: Kind, of: &BTreeMap<Arc<str>, Progress>| {
            let counts = of.iter().map(|(name, progress)| {
                let count = Count::of(&snapshot, kind, name, Some(progress));
                (name.to_string(), count)
            });
            counts.filter(|(_, count)| count.connected() > 0).collect()
        };
        Self {
            replica: replica.to_owned(),
            revision,
            policies: counts(Kind::Policy, &overview.policies),
            runtimes: counts(Kind::Runtime, &overview.runtimes),
        }
    }

    /// What is counted of a policy or a Runtime.
    pub fn count(&self, kind: Kind, name: &str) -> Option<&Count> {
        match kind == Kind::Runtime {
            true => self.runtimes.get(name),
            false => self.policies.get(name),
        }
    }

    /// Its revision now, which costs nothing. It holds letters, digits and `-` only.
    pub fn revision(replica: &str, store: &Store, sidecars: &Sidecars) -> String {
        let activity = sidecars.activity();
        format!("{replica}-{activity}-{}", store.snapshot().generation())
    }
}

impl Count {
    /// That of the sidecars that are connected here, of a policy or a Runtime.
    pub fn of(snapshot: &Snapshot, kind: Kind, name: &str, progress: Option<&Progress>) -> Self {
        let content = match kind == Kind::Runtime {
            true => snapshot
                .entry(kind, name)
                .map_or_else(String::new, |entry| entry.held.version.to_string()),
            false => content(snapshot, name),
        };
        let Some(progress) = progress else {
            return Self {
                content,
                ..Self::default()
            };
        };
        let [acked, rejected, stale, without] = [
            progress.acked,
            progress.rejected,
            progress.stale,
            progress.without,
        ]
        .map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Self {
            content,
            acked,
            rejected,
            stale,
            without,
            last_rejection: progress.last_rejection.as_ref().map(|last| Rejection {
                sidecar: last.by.to_string(),
                field: last.nack.field.clone(),
                reason: last.nack.reason.clone(),
            }),
        }
    }

    /// Those that are to run it.
    pub const fn selected(&self) -> u32 {
        let heard = self.acked.saturating_add(self.rejected);
        heard.saturating_add(self.stale)
    }

    /// All of them.
    pub const fn connected(&self) -> u32 {
        self.selected().saturating_add(self.without)
    }

    /// With those that are connected to another replica. What they said there of another content says nothing
    /// of this one.
    pub fn add(&mut self, other: &Self) {
        self.without = self.without.saturating_add(other.without);
        if self.content != other.content {
            self.stale = self.stale.saturating_add(other.selected());
            return;
        }
        for (count, more) in [
            (&mut self.acked, other.acked),
            (&mut self.rejected, other.rejected),
            (&mut self.stale, other.stale),
        ] {
            *count = count.saturating_add(more);
        }
        if self.last_rejection.is_none() {
            // It comes from the network.
            self.last_rejection = other.last_rejection.as_ref().map(brief);
        }
    }
}

/// A hash of the policy and its routes. Versions are the same at every replica that pushes the same, whereas
/// generations of an object are told apart from what is pushed, a moment later, and say nothing of its targets.
fn content(snapshot: &Snapshot, policy: &str) -> String {
    let group = snapshot.group(policy);
    if group.is_empty() {
        return String::new();
    }
    let parts = group.into_iter();
    let parts = parts.map(|(kind, name, entry)| format!("{kind} {name} {}\n", entry.held.version));
    Version::of(parts.collect::<String>().as_bytes()).to_string()
}

/// As much of its texts as a replica keeps of a sidecar's.
fn brief(rejection: &Rejection) -> Rejection {
    Rejection {
        sidecar: cut(&rejection.sidecar, 2 * NODE_BYTES),
        field: cut(&rejection.field, FIELD_BYTES),
        reason: cut(&rejection.reason, REASON_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(content: &str, [acked, rejected, stale]: [u32; 3]) -> Count {
        Count {
            content: content.to_owned(),
            acked,
            rejected,
            stale,
            without: 0,
            last_rejection: (rejected > 0).then(|| Rejection {
                sidecar: "shop/users/users-2".to_owned(),
                field: "spec".to_owned(),
                reason: "too large".to_owned(),
            }),
        }
    }

    /// Acked, rejected, stale and selected of both.
    #[track_caller]
    fn check(own: [u32; 3], other: &Count, expected: [u32; 4], reason: Option<&str>) {
        let mut sum = count("a", own);
        sum.add(other);
        let found = [sum.acked, sum.rejected, sum.stale, sum.selected()];
        assert_eq!(found, expected, "{sum:?}");
        let last = sum.last_rejection.as_ref();
        assert_eq!(last.map(|last| last.reason.as_str()), reason);
    }

    #[test]
    fn sidecars_of_all_replicas_are_counted() {
        check([1, 0, 0], &count("a", [1, 0, 0]), [2, 0, 0, 2], None);
        check([1, 0, 1], &count("a", [0, 0, 3]), [1, 0, 4, 5], None);
        check([1, 0, 0], &count("a", [0, 1, 0]), [1, 1, 0, 2], Some("too large"));
    }

    #[test]
    fn what_runs_another_content_has_not_said_yet() {
        check([1, 0, 0], &count("before", [1, 0, 0]), [1, 0, 1, 2], None);
        check([1, 0, 0], &count("before", [1, 1, 1]), [1, 0, 3, 4], None);
        check([0, 0, 0], &count("", [1, 0, 0]), [0, 0, 1, 1], None);
    }

    #[test]
    fn what_another_replica_says_is_bounded() {
        let mut other = count("a", [u32::MAX, u32::MAX, 1]);
        other.last_rejection.as_mut().unwrap().reason = "é".repeat(10_000);
        let mut sum = count("a", [1, 0, 0]);
        sum.add(&other);
        assert_eq!(sum.selected(), u32::MAX);
        assert!(sum.last_rejection.unwrap().reason.len() <= REASON_BYTES);
    }
}
