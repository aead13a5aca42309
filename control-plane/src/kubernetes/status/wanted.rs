//! Which status each object should have, of what is known now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jitney_api::push::{Catalog, Conflict, Kind, Readers};
use jitney_api::{BatchPolicyStatus, Condition, Documents, RuntimeStatus, SidecarStatus, Workload};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{ECHO, Name, StatusWriter, Written};
use crate::kubernetes::custom::Custom;
use crate::kubernetes::index::{Index, Kinds};
use crate::kubernetes::peers;
use crate::kubernetes::verdict::{Facts, RuntimeFacts, backends};
use crate::status::{Count, Overview, Tally};
use crate::store::Snapshot;

/// The status of an object, of the kinds that have one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Status {
    Policy(BatchPolicyStatus),
    Runtime(RuntimeStatus),
}

impl Status {
    /// What of it somebody may wait for.
    pub(super) fn conditions(&self) -> Vec<(&str, &str, Option<i64>)> {
        fn said(one: &Condition) -> (&str, &str, Option<i64>) {
            (&one.kind, &one.reason, one.observed_generation)
        }
        match self {
            Self::Policy(status) => {
                let all = status.ancestors.iter().flat_map(|ancestor| &ancestor.conditions);
                all.map(said).collect()
            }
            Self::Runtime(status) => status.conditions.iter().map(said).collect(),
        }
    }
}

/// What is known at one moment.
struct Known<'a> {
    index: &'a Index,
    snapshot: &'a Snapshot,
    overview: Overview,
    others: &'a [Arc<Tally>],
    now: String,
}

impl StatusWriter {
    /// Of each object, the status that it has and the one that it should have.
    pub(super) fn wanted(
        &self,
        written: &Written,
        others: &[Arc<Tally>],
    ) -> BTreeMap<Name, (Status, Status)> {
        let conflicts = self.standing.get().conflicts;
        // First what is in force, then who runs it: what is pushed in between is told the next time.
        let index = self.index.lock();
        let snapshot = self.store.snapshot();
        let known = Known {
            index: &index,
            snapshot: &snapshot,
            overview: self.sidecars.overview(&snapshot),
            others,
            now: now(),
        };
        let before = |name: &Name| {
            let last = written.get(name).filter(|(at, _)| at.elapsed() < ECHO);
            last.map(|(_, status)| status)
        };
        let mut wanted = BTreeMap::new();
        let mut namespaces = BTreeMap::new();
        for kinds in Kinds::WITH_STATUS {
            for (namespace, name, custom) in index.all(kinds) {
                let (catalog, documents) = namespaces
                    .entry(namespace)
                    .or_insert_with(|| (index.catalog(namespace), index.documents(namespace)));
                let key = (kinds, namespace.to_owned(), name.to_owned());
                let statuses = match kinds {
                    Kinds::Runtimes => known.runtime(catalog, name, custom, before(&key)),
                    Kinds::BatchPolicies | Kinds::Backends => {
                        known.policy(catalog, documents, name, custom, &conflicts, before(&key))
                    }
                };
                wanted.insert(key, statuses);
            }
        }
        wanted
    }
}

impl Known<'_> {
    fn policy(
        &self,
        catalog: &Catalog,
        documents: &Documents,
        name: &str,
        custom: &Custom,
        conflicts: &[Conflict],
        written: Option<&Status>,
    ) -> (Status, Status) {
        let full = format!("{}/{name}", catalog.namespace);
        let before = match written {
            Some(Status::Policy(status)) => status,
            Some(Status::Runtime(_)) | None => &custom.status,
        };
        let own = |conflict: &&Conflict| conflict.policy == full;
        let here = self.overview.policies.get(full.as_str());
        let here = Count::of(self.snapshot, Kind::Policy, &full, here);
        let count = peers::merged(here, Kind::Policy, &full, self.others);
        let facts = Facts {
            namespace: &catalog.namespace,
            custom,
            catalog,
            backends: &backends(documents),
            conflicts: conflicts.iter().filter(own).collect(),
            in_force: self.index.in_force(Kinds::BatchPolicies, &full),
            sidecars: sidecars(expected(self.snapshot, &full), count),
            before,
            now: &self.now,
        };
        (Status::Policy(before.clone()), Status::Policy(facts.status()))
    }

    fn runtime(
        &self,
        catalog: &Catalog,
        name: &str,
        custom: &Custom,
        written: Option<&Status>,
    ) -> (Status, Status) {
        let workload = Workload {
            namespace: catalog.namespace.clone(),
            account: name.to_owned(),
        };
        let full = workload.to_string();
        let before = match written {
            Some(Status::Runtime(status)) => status,
            Some(Status::Policy(_)) | None => &custom.runtime_status,
        };
        let here = self.overview.runtimes.get(full.as_str());
        let here = Count::of(self.snapshot, Kind::Runtime, &full, here);
        let count = peers::merged(here, Kind::Runtime, &full, self.others);
        let pods = catalog.sidecars.values().filter(|one| **one == workload).count();
        // Of what is not pushed nobody runs anything.
        let is_pushed = self.snapshot.entry(Kind::Runtime, &full).is_some();
        let facts = RuntimeFacts {
            custom,
            catalog,
            in_force: self.index.in_force(Kinds::Runtimes, &full),
            sidecars: sidecars(if is_pushed { pods } else { 0 }, count),
            before,
            now: &self.now,
            workload,
        };
        (Status::Runtime(before.clone()), Status::Runtime(facts.status()))
    }
}

/// How many pods are to run a policy.
fn expected(snapshot: &Snapshot, policy: &str) -> usize {
    let readers = snapshot.entry(Kind::Policy, policy).map(|entry| &entry.readers);
    match readers {
        Some(Readers::Sidecars(sidecars)) => sidecars.values().map(BTreeSet::len).sum(),
        Some(Readers::Everyone | Readers::Workloads(_)) | None => 0,
    }
}

/// Who runs an object: of those that are connected to any replica, and of pods that should be.
fn sidecars(expected: usize, count: Count) -> SidecarStatus {
    let expected = u32::try_from(expected).unwrap_or(u32::MAX);
    // Of a change that is staged, those that take no part are none of them.
    let absent = expected.saturating_sub(count.connected());
    let mut status = SidecarStatus {
        selected: count.selected().saturating_add(absent),
        acked: count.acked,
        rejected: count.rejected,
        stale: count.stale.saturating_add(absent),
        summary: String::new(),
        last_rejection: count.last_rejection.filter(|_| count.rejected > 0),
    };
    status.summary = status.summary();
    status
}

fn now() -> String {
    let now = OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    now.format(&Rfc3339).unwrap_or_default()
}
