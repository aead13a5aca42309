//! Stalls: a batch that takes far longer than its size usually does gives its slot to others.
//!
//! The window says how many batches the upstream can work on. One that hangs is not worked on, or is
//! of a kind that was not seen before; either way the calls behind it need not wait for it.

use std::time::{Duration, Instant};

use super::Batcher;
use super::arena::Id;
use super::dispatch::learned;
use super::lanes::Park;
use super::queue::seconds;
use super::window::count;

impl<T> Batcher<T> {
    /// When a batch that leaves now will count as stalled; `None` while its cost is unknown.
    pub(super) fn stalls_at(&self, class: u32, items: usize, now: Instant) -> Option<Instant> {
        let alone = self.classes.get(&class)?.cost.expected(count(items))?;
        let usual = self.controller.inflation().max(1.0);
        Some(now + seconds(alone * usual * STALLED))
    }

    /// Takes slots from batches that are stalled until one is free. Else the lane is parked, until
    /// the next batch stalls at the latest.
    pub(super) fn take_stalled(&mut self, id: Id, slots: usize, now: Instant) -> bool {
        let lane = self.lanes.get(id).filter(|lane| learned(&lane.limits));
        let (adaptive, full) = (lane.is_some(), lane.is_some_and(|lane| self.is_full(lane)));
        while adaptive && self.stalled() < MOST_STALLED {
            let Some((at, flight)) = self.first_to_stall(full) else {
                break;
            };
            if at > now {
                self.arm_lane(id, at);
                break;
            }
            if let Some(flight) = self.flights.get_mut(flight) {
                flight.in_slot = false;
                flight.stalled = true;
            }
            self.in_slots -= 1;
            if self.in_slots < slots {
                return true;
            }
        }
        self.park(id, if full { Park::Full } else { Park::Slots });
        false
    }

    /// A full batch gains nothing by waiting; what is not full gathers more, and is patient.
    fn first_to_stall(&self, full: bool) -> Option<(Instant, Id)> {
        let patience = if full { SHORTEST } else { SHORTEST_GATHERING };
        let taken = self.flights.iter().filter(|(_, flight)| flight.in_slot);
        taken
            .filter_map(|(id, flight)| Some((flight.stalls_at?.max(flight.sent + patience), id)))
            .min_by_key(|(at, _)| *at)
    }

    /// Batches in flight whose slots went to others.
    fn stalled(&self) -> usize {
        self.flights.iter().filter(|(_, flight)| flight.stalled).count()
    }
}

/// A batch is stalled after this many times what its size usually takes.
const STALLED: f64 = 8.0;
/// And not sooner than this, for full batches and for others: the pauses of an upstream's garbage
/// collector are no reason to send it more.
const SHORTEST: Duration = Duration::from_millis(20);
const SHORTEST_GATHERING: Duration = Duration::from_secs(1);
/// Slots of stalled batches that others may have at once: an upstream that hangs altogether gets
/// this many batches more, and no further one.
const MOST_STALLED: usize = 4;
