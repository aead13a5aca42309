//! The way out in a batch: which lane has the slot, whether it waits for announced arrivals, and
//! what its share is of what is queued.

use std::time::Instant;

use smallvec::SmallVec;

use super::arena::Id;
use super::lanes::{Hold, Lane, Park};
use super::limits::{Dispatch, EAGER_WINDOW, Limits, Window};
use super::queue::seconds;
use super::window::count;
use super::{Batch, Batcher, FlushReason};

impl<T> Batcher<T> {
    /// The next batch that may leave; to be asked until `None` after every event.
    pub fn poll_batch(&mut self, now: Instant) -> Option<Batch<T>> {
        let now = self.advance(now);
        let batch = if self.draining {
            self.poll_drain(now)
        } else {
            self.poll_live(now)
        };
        self.settle();
        batch
    }

    fn poll_drain(&mut self, now: Instant) -> Option<Batch<T>> {
        self.unpark(|_| true);
        while let Some(id) = self.due.pop_front() {
            if let Some(lane) = self.lanes.get_mut(id) {
                lane.due = false;
            }
        }
        loop {
            let (lane, flow) = self.schedule.pick(QUANTUM).or_else(|| self.any_parked())?;
            if let Some(batch) = self.form(lane, flow, usize::MAX, FlushReason::Drain, now) {
                return Some(batch);
            }
        }
    }

    /// While draining: a `Fixed` or paused lane, which has no turn of its own.
    fn any_parked(&self) -> Option<(Id, Id)> {
        self.lanes
            .iter()
            .filter(|(_, lane)| lane.calls > 0)
            .find_map(|(id, lane)| lane.flows.first().map(|flow| (id, *flow)))
    }

    fn poll_live(&mut self, now: Instant) -> Option<Batch<T>> {
        self.fire(now);
        while let Some(id) = self.due.pop_front() {
            if let Some(batch) = self.form_due(id, now) {
                return Some(batch);
            }
        }
        loop {
            let (id, flow) = self.schedule.pick(QUANTUM)?;
            let lane = self.lanes.get(id)?;
            let slots = self.slots(&lane.limits);
            if self.in_slots >= slots && !self.may_exceed(lane) && !self.take_stalled(id, slots, now) {
                self.blocked_before = self.next_seq;
                continue;
            }
            let lane = self.lanes.get(id)?;
            if let Some(until) = lane.paused_until.filter(|until| *until > now) {
                self.park(id, Park::Paused);
                self.arm_lane(id, until);
                continue;
            }
            if let Some(until) = self.hold(id, flow, now) {
                self.park(id, Park::Held);
                self.arm_lane(id, until);
                continue;
            }
            let spread = self.spread(id, slots);
            let reason = self.slot_reason(id, flow);
            if let Some(batch) = self.form(id, flow, spread, reason, now) {
                return Some(batch);
            }
        }
    }

    /// Whether a lane may send although the window is full.
    ///
    /// Waiting gains nothing for a lane that has nothing in flight: its calls cannot join another's
    /// batch, and a slow key must not hold up a quick one. It has to be a lane that was served
    /// before, or whoever makes up a key for every call would know no window.
    fn may_exceed(&self, lane: &Lane) -> bool {
        let idle = lane.in_flight == 0 && lane.served;
        idle && learned(&lane.limits) && self.in_slots < self.settings.max_window.min(self.bound)
    }

    /// Lets lanes go whose time is up.
    fn fire(&mut self, now: Instant) {
        while let Some((at, id)) = self.lane_timers.pop_due(now) {
            let Some(lane) = self.lanes.get_mut(id) else {
                continue;
            };
            if lane.wake != Some(at) {
                continue;
            }
            lane.wake = None;
            match lane.park {
                Park::Fixed => self.make_due(id),
                Park::Held | Park::Paused => {
                    if let Some(hold) = &mut lane.hold {
                        hold.over = true;
                    }
                    self.release(id);
                }
                Park::Slots | Park::Full => self.release(id),
                Park::No => {}
            }
        }
    }

    /// A batch of a `Fixed` lane that is full or whose time is up.
    fn form_due(&mut self, id: Id, now: Instant) -> Option<Batch<T>> {
        let lane = self.lanes.get_mut(id)?;
        lane.due = false;
        let flow = *lane.flows.first()?;
        let (calls, timed_out) = (lane.calls, lane.wake.is_none_or(|at| at <= now));
        let full = self.lanes.get(id).is_some_and(|lane| self.is_full(lane));
        if calls == 0 || !(timed_out || full) {
            return None;
        }
        let batch = self.form(id, flow, usize::MAX, FlushReason::Timeout, now);
        self.rearm_fixed(id, now);
        batch
    }

    /// The wait of what stayed behind began when it came.
    fn rearm_fixed(&mut self, id: Id, now: Instant) {
        let Some(lane) = self.lanes.get(id).filter(|lane| lane.calls > 0) else {
            return;
        };
        let timeout = lane.limits.timeout;
        let oldest = lane.flows.iter().filter_map(|flow| self.schedule.head(*flow));
        let oldest = oldest
            .filter_map(|(_, call)| Some(self.calls.get(call)?.arrived))
            .min();
        let at = oldest.unwrap_or(now) + timeout;
        let full = self.is_full(lane);
        self.arm_lane(id, at);
        if full || at <= now {
            self.make_due(id);
        }
    }

