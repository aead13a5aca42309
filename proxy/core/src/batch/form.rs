//! Forming: queued calls of one lane get their positions, late and for good.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::arena::Id;
use super::dispatch::QUANTUM;
use super::lanes::Lane;
use super::limits::Dispatch;
use super::{Batch, BatchId, Batcher, Flight, FlushReason, Member};

impl<T> Batcher<T> {
    /// Gives calls of a lane their positions. `None` when all that stood first had expired.
    pub(super) fn form(
        &mut self,
        id: Id,
        first: Id,
        target: usize,
        why: FlushReason,
        now: Instant,
    ) -> Option<Batch<T>> {
        let lane = self.lanes.get_mut(id)?;
        lane.hold = None;
        lane.wake = None;
        if let Some(at) = lane.flows.iter().position(|flow| *flow == first) {
            lane.flows.rotate_left(at);
        }
        let flows: SmallVec<[Id; 8]> = lane.flows.iter().copied().collect();
        let cap = self.cap(id);
        let mut forming = Forming::new(id, target.min(cap).max(1), cap, self.lanes.get(id)?, now);
        let quota = forming.target.div_ceil(flows.len().max(1));
        loop {
            let before = forming.seen;
            for flow in &flows {
                self.take(&mut forming, *flow, quota);
            }
            if forming.seen == before {
                break;
            }
        }
        for flow in flows {
            self.tidy_flow(id, flow);
        }
        self.launch(forming, why, now)
    }

    /// Takes up to `quota` items from one flow, if they fit.
    fn take(&mut self, forming: &mut Forming<T>, flow: Id, quota: usize) {
        let mut taken = 0;
        while taken < quota {
            let Some((_, call)) = self.schedule.head(flow) else {
                break;
            };
            let Some(head) = self.calls.get_mut(call) else {
                break;
            };
            let expired = head.expires <= forming.now;
            if !expired && !forming.fits(head.items, head.bytes) {
                break;
            }
            self.schedule.pop(flow);
            forming.seen += 1;
            let (items, bytes) = (head.items, head.bytes);
            if expired {
                // `poll_expired` still has its timer and will hand it out.
                head.queued = false;
            } else if let Some(entry) = self.calls.remove(call) {
                taken += items.max(1);
                forming.add(entry.call, entry.arrived, items, bytes, entry.deadline);
            }
            self.leave_lane(forming.lane, items, bytes);
        }
        let cost = i64::try_from(taken).unwrap_or(i64::MAX);
        if cost > 0 {
            self.schedule.charge(flow, cost, QUANTUM);
        }
    }

    fn launch(&mut self, forming: Forming<T>, why: FlushReason, now: Instant) -> Option<Batch<T>> {
        if forming.members.is_empty() {
            return None;
        }
        let lane = self.lanes.get(forming.lane)?;
        let in_slot = lane.limits.dispatch != Dispatch::Fixed;
        let (class, max_size, key) = (lane.class, lane.limits.max_size, Arc::clone(&lane.key));
        let full =
            forming.items >= forming.cap || (forming.stopped_by_items && forming.target >= forming.cap);
        let reason = if why == FlushReason::Drain {
            why
        } else if full {
            FlushReason::Full
        } else if forming.stopped_by_bytes {
            FlushReason::Bytes
        } else {
            why
        };
        let waited = forming
            .members
            .iter()
            .map(|member| member.waited)
            .max()
            .unwrap_or_default();
        let stalls_at = self.stalls_at(class, forming.items, now);
        let expected = self
            .classes
            .get(&class)
            .and_then(|class| class.expected(forming.items));
        self.in_slots += usize::from(in_slot);
        let flight = Flight {
            lane: forming.lane,
            class,
            items: forming.items,
            max_size,
            sent: now,
            level: self.flights.len() + 1,
            crowd: self.crowd,
            turn: self.controller.turn(),
            waited: waited.as_secs_f64(),
            in_slot,
            stalls_at,
            stalled: false,
        };
        self.class(class).users += 1;
        if let Some(lane) = self.lanes.get_mut(forming.lane) {
            lane.in_flight += 1;
        }
        let id = self.flights.insert(flight);
        Some(Batch {
            id: BatchId(id),
            key,
            members: forming.members,
            reason,
            items: forming.items,
            bytes: forming.shared + forming.bytes,
            deadline: forming.deadline,
            expected,
        })
    }
}

/// A batch while it is being filled.
struct Forming<T> {
    lane: Id,
    members: Vec<Member<T>>,
    target: usize,
    cap: usize,
    max_bytes: usize,
    items: usize,
    bytes: usize,
    shared: usize,
    deadline: Option<Instant>,
    /// Calls taken out of their flows, expired ones included.
    seen: usize,
    stopped_by_items: bool,
    stopped_by_bytes: bool,
    now: Instant,
}

impl<T> Forming<T> {
    fn new(id: Id, target: usize, cap: usize, lane: &Lane, now: Instant) -> Self {
        Self {
            lane: id,
            members: Vec::with_capacity(lane.calls.min(target)),
            target,
            cap,
            max_bytes: lane.limits.max_bytes,
            items: 0,
            bytes: 0,
            shared: lane.shared_bytes,
            deadline: None,
            seen: 0,
            stopped_by_items: false,
            stopped_by_bytes: false,
            now,
        }
    }

    /// The first call always fits: what exceeds a cap by itself travels alone.
    fn fits(&mut self, items: usize, bytes: usize) -> bool {
        if self.members.is_empty() {
            return true;
        }
        if self.items + items > self.target {
            self.stopped_by_items = true;
            return false;
        }
        if self.shared + self.bytes + bytes > self.max_bytes {
            self.stopped_by_bytes = true;
            return false;
        }
        true
    }

    fn add(&mut self, call: T, arrived: Instant, items: usize, bytes: usize, deadline: Option<Instant>) {
        self.deadline = match (self.members.is_empty(), self.deadline, deadline) {
            (true, _, only) => only,
            (false, Some(one), Some(other)) => Some(one.max(other)),
            (false, _, _) => None,
        };
        self.items += items;
        self.bytes += bytes;
        self.members.push(Member {
            call,
            items,
            waited: self.now.duration_since(arrived),
        });
    }
}
