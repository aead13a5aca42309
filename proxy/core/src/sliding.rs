//! Two counts over the last ten seconds: everything, and what is marked of it.

use std::time::{Duration, Instant};

/// The counts, one pair for each second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sliding {
    slots: [Counts; SLOTS],
    /// The slot of the current second.
    at: usize,
    /// When that second began; `None` before the first count.
    began: Option<Instant>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) all: u32,
    pub(crate) marked: u32,
}

impl Sliding {
    /// Counts one of all.
    pub(crate) fn count(&mut self, now: Instant) {
        let slot = self.current(now);
        slot.all = slot.all.saturating_add(1);
    }

    /// Marks one of those counted.
    pub(crate) fn mark(&mut self, now: Instant) {
        let slot = self.current(now);
        slot.marked = slot.marked.saturating_add(1);
    }

    /// What was counted lately.
    pub(crate) fn counts(&mut self, now: Instant) -> Counts {
        self.current(now);
        let add = |sum: Counts, slot: &Counts| Counts {
            all: sum.all.saturating_add(slot.all),
            marked: sum.marked.saturating_add(slot.marked),
        };
        self.slots.iter().fold(Counts::default(), add)
    }

    /// The slot of `now`, those in between emptied. Time that goes backwards stands still.
    fn current(&mut self, now: Instant) -> &mut Counts {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began).as_secs();
        for _ in 0..passed.min(SLOTS as u64) {
            self.at = (self.at + 1) % SLOTS;
            self.slots[self.at] = Counts::default();
        }
        if passed > 0 {
            self.began = Some(began + Duration::from_secs(passed));
        }
        &mut self.slots[self.at]
    }
}

/// Seconds that are remembered: as long as linkerd and tower keep a retry budget's deposits.
const SLOTS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::start;

    #[test]
    fn what_is_older_than_ten_seconds_is_forgotten_and_time_may_stand_still() {
        let start = start();
        let mut sliding = Sliding::default();
        for second in 0..5 {
            sliding.count(start + Duration::from_secs(second));
        }
        sliding.mark(start);
        let counts = |sliding: &mut Sliding, second| {
            let Counts { all, marked } = sliding.counts(start + Duration::from_secs(second));
            (all, marked)
        };
        assert_eq!(counts(&mut sliding, 9), (5, 1));
        assert_eq!(counts(&mut sliding, 10), (4, 1));
        assert_eq!(counts(&mut sliding, 13), (1, 1));
        assert_eq!(counts(&mut sliding, 0), (1, 1));
        assert_eq!(counts(&mut sliding, 100_000), (0, 0));
    }
}
