//! Whose turn it is: deficit round robin over tenants, the route's order within one.
//!
//! A flow is what one tenant has queued in one lane. Flows of lanes that may send now are listed
//! with their tenant by the rank of their head; the others keep their calls and are not listed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::arena::{Arena, Id};

/// Position in the order of service: nanoseconds of a virtual due time, then order of arrival.
pub(super) type Rank = (u64, u64);

/// Every queued call's place, and the tenants' turns.
#[derive(Debug)]
pub(super) struct Schedule {
    flows: Arena<Flow>,
    by_owner: HashMap<(Id, u64), Id, RandomState>,
    /// By priority; the lowest goes first, before any fairness.
    levels: BTreeMap<u8, Level>,
}

#[derive(Debug)]
struct Flow {
    lane: Id,
    tenant: u64,
    level: u8,
    queue: BTreeSet<(Rank, Id)>,
    /// Invariant: `Some` exactly while the tenant's `ready` holds this flow, under this rank.
    listed: Option<Rank>,
}

#[derive(Debug, Default)]
struct Level {
    tenants: HashMap<u64, Tenant, RandomState>,
    turns: VecDeque<u64>,
}

#[derive(Debug, Default)]
struct Tenant {
    /// What it may still use up in this turn; negative after more than its share.
    deficit: i64,
    ready: BTreeSet<(Rank, Id)>,
    /// Calls in all its flows, listed or not.
    calls: usize,
    /// Invariant: true exactly while `turns` holds the tenant, once.
    in_turns: bool,
}

impl Level {
    /// A tenant without calls takes no turns; what it had left is not saved up.
    fn end_turns(&mut self, at: usize, name: u64) {
        self.turns.remove(at);
        if self.tenants.len() > KEPT_TENANTS {
            self.tenants.remove(&name);
        } else if let Some(tenant) = self.tenants.get_mut(&name) {
            tenant.in_turns = false;
            tenant.deficit = 0;
        }
    }
}

/// Whether a lane's flows may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Listed,
    Unlisted,
}

impl Schedule {
    pub(super) fn new() -> Self {
        Self {
            flows: Arena::new(),
            by_owner: HashMap::default(),
            levels: BTreeMap::new(),
        }
    }

    /// The flow of a tenant in a lane, made if need be. True when it is new.
    pub(super) fn flow(&mut self, lane: Id, tenant: u64, level: u8, guess: Option<Id>) -> (Id, bool) {
        if let Some(id) = guess
            && self
                .flows
                .get(id)
                .is_some_and(|flow| flow.tenant == tenant && flow.level == level)
        {
            return (id, false);
        }
        if let Some(id) = self.by_owner.get(&(lane, tenant)) {
            return (*id, false);
        }
        let id = self.flows.insert(Flow {
            lane,
            tenant,
            level,
            queue: BTreeSet::new(),
            listed: None,
        });
        self.by_owner.insert((lane, tenant), id);
        (id, true)
    }

    pub(super) fn push(&mut self, id: Id, rank: Rank, call: Id, listing: Listing) {
        if let Some(flow) = self.flows.get_mut(id)
            && flow.queue.insert((rank, call))
        {
            let level = self.levels.entry(flow.level).or_default();
            let tenant = level.tenants.entry(flow.tenant).or_default();
            tenant.calls += 1;
            if !tenant.in_turns {
                tenant.in_turns = true;
                level.turns.push_back(flow.tenant);
            }
        }
        self.list(id, listing);
    }

    /// Takes a call out of the middle; the caller lists the flow again.
    pub(super) fn remove(&mut self, id: Id, rank: Rank, call: Id) {
        if let Some(flow) = self.flows.get_mut(id)
            && flow.queue.remove(&(rank, call))
        {
            self.left(id);
        }
    }

    pub(super) fn head(&self, flow: Id) -> Option<(Rank, Id)> {
        self.flows.get(flow)?.queue.first().copied()
    }

    /// Takes the head; the caller lists the flow again.
    pub(super) fn pop(&mut self, id: Id) {
        if let Some(flow) = self.flows.get_mut(id)
            && flow.queue.pop_first().is_some()
        {
            self.left(id);
        }
    }

    fn left(&mut self, id: Id) {
        if let Some(tenant) = self.tenant(id) {
            tenant.calls -= 1;
        }
    }

    fn tenant(&mut self, flow: Id) -> Option<&mut Tenant> {
        let flow = self.flows.get(flow)?;
        self.levels.get_mut(&flow.level)?.tenants.get_mut(&flow.tenant)
    }

    /// Brings the tenant's list up to date with the flow's head and its lane's state.
    pub(super) fn list(&mut self, id: Id, listing: Listing) {
        let Some(flow) = self.flows.get_mut(id) else {
            return;
        };
        let wanted = match listing {
            Listing::Listed => flow.queue.first().map(|(rank, _)| *rank),
            Listing::Unlisted => None,
        };
        if flow.listed == wanted {
            return;
        }
        let listed = std::mem::replace(&mut flow.listed, wanted);
        let Some(tenant) = self.tenant(id) else { return };
        if let Some(old) = listed {
            tenant.ready.remove(&(old, id));
        }
        if let Some(new) = wanted {
            tenant.ready.insert((new, id));
        }
    }

    pub(super) fn is_empty(&self, flow: Id) -> bool {
        self.flows.get(flow).is_none_or(|flow| flow.queue.is_empty())
    }

    /// Forgets a flow that holds nothing.
    pub(super) fn forget(&mut self, id: Id) {
        self.list(id, Listing::Unlisted);
        if let Some(flow) = self.flows.remove(id) {
            self.by_owner.remove(&(flow.lane, flow.tenant));
        }
    }

    /// The lane and flow to serve next. Changes nothing but whose turn it is. A tenant whose lanes
    /// are all parked keeps its place and what it may use up.
    pub(super) fn pick(&mut self, quantum: i64) -> Option<(Id, Id)> {
        for level in self.levels.values_mut() {
            let mut at = 0;
            while let Some(&name) = level.turns.get(at) {
                let Some(tenant) = level.tenants.get_mut(&name).filter(|tenant| tenant.calls > 0) else {
                    level.end_turns(at, name);
                    continue;
                };
                let Some(&(_, flow)) = tenant.ready.first() else {
                    at += 1;
                    continue;
                };
                if tenant.deficit <= 0 {
                    tenant.deficit += quantum;
                    level.turns.remove(at);
                    level.turns.push_back(name);
                    continue;
                }
                return self.flows.get(flow).map(|found| (found.lane, flow));
            }
        }
        None
    }

    /// Books what a flow's tenant used up. A debt is bounded, so that one huge call does not
    /// lock its tenant out.
    pub(super) fn charge(&mut self, flow: Id, cost: i64, quantum: i64) {
        if let Some(tenant) = self.tenant(flow) {
            tenant.deficit = (tenant.deficit - cost).max(-4 * quantum);
        }
    }
}

/// Tenants kept without calls, so that a lone caller costs no allocation.
const KEPT_TENANTS: usize = 64;
