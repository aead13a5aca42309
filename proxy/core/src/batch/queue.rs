//! The way into the queue and out of it other than in a batch: bounds, deadlines, cancellation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arena::Id;
use super::lanes::Park;
use super::limits::{Dispatch, Limits, Order};
use super::window::count;
use super::{Batcher, Entry, Expired, Queued};

impl<T> Batcher<T> {
    /// The last moment at which a call can leave and still make its deadline; `None` when that
    /// has passed. With nothing in flight the model is not believed: a wrong one would refuse
    /// every call, and so never be corrected.
    pub(super) fn cutoff(&self, call: &Queued<T>, now: Instant) -> Option<Option<Instant>> {
        let Some(deadline) = call.deadline else {
            return Some(None);
        };
        if deadline <= now {
            return None;
        }
        let expected = self.expected(call.class, call.items);
        let (Some(expected), false) = (expected, self.flights.is_empty()) else {
            return Some(Some(deadline));
        };
        let cutoff = deadline.checked_sub(seconds(expected))?;
        if cutoff < now { None } else { Some(Some(cutoff)) }
    }

    /// The lane of a key, made if there is room.
    pub(super) fn lane(&mut self, key: &[u8], limits: &Arc<Limits>, class: u32) -> Option<Id> {
        if let Some(id) = self.lanes.find(key) {
            if let Some(lane) = self.lanes.get_mut(id)
                && lane.calls == 0
                && !Arc::ptr_eq(&lane.limits, limits)
            {
                lane.limits = Arc::clone(limits);
            }
            return Some(id);
        }
        while let Some(gone) = self.lanes.evict(&self.settings) {
            self.forget_lane(gone);
        }
        if self.lanes.len() >= self.settings.max_keys {
            return None;
        }
        self.class(class).users += 1;
        Some(self.lanes.insert(key, class, limits))
    }

    fn forget_lane(&mut self, gone: super::lanes::Evicted) {
        for flow in gone.flows {
            self.schedule.forget(flow);
        }
        let class = self.class(gone.class);
        class.users = class.users.saturating_sub(1);
    }

    /// When to come back, if a call would exceed a bound. An empty queue takes any call.
    pub(super) fn full(&self, lane: Id, call: &Queued<T>) -> Option<Duration> {
        let lane = self.lanes.get(lane)?;
        if lane.calls == 0 && self.queued_items < self.settings.max_queued_items {
            return None;
        }
        let limits = &lane.limits;
        let at_most = |bound: usize| bound / self.squeeze;
        let over = lane.items + call.items > at_most(limits.max_queue_size)
            || lane.bytes + call.bytes > at_most(limits.max_queue_bytes)
            || self.queued_items + call.items > at_most(self.settings.max_queued_items)
            || self.queued_bytes + call.bytes > at_most(self.settings.max_queued_bytes);
        over.then(|| self.time_to_empty(lane.class, limits.max_size, limits.queue_timeout))
    }

    /// How long a batch of so many items takes these days, in seconds.
    fn expected(&self, class: u32, items: usize) -> Option<f64> {
        let cost = self.classes.get(&class)?.cost.expected(count(items))?;
        Some(cost * self.controller.inflation())
    }

    /// How long the whole queue takes at the present window; at most the queue timeout, after
    /// which there is room in any case.
    fn time_to_empty(&self, class: u32, max_size: usize, at_most: Duration) -> Duration {
        let batches = count(self.queued_items.div_ceil(max_size.max(1)));
        let each = self.expected(class, max_size);
        let rounds = (batches / count(self.controller.window())).max(1.0);
        each.map_or(at_most, |each| seconds(each * rounds).min(at_most))
    }