    /// How long to wait for announced arrivals, if at all: only for the last free slot, for no
    /// longer than merging can save, than `timeout`, and than the head's slack.
    fn hold(&mut self, id: Id, flow: Id, now: Instant) -> Option<Instant> {
        let lane = self.lanes.get(id)?;
        let class = self.classes.get(&lane.class)?;
        let last = self.in_slots > 0 && self.in_slots + 1 >= self.slots(&lane.limits);
        if class.announced == 0 || !last || lane.limits.dispatch != Dispatch::Adaptive {
            return None;
        }
        if self.is_full(lane) || lane.hold.is_some_and(|hold| hold.over) {
            return None;
        }
        let (fixed, per_item) = class.cost.parts()?;
        let whole = fixed + per_item * count(lane.items);
        if fixed < WORTH_MERGING * whole {
            return None;
        }
        let head = self.calls.get(self.schedule.head(flow)?.1)?;
        let since = lane.hold.map_or(now, |hold| hold.since);
        let mut until = since + seconds(fixed / 2.0);
        if !lane.limits.timeout.is_zero() {
            until = until.min(head.arrived + lane.limits.timeout);
        }
        let mut reason = FlushReason::Timeout;
        if let Some(latest) = head
            .deadline
            .map(|deadline| deadline.checked_sub(seconds(whole * MARGIN)))
            && latest.is_none_or(|latest| latest < until)
        {
            until = latest.unwrap_or(now);
            reason = FlushReason::Deadline;
        }
        let over = until <= now;
        self.lanes.get_mut(id)?.hold = Some(Hold { since, reason, over });
        if over { None } else { Some(until) }
    }

    /// The lane's share of what is queued per free slot, one slot left to each other lane. Calls
    /// that waited for companions leave with them.
    fn spread(&self, id: Id, slots: usize) -> usize {
        let free = slots.saturating_sub(self.in_slots);
        let own = free.saturating_sub(self.busy_lanes.saturating_sub(1)).max(1);
        let Some(lane) = self.lanes.get(id) else { return 1 };
        if lane.hold.is_some() {
            lane.items
        } else {
            lane.items.div_ceil(own)
        }
        .max(1)
    }

    fn slot_reason(&self, id: Id, flow: Id) -> FlushReason {
        if let Some(hold) = self.lanes.get(id).and_then(|lane| lane.hold)
            && hold.over
        {
            return hold.reason;
        }
        let head = self
            .schedule
            .head(flow)
            .and_then(|(_, call)| self.calls.get(call));
        if head.is_some_and(|head| head.seq < self.blocked_before) {
            FlushReason::SlotFree
        } else {
            FlushReason::Idle
        }
    }

    /// The most items that a batch of this lane may have.
    pub(super) fn cap(&self, id: Id) -> usize {
        let Some(lane) = self.lanes.get(id) else { return 1 };
        let max = lane.limits.max_size.max(1);
        self.classes
            .get(&lane.class)
            .map_or(max, |class| class.size.cap(max))
    }

    pub(super) fn is_full(&self, lane: &Lane) -> bool {
        let max = lane.limits.max_size.max(1);
        let cap = self
            .classes
            .get(&lane.class)
            .map_or(max, |class| class.size.cap(max));
        lane.items >= cap || lane.shared_bytes + lane.bytes >= lane.limits.max_bytes
    }

    pub(super) fn slots(&self, limits: &Limits) -> usize {
        let slots = match limits.dispatch {
            Dispatch::Adaptive => self.controller.slots(),
            Dispatch::Eager | Dispatch::Fixed => EAGER_WINDOW,
        };
        match limits.window {
            Window::Auto => slots,
            Window::Within { min, max } => slots.min(max).max(min).max(1),
            Window::Fixed(slots) => slots.max(1),
        }
        .min(self.bound)
    }

    pub(super) fn make_due(&mut self, id: Id) {
        if let Some(lane) = self.lanes.get_mut(id)
            && !lane.due
        {
            lane.due = true;
            self.due.push_back(id);
        }
    }

    pub(super) fn arm_lane(&mut self, id: Id, at: Instant) {
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        lane.wake = Some(at);
        let (lanes, live) = (&self.lanes, self.busy_lanes);
        self.lane_timers.arm(at, id, live, |at, id| {
            lanes.get(id).is_some_and(|lane| lane.wake == Some(at))
        });
    }

    pub(super) fn park(&mut self, id: Id, why: Park) {
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.park = why;
            self.parked.push(id);
        }
        self.list_lane(id);
    }

    /// Puts a parked lane up for a slot again.
    pub(super) fn release(&mut self, id: Id) {
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.park = Park::No;
            lane.wake = None;
        }
        self.parked.retain(|parked| *parked != id);
        self.list_lane(id);
    }

    pub(super) fn unpark(&mut self, which: impl Fn(&Lane) -> bool) {
        let lanes = &self.lanes;
        let go: SmallVec<[Id; 8]> = self
            .parked
            .iter()
            .copied()
            .filter(|id| lanes.get(*id).is_some_and(&which))
            .collect();
        for id in go {
            self.release(id);
        }
    }

    fn list_lane(&mut self, id: Id) {
        let Some(lane) = self.lanes.get(id) else { return };
        for flow in &lane.flows {
            self.schedule.list(*flow, lane.listing());
        }
    }
}

pub(super) const fn learned(limits: &Limits) -> bool {
    matches!(
        (limits.window, limits.dispatch),
        (Window::Auto | Window::Within { .. }, Dispatch::Adaptive)
    )
}

/// Merging must save at least this share of a batch's cost to be worth a wait.
const WORTH_MERGING: f64 = 0.1;
/// A batch is allowed this many times its expected cost when a deadline is near.
const MARGIN: f64 = 1.2;
/// Items that a tenant may send per round: the usual `max_size`.
pub(super) const QUANTUM: i64 = 32;
