//! What is known of one class of calls, usually a route: announced arrivals, cost, learned size.

use std::time::Duration;

use super::cost::CostModel;
use super::queue::seconds;
use super::window::count;

#[derive(Debug, Default)]
pub(super) struct Class {
    /// Calls whose head has been read and whose body is still coming in.
    pub(super) announced: usize,
    pub(super) cost: CostModel,
    pub(super) size: LearnedSize,
    /// Lanes and batches in flight that name this class: it is forgotten only without.
    pub(super) users: usize,
}

impl Class {
    /// How long a batch of so many items usually takes; `None` for sizes that were hardly seen.
    pub(super) fn expected(&self, items: usize) -> Option<Duration> {
        let items = count(items);
        let known = self.cost.expected(items).filter(|_| self.cost.knows(items));
        known.map(seconds)
    }
}

/// The largest batch that the upstream accepts, as far as it has said so: halved when it refuses
/// one as too large, raised one at a time after a run of full batches that went through. Each
/// refusal doubles the run, so that asking again costs ever less.
#[derive(Debug, Default)]
pub(super) struct LearnedSize {
    cap: Option<usize>,
    run: u32,
    patience: u32,
}

impl LearnedSize {
    pub(super) fn cap(&self, max_size: usize) -> usize {
        self.cap.map_or(max_size, |cap| cap.min(max_size)).max(1)
    }

    pub(super) const fn learned(&self) -> Option<usize> {
        self.cap
    }

    pub(super) fn refused(&mut self, items: usize) {
        let half = (items / 2).max(1);
        self.cap = Some(self.cap.map_or(half, |cap| cap.min(half)));
        self.run = 0;
        self.patience = (self.patience * 2).clamp(FIRST_PATIENCE, LAST_PATIENCE);
    }

    pub(super) fn accepted(&mut self, items: usize, max_size: usize) {
        let Some(cap) = self.cap else { return };
        if items < cap {
            return;
        }
        self.run += 1;
        if self.run >= self.patience {
            self.run = 0;
            self.cap = if cap + 1 >= max_size { None } else { Some(cap + 1) };
        }
    }
}

/// Full batches before one more item is tried, at first and at most.
const FIRST_PATIENCE: u32 = 8;
const LAST_PATIENCE: u32 = 4096;
