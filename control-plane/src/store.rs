//! What is to be pushed: one consistent set, replaced as a whole, and what changed from one to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jitney_api::Workload;
use jitney_api::push::{Held, Kind, Pushed, Readers};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

mod sight;
mod stage;

pub use sight::{Recipient, Sight};
pub use stage::{Rollout, Stage, Stop, place};

/// The present set, and who wants to know when there is another.
#[derive(Debug)]
pub struct Store {
    present: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    parts: Mutex<Parts>,
}

/// What the set is made of.
#[derive(Debug, Default)]
struct Parts {
    /// By whoever writes it.
    pushed: [Vec<Pushed>; 2],
    rollouts: Rollouts,
}

/// How policies spread that do not go to everyone at once, by name.
type Rollouts = BTreeMap<Arc<str>, Rollout>;

/// Who writes a part of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The source: policies, backends and endpoints.
    Source,
    /// The authority: who signs.
    Trust,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            present: ArcSwap::default(),
            generation: watch::Sender::new(0),
            parts: Mutex::default(),
        }
    }
}

impl Store {
    /// The present set.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.present.load_full()
    }

    /// Tells of every new set, by its generation; 0 before the first.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Replaces what the source pushes. False when the new one holds the same.
    pub fn replace(&self, pushed: Vec<Pushed>) -> bool {
        self.replace_part(Part::Source, pushed, Instant::now())
    }

    /// Replaces one part of the set, which changed where it comes from at `changed`. False when the
    /// new one holds the same.
    pub fn replace_part(&self, part: Part, pushed: Vec<Pushed>, changed: Instant) -> bool {
        self.change(changed, |parts| parts.pushed[part as usize] = pushed)
    }

    /// Replaces what the source pushes, and at once how it spreads. False when both are the same.
    pub fn replace_source(&self, pushed: Vec<Pushed>, rollouts: Rollouts, changed: Instant) -> bool {
        self.change(changed, |parts| {
            parts.pushed[Part::Source as usize] = pushed;
            parts.rollouts = rollouts;
        })
    }

    /// Replaces how what there is spreads. False when it is the same.
    pub fn spread(&self, rollouts: Rollouts, changed: Instant) -> bool {
        self.change(changed, |parts| parts.rollouts = rollouts)
    }

    fn change(&self, changed: Instant, change: impl FnOnce(&mut Parts)) -> bool {
        // Held until the set is in force, so that no writer undoes what another one did.
        let mut parts = self.parts.lock();
        change(&mut parts);
        let Some(next) = self.present.load_full().next(&parts, changed) else {
            return false;
        };
        let generation = next.generation;
        next.tell();
        self.present.store(Arc::new(next));
        self.generation.send_replace(generation);
        true
    }
}

/// One consistent set of resources.
#[derive(Debug, Default)]
pub struct Snapshot {
    generation: u64,
    /// What the source and the authority say now.
    kinds: Kinds,
    /// Of policies that are staged: what is in the place of the above for who takes no part.
    baseline: Kinds,
    rollouts: Rollouts,
    /// What each workload may be to have without asking, on one side of a stage or the other.
    own: HashMap<Workload, Vec<(Kind, Arc<str>)>>,
    /// What the last generations changed, each.
    changes: VecDeque<Changes>,
}

/// Resources by type and name.
type Kinds = [BTreeMap<Arc<str>, Entry>; Kind::ALL.len()];

/// What one generation changed.
type Changes = Arc<[(Kind, Arc<str>)]>;

/// A resource in a set.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its version and encoding.
    pub held: Held,
    /// Who may read it.
    pub readers: Readers,
    /// The generation since which it is as it is.
    pub generation: u64,
    /// When it changed where it comes from.
    pub changed: Instant,
}

impl Entry {
    fn is_same(&self, other: &Self) -> bool {
        self.held == other.held && self.readers == other.readers
    }
}

