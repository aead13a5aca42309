//! What is to be pushed: one consistent set, replaced as a whole, and what changed from one to the next.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jitney_api::Workload;
use jitney_api::push::{Held, Kind, Pushed, Readers, View};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// The present set, and who wants to know when there is another.
#[derive(Debug)]
pub struct Store {
    present: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    /// What each part of the set holds, by whoever writes it.
    parts: Mutex<[Vec<Pushed>; 2]>,
}

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
        // Held until the set is in force, so that no writer undoes what another one did.
        let mut parts = self.parts.lock();
        parts[part as usize] = pushed;
        let Some(next) = self.present.load_full().next(parts.iter().flatten(), changed) else {
            return false;
        };
        let generation = next.generation;
        self.present.store(Arc::new(next));
        self.generation.send_replace(generation);
        true
    }
}

/// One consistent set of resources.
#[derive(Debug, Default)]
pub struct Snapshot {
    generation: u64,
    kinds: [BTreeMap<Arc<str>, Entry>; Kind::ALL.len()],
    /// What each workload is to have without asking.
    own: HashMap<Workload, Vec<(Kind, Arc<str>)>>,
    /// What the last generations changed, each.
    changes: VecDeque<Changes>,
}

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

    /// Every resource of a type, with its name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.kinds[kind as usize].iter()
    }

    /// Every resource whose name begins so.
    pub fn below(&self, kind: Kind, prefix: &str) -> Vec<(&Arc<str>, &Entry)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let from = self.kinds[kind as usize].range::<str, _>(from);
        from.take_while(|(name, _)| name.starts_with(prefix)).collect()
    }

    /// The resource of a name.
    pub fn entry(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.kinds[kind as usize].get(name)
    }

    /// The names of a type that a workload is to have without asking.
    pub fn own_of(&self, workload: &Workload, kind: Kind) -> impl Iterator<Item = &Arc<str>> {
        let own = self.own.get(workload).into_iter().flatten();
        let of_kind = own.filter(move |(of, _)| *of == kind);
        of_kind.map(|(_, name)| name)
    }

    /// What changed after a generation; `None` when that is too long ago to be remembered.
    pub fn since(&self, generation: u64) -> Option<impl Iterator<Item = &(Kind, Arc<str>)>> {
        let behind = usize::try_from(self.generation.checked_sub(generation)?).ok()?;
        let first = self.changes.len().checked_sub(behind)?;
        Some(self.changes.iter().skip(first).flat_map(|changes| changes.iter()))
    }

    /// What this set looks like to a workload.
    pub const fn to<'a>(&'a self, workload: &'a Workload) -> Sight<'a> {
        Sight {
            snapshot: self,
            workload,
        }
    }

    fn next<'a>(&self, pushed: impl Iterator<Item = &'a Pushed>, changed: Instant) -> Option<Self> {
        let mut next = Self {
            generation: self.generation + 1,
            ..Self::default()
        };
        for one in pushed {
            if let Readers::Workloads(workloads) = &one.readers {
                for workload in workloads {
                    let own = next.own.entry(workload.clone()).or_default();
                    own.push((one.kind, Arc::clone(&one.name)));
                }
            }
            let mut entry = Entry {
                held: one.held.clone(),
                readers: one.readers.clone(),
                generation: next.generation,
                changed,
            };
            let before = self.entry(one.kind, &one.name);
            if let Some(before) = before.filter(|before| before.is_same(&entry)) {
                (entry.generation, entry.changed) = (before.generation, before.changed);
            }
            next.kinds[one.kind as usize].insert(Arc::clone(&one.name), entry);
        }
        let changes: Changes = Kind::ALL
            .into_iter()
            .flat_map(|kind| {
                self.changed(&next, kind)
                    .into_iter()
                    .map(move |name| (kind, name))
            })
            .collect();
        if changes.is_empty() && self.generation > 0 {
            return None;
        }
        next.changes.clone_from(&self.changes);
        next.changes.push_back(changes);
        if next.changes.len() > REMEMBERED {
            next.changes.pop_front();
        }
        Some(next)
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

/// A set as one workload may see it.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    snapshot: &'a Snapshot,
    workload: &'a Workload,
}

impl<'a> Sight<'a> {
    /// The resource of a name, if the workload may read it.
    pub fn entry(&self, kind: Kind, name: &str) -> Option<&'a Entry> {
        self.snapshot
            .entry(kind, name)
            .filter(|entry| self.may_read(entry))
    }

    fn may_read(&self, entry: &Entry) -> bool {
        match &entry.readers {
            Readers::Everyone => true,
            Readers::Workloads(workloads) => workloads.contains(self.workload),
        }
    }
}

impl View for Sight<'_> {
    fn get(&self, kind: Kind, name: &str) -> Option<Held> {
        self.entry(kind, name).map(|entry| entry.held.clone())
    }

    fn below(&self, kind: Kind, prefix: &str) -> Vec<Arc<str>> {
        let below = self.snapshot.below(kind, prefix).into_iter();
        let mine = below.filter(|(_, entry)| self.may_read(entry));
        mine.map(|(name, _)| Arc::clone(name)).collect()
    }

    fn own(&self, kind: Kind) -> Vec<Arc<str>> {
        if kind == Kind::TrustBundle {
            return self.below(kind, "");
        }
        self.snapshot.own_of(self.workload, kind).cloned().collect()
    }

    fn is_own(&self, kind: Kind, name: &str) -> bool {
        let entry = self.snapshot.entry(kind, name);
        entry.is_some_and(|entry| match &entry.readers {
            Readers::Everyone => kind == Kind::TrustBundle,
            Readers::Workloads(workloads) => workloads.contains(self.workload),
        })
    }
}

/// Generations whose changes are remembered. A stream that is further behind looks at everything
/// that it holds.
const REMEMBERED: usize = 64;

#[cfg(test)]
mod tests;
