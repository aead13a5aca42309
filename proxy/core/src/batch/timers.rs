//! A heap of instants whose entries are checked when they come up, never searched for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::arena::Id;

/// Wake-ups by instant. A timer is cancelled by making `is_live` deny it.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Id)>>,
}

impl Timers {
    /// Arms a timer. `live` is how many entries can be live at most: past twice as many, the dead
    /// ones are swept, so the heap stays proportional and a sweep is paid for by its insertions.
    pub(super) fn arm(&mut self, at: Instant, id: Id, live: usize, is_live: impl Fn(Instant, Id) -> bool) {
        if self.heap.len() > 2 * live + 64 {
            self.heap.retain(|Reverse((at, id))| is_live(*at, *id));
        }
        self.heap.push(Reverse((at, id)));
    }

    /// Drops dead timers from the top, so that [`Timers::next`] tells the truth.
    pub(super) fn settle(&mut self, is_live: impl Fn(Instant, Id) -> bool) {
        while let Some(Reverse((at, id))) = self.heap.peek() {
            if is_live(*at, *id) {
                return;
            }
            self.heap.pop();
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next timer that is due; it may be dead.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Id)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(timer)| timer)
    }

    pub(super) fn clear(&mut self) {
        self.heap.clear();
    }
}
