//! Lanes: what is queued under one key. Idle lanes are kept, so that a known key costs one look-up,
//! and make room in the order in which they fell idle.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::FlushReason;
use super::arena::{Arena, Id};
use super::limits::{Limits, Settings};
use super::schedule::Listing;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) key: Arc<[u8]>,
    pub(super) class: u32,
    pub(super) limits: Arc<Limits>,
    /// Flows with calls, and at most one without when it is the only one.
    pub(super) flows: Vec<Id>,
    pub(super) calls: usize,
    pub(super) items: usize,
    pub(super) bytes: usize,
    /// The largest `shared_bytes` seen; equal for equal keys.
    pub(super) shared_bytes: usize,
    pub(super) park: Park,
    pub(super) hold: Option<Hold>,
    /// Invariant: a lane timer is live exactly when it equals this.
    pub(super) wake: Option<Instant>,
    /// Overloaded replies since the last good one.
    pub(super) overloads: u32,
    /// True once a batch of it came back.
    pub(super) served: bool,
    /// Batches of this lane in flight.
    pub(super) in_flight: usize,
    pub(super) paused_until: Option<Instant>,
    /// True while the lane stands in the queue of due `Fixed` lanes.
    pub(super) due: bool,
    idle_stamp: u64,
}

/// Why a lane with calls is not up for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Park {
    /// It is.
    No,
    /// `Fixed`: it does not wait for slots at all.
    Fixed,
    /// It waits for announced arrivals.
    Held,
    /// It honours a `Retry-After`.
    Paused,
    /// The window is full, and it gathers meanwhile.
    Slots,
    /// The window is full, and it can gather no more.
    Full,
}

/// A wait for announced arrivals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) since: Instant,
    /// What ends the wait when nothing else does.
    pub(super) reason: FlushReason,
    /// True once its time is up.
    pub(super) over: bool,
}

/// What a lane that made room leaves to be forgotten.
#[derive(Debug)]
pub(super) struct Evicted {
    pub(super) class: u32,
    pub(super) flows: Vec<Id>,
}

impl Lane {
    pub(super) fn listing(&self) -> Listing {
        if self.park == Park::No {
            Listing::Listed
        } else {
            Listing::Unlisted
        }
    }
}

/// All lanes of a backend.
#[derive(Debug)]
pub(super) struct Lanes {
    arena: Arena<Lane>,
    by_key: HashMap<Arc<[u8]>, Id, RandomState>,
    /// Lanes that fell idle, oldest first; an entry is stale when the stamp differs.
    idle: VecDeque<(Id, u64)>,
    idle_count: usize,
    idle_bytes: usize,
    stamps: u64,
    pub(super) evictions: u64,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            arena: Arena::new(),
            by_key: HashMap::default(),
            idle: VecDeque::new(),
            idle_count: 0,
            idle_bytes: 0,
            stamps: 0,
            evictions: 0,
        }
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Id> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get(&self, id: Id) -> Option<&Lane> {
        self.arena.get(id)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Lane> {
        self.arena.get_mut(id)
    }

    pub(super) fn len(&self) -> usize {
        self.arena.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Lane)> {
        self.arena.iter()
    }

    /// A new lane, which counts as idle until [`Lanes::busy`].
    pub(super) fn insert(&mut self, key: &[u8], class: u32, limits: &Arc<Limits>) -> Id {
        let key: Arc<[u8]> = key.into();
        self.idle_count += 1;
        self.idle_bytes += key.len();
        let id = self.arena.insert(Lane {
            key: Arc::clone(&key),
            class,
            limits: Arc::clone(limits),
            flows: Vec::new(),
            calls: 0,
            items: 0,
            bytes: 0,
            shared_bytes: 0,
            park: Park::No,
            hold: None,
            wake: None,
            overloads: 0,
            served: false,
            in_flight: 0,
            paused_until: None,
            due: false,
            idle_stamp: 0,
        });
        self.by_key.insert(key, id);
        id
    }

    /// The lane got its first call.
    pub(super) fn busy(&mut self, id: Id) {
        if let Some(lane) = self.arena.get_mut(id) {
            self.idle_count -= 1;
            self.idle_bytes -= lane.key.len();
            lane.idle_stamp = 0;
        }
    }

    /// The lane lost its last call.
    pub(super) fn idle(&mut self, id: Id) {
        let Some(lane) = self.arena.get_mut(id) else {
            return;
        };
        self.stamps += 1;
        lane.idle_stamp = self.stamps;
        lane.hold = None;
        lane.wake = None;
        self.idle_count += 1;
        self.idle_bytes += lane.key.len();
        if self.idle.len() > 2 * self.idle_count + 16 {
            let arena = &self.arena;
            self.idle
                .retain(|(id, stamp)| arena.get(*id).is_some_and(|lane| lane.idle_stamp == *stamp));
        }
        self.idle.push_back((id, self.stamps));
    }

    /// Drops the lane that fell idle first, if the bounds leave no room for one more. To be
    /// called until `None`.
    pub(super) fn evict(&mut self, settings: &Settings) -> Option<Evicted> {
        if self.arena.len() < settings.max_keys && self.idle_bytes <= settings.max_idle_key_bytes {
            return None;
        }
        while let Some((id, stamp)) = self.idle.pop_front() {
            if self.arena.get(id).is_none_or(|lane| lane.idle_stamp != stamp) {
                continue;
            }
            let lane = self.arena.remove(id)?;
            self.by_key.remove(&lane.key);
            self.idle_count -= 1;
            self.idle_bytes -= lane.key.len();
            self.evictions += 1;
            return Some(Evicted {
                class: lane.class,
                flows: lane.flows,
            });
        }
        None
    }
}
