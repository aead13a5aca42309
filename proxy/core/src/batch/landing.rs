//! Landing: a batch came back, its slot is free, and what it tells of the upstream is learned.

use std::time::{Duration, Instant};

use super::arena::Id;
use super::lanes::Park;
use super::window::{Sample, count};
use super::{Batcher, Flight, Outcome};

impl<T> Batcher<T> {
    /// A batch came back.
    pub(super) fn land(&mut self, id: Id, outcome: Outcome, now: Instant) {
        let Some(flight) = self.flights.remove(id) else {
            return;
        };
        self.in_slots -= usize::from(flight.in_slot);
        if let Some(lane) = self.lanes.get_mut(flight.lane) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            lane.served = true;
        }
        self.learn(&flight, outcome, now);
        let class = self.class(flight.class);
        class.users = class.users.saturating_sub(1);
        let idle = self.in_slots == 0;
        self.unpark(|lane| match lane.park {
            Park::Slots | Park::Full => true,
            Park::Held => idle,
            Park::No | Park::Fixed | Park::Paused => false,
        });
    }

    fn learn(&mut self, flight: &Flight, outcome: Outcome, now: Instant) {
        let seconds = now.duration_since(flight.sent).as_secs_f64().max(1e-9);
        match outcome {
            Outcome::Ok => {
                self.measure(flight, seconds);
                if let Some(lane) = self.lanes.get_mut(flight.lane) {
                    lane.overloads = 0;
                    lane.paused_until = None;
                }
            }
            Outcome::Overloaded { retry_after } => self.back_off(flight, retry_after, now),
            Outcome::TooLarge => self.class(flight.class).size.refused(flight.items),
            Outcome::Failed | Outcome::Abandoned => {}
        }
    }

    /// Learns the cost of a size, and what this many batches in flight do to it.
    fn measure(&mut self, flight: &Flight, seconds: f64) {
        let items = count(flight.items);
        let usual = self.controller.usual(flight.level);
        let limited = self.queued_items > 0;
        let class = self.class(flight.class);
        class.size.accepted(flight.items, flight.max_size);
        let cap = class.size.cap(flight.max_size);
        if let Some(usual) = usual {
            class.cost.learn(items, seconds / usual);
        }
        if !class.cost.knows(items) {
            self.controller.unknown_size(flight.level);
            return;
        }
        let Some(expected) = class.cost.expected(items).filter(|_| flight.in_slot) else {
            return;
        };
        self.controller.learn(Sample {
            slowness: (seconds / expected.max(1e-9)).ln(),
            level: flight.level,
            alongside: ((self.crowd - flight.crowd) / seconds).max(1.0),
            turn: flight.turn,
            limited,
            wait_share: flight.waited / seconds,
            fill: items / count(cap),
        });
        let factor = self.controller.hand_over();
        for class in self.classes.values_mut() {
            class.cost.scale(factor);
        }
    }

    /// One step back for a burst of bad news: only batches sent after the last step count. The
    /// lane pauses when it has heard nothing but overload for a while; a single 503 is noise.
    fn back_off(&mut self, flight: &Flight, retry_after: Option<Duration>, now: Instant) {
        // Of a batch that was alone, a smaller window could change nothing.
        if flight.in_slot && flight.level > 1 && self.backed_off.is_none_or(|last| flight.sent >= last) {
            self.backed_off = Some(now);
            self.controller.back_off();
        }
        let Some(lane) = self.lanes.get_mut(flight.lane) else {
            return;
        };
        lane.overloads = lane.overloads.saturating_add(1);
        if let Some(wait) = retry_after
            && lane.overloads >= OVERLOADS_BEFORE_PAUSE
        {
            lane.paused_until = Some(now + wait.min(LONGEST_PAUSE));
        }
    }
}

/// Overloaded replies in a row after which `Retry-After` pauses a lane.
const OVERLOADS_BEFORE_PAUSE: u32 = 3;
/// The longest pause: calls that could still be served are not let die for an upstream's guess.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