    pub(super) fn enqueue(&mut self, id: Id, call: Queued<T>, cutoff: Option<Instant>, now: Instant) -> Id {
        let lane = self
            .lanes
            .get_mut(id)
            .expect("the lane was found or made by the same push");
        let timeout = now + lane.limits.queue_timeout;
        let (expires, expired) = match cutoff {
            Some(cutoff) if cutoff < timeout => (cutoff, Expired::Deadline),
            _ => (timeout, Expired::QueueTimeout),
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        let due = virtual_due(&lane.limits, &call, now, timeout);
        let rank = (nanos(due.duration_since(self.epoch.unwrap_or(now))), seq);
        let level = if lane.limits.order == Order::Priority {
            call.priority
        } else {
            DEFAULT_LEVEL
        };
        let (flow, new) = self
            .schedule
            .flow(id, call.tenant, level, lane.flows.last().copied());
        if new {
            lane.flows.push(flow);
        }
        let first = lane.calls == 0;
        lane.calls += 1;
        lane.items += call.items;
        lane.bytes += call.bytes;
        lane.shared_bytes = lane.shared_bytes.max(call.shared_bytes);
        self.queued_items += call.items;
        self.queued_bytes += call.bytes;
        let entry = Entry {
            call: call.call,
            items: call.items,
            bytes: call.bytes,
            deadline: call.deadline,
            arrived: now,
            expires,
            expired,
            seq,
            rank,
            lane: id,
            flow,
            queued: true,
        };
        let ticket = self.calls.insert(entry);
        if first {
            self.wake_lane(id, now);
        }
        let listing = self
            .lanes
            .get(id)
            .map_or(super::schedule::Listing::Unlisted, |lane| lane.listing());
        self.schedule.push(flow, rank, ticket, listing);
        let calls = &self.calls;
        self.call_timers.arm(expires, ticket, calls.len(), |at, id| {
            calls.get(id).is_some_and(|entry| entry.expires == at)
        });
        self.check_full(id);
        ticket
    }

    /// The lane has its first call.
    fn wake_lane(&mut self, id: Id, now: Instant) {
        self.lanes.busy(id);
        self.busy_lanes += 1;
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        lane.park = Park::No;
        if lane.limits.dispatch == Dispatch::Fixed {
            lane.park = Park::Fixed;
            let at = now + lane.limits.timeout;
            self.arm_lane(id, at);
        }
    }

    /// A lane that is full waits for nobody.
    fn check_full(&mut self, id: Id) {
        let Some(lane) = self.lanes.get(id) else { return };
        if !self.is_full(lane) {
            return;
        }
        match lane.park {
            Park::Fixed => self.make_due(id),
            Park::Held | Park::Slots => self.release(id),
            Park::No | Park::Paused | Park::Full => {}
        }
    }

    /// Takes a call out of the queue, wherever it stands.
    pub(super) fn withdraw(&mut self, id: Id) -> Option<T> {
        let entry = self.calls.remove(id)?;
        if entry.queued {
            self.schedule.remove(entry.flow, entry.rank, id);
            self.leave_lane(entry.lane, entry.items, entry.bytes);
            self.tidy_flow(entry.lane, entry.flow);
        }
        self.settle();
        Some(entry.call)
    }

    /// Books a call out of its lane.
    pub(super) fn leave_lane(&mut self, id: Id, items: usize, bytes: usize) {
        self.queued_items -= items;
        self.queued_bytes -= bytes;
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        lane.calls -= 1;
        lane.items -= items;
        lane.bytes -= bytes;
        if lane.calls == 0 {
            self.busy_lanes -= 1;
            if lane.park != Park::No {
                lane.park = Park::No;
                self.parked.retain(|parked| *parked != id);
            }
            self.lanes.idle(id);
        }
    }

    /// Lists a flow again after its head may have changed; an empty one goes, unless it is the
    /// lane's only one and so likely to be wanted again.
    pub(super) fn tidy_flow(&mut self, lane: Id, flow: Id) {
        let Some(lane) = self.lanes.get_mut(lane) else {
            return;
        };
        if self.schedule.is_empty(flow) && lane.flows.len() > 1 {
            lane.flows.retain(|other| *other != flow);
            self.schedule.forget(flow);
        } else {
            self.schedule.list(flow, lane.listing());
        }
    }

    /// Drops timers that nobody waits for, so that an idle batcher wants no wake-up.
    pub(super) fn settle(&mut self) {
        if self.calls.is_empty() {
            self.call_timers.clear();
            self.lane_timers.clear();
            return;
        }
        let (calls, lanes) = (&self.calls, &self.lanes);
        self.call_timers
            .settle(|at, id| calls.get(id).is_some_and(|entry| entry.expires == at));
        self.lane_timers
            .settle(|at, id| lanes.get(id).is_some_and(|lane| lane.wake == Some(at)));
    }
}

/// The instant that stands for a call in the order of service.
fn virtual_due<T>(limits: &Limits, call: &Queued<T>, now: Instant, timeout: Instant) -> Instant {
    match limits.order {
        Order::Fifo | Order::Priority => now,
        Order::EarliestDeadline => call.deadline.map_or(timeout, |deadline| deadline.min(timeout)),
        Order::ShortestFirst => {
            let item = limits.queue_timeout.as_secs_f64() / count(limits.max_size.max(1));
            let size = count(call.items) + count(call.bytes) / count(limits.max_bytes.max(1));
            now + seconds(item * size)
        }
    }
}

/// A duration from a model's figure: never negative, at most an hour.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Where calls stand whose route does not order by priority: RFC 9218's default urgency.
const DEFAULT_LEVEL: u8 = 3;