impl Snapshot {
    /// Counts the sets: 0 before the first.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Every resource of a type, with its name, as the source has it now.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.kinds[kind as usize].iter()
    }

    /// What is in the place of these for sidecars that take no part in a stage.
    pub fn all_baseline(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.baseline[kind as usize].iter()
    }

    /// How a policy spreads; `None` when its changes go to everyone at once.
    pub fn rollout(&self, policy: &str) -> Option<&Rollout> {
        self.rollouts.get(policy)
    }

    /// The policy and its routes as the source has them now, by type and name.
    pub fn group(&self, policy: &str) -> Vec<(Kind, &Arc<str>, &Entry)> {
        group(&self.kinds, policy)
    }

    /// The policy and its routes as they were before what is staged of it.
    pub fn baseline(&self, policy: &str) -> Vec<(Kind, &Arc<str>, &Entry)> {
        group(&self.baseline, policy)
    }

    /// The resource of a name, as the source has it now.
    pub fn entry(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.kinds[kind as usize].get(name)
    }

    /// The names of a type that a workload may be to have without asking: some of them only for
    /// sidecars that take part in a stage, or only for those that do not.
    pub fn own_of(&self, workload: &Workload, kind: Kind) -> impl Iterator<Item = &Arc<str>> {
        let own = self.own.get(workload).into_iter().flatten();
        let of_kind = own.filter(move |(of, _)| *of == kind);
        of_kind.map(|(_, name)| name)
    }

    /// Workloads that are to have something without asking, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.own.keys()
    }

    /// What changed after a generation; `None` when that is too long ago to be remembered.
    pub fn since(&self, generation: u64) -> Option<impl Iterator<Item = &(Kind, Arc<str>)>> {
        let behind = usize::try_from(self.generation.checked_sub(generation)?).ok()?;
        let first = self.changes.len().checked_sub(behind)?;
        Some(self.changes.iter().skip(first).flat_map(|changes| changes.iter()))
    }

    /// What this set looks like to a sidecar.
    pub const fn to<'a>(&'a self, recipient: &'a Recipient) -> Sight<'a> {
        Sight::new(self, recipient)
    }

    fn next(&self, parts: &Parts, changed: Instant) -> Option<Self> {
        let mut next = Self {
            generation: self.generation + 1,
            rollouts: parts.rollouts.clone(),
            ..Self::default()
        };
        for one in parts.pushed.iter().flatten() {
            let entry = self.entry_of(one, changed);
            next.own(one);
            next.kinds[one.kind as usize].insert(Arc::clone(&one.name), entry);
        }
        let stages = parts
            .rollouts
            .values()
            .filter_map(|rollout| rollout.stage.as_ref());
        for one in stages.flat_map(|stage| stage.baseline.iter()) {
            let entry = self.entry_of(one, changed);
            let present = next.entry(one.kind, &one.name);
            if present.is_none_or(|present| present.readers != one.readers) {
                next.own(one);
            }
            next.baseline[one.kind as usize].insert(Arc::clone(&one.name), entry);
        }
        let changes = self.changes_to(&mut next, changed);
        if changes.is_empty() && self.rollouts == next.rollouts && self.generation > 0 {
            return None;
        }
        next.changes.clone_from(&self.changes);
        next.changes.push_back(changes.into_iter().collect());
        if next.changes.len() > REMEMBERED {
            next.changes.pop_front();
        }
        Some(next)
    }

    /// Says in the log what is pushed from now on.
    fn tell(&self) {
        let [policies, routes, backends, endpoints, runtimes] = [
            Kind::Policy,
            Kind::Route,
            Kind::Backend,
            Kind::Endpoint,
            Kind::Runtime,
        ]
        .map(|kind| self.kinds[kind as usize].len());
        let (generation, changed) = (self.generation, self.changes.back().map_or(0, |last| last.len()));
        tracing::info!(
            generation,
            changed,
            policies,
            routes,
            backends,
            endpoints,
            runtimes,
            "another generation is pushed"
        );
    }

    /// The next set's entry for a resource, which goes on as the present set's if it is the same.
    fn entry_of(&self, one: &Pushed, changed: Instant) -> Entry {
        let entry = Entry {
            held: one.held.clone(),
            readers: one.readers.clone(),
            generation: self.generation + 1,
            changed,
        };
        let sides = [&self.kinds, &self.baseline].into_iter();
        let mut before = sides.filter_map(|side| side[one.kind as usize].get(&one.name));
        before
            .find(|before| before.is_same(&entry))
            .cloned()
            .unwrap_or(entry)
    }

    fn own(&mut self, one: &Pushed) {
        for workload in one.readers.workloads().into_iter().flatten() {
            let own = self.own.entry(workload.clone()).or_default();
            own.push((one.kind, Arc::clone(&one.name)));
        }
    }

    /// What is another in the next set, or goes to others.
    fn changes_to(&self, next: &mut Self, changed: Instant) -> BTreeSet<(Kind, Arc<str>)> {
        let mut changes = BTreeSet::new();
        for kind in Kind::ALL {
            changes.extend(self.changed(next, kind).into_iter().map(|name| (kind, name)));
        }
        let policies: BTreeSet<&Arc<str>> = self.rollouts.keys().chain(next.rollouts.keys()).collect();
        let moved = policies.into_iter().filter(|policy| {
            let [before, after] = [&self.rollouts, &next.rollouts].map(|of| of.get(*policy));
            before.and_then(Rollout::spread) != after.and_then(Rollout::spread)
        });
        let mut names = BTreeSet::new();
        for policy in moved {
            for side in [&self.kinds, &self.baseline, &next.kinds, &next.baseline] {
                let group = group(side, policy).into_iter();
                names.extend(group.map(|(kind, name, _)| (kind, Arc::clone(name))));
            }
        }
        for (kind, name) in &names {
            for side in [&mut next.kinds, &mut next.baseline] {
                if let Some(entry) = side[*kind as usize].get_mut(name) {
                    entry.changed = changed;
                }
            }
        }
        changes.extend(names);
        changes
    }

    /// Names of a type that are not the same in the other set.
    fn changed(&self, other: &Self, kind: Kind) -> Vec<Arc<str>> {
        let (before, after) = (&self.kinds[kind as usize], &other.kinds[kind as usize]);
        let new = after
            .iter()
            .filter(|(name, entry)| !before.get(*name).is_some_and(|before| before.is_same(entry)));
        let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
        new.chain(gone).map(|(name, _)| Arc::clone(name)).collect()
    }
}

/// A policy and its routes.
fn group<'a>(kinds: &'a Kinds, policy: &str) -> Vec<(Kind, &'a Arc<str>, &'a Entry)> {
    let own = kinds[Kind::Policy as usize].get_key_value(policy).into_iter();
    let own = own.map(|(name, entry)| (Kind::Policy, name, entry));
    let prefix = format!("{policy}/");
    let routes = below(&kinds[Kind::Route as usize], &prefix);
    own.chain(routes.map(|(name, entry)| (Kind::Route, name, entry)))
        .collect()
}

/// Every resource whose name begins so.
fn below<'a>(
    kind: &'a BTreeMap<Arc<str>, Entry>,
    prefix: &str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry)> {
    let from = kind.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(move |(name, _)| name.starts_with(prefix))
}

/// Generations whose changes are remembered. A stream that is further behind looks at everything
/// that it holds.
const REMEMBERED: usize = 64;

#[cfg(test)]
mod tests;
