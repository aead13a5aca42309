//! How many extra upstream calls a route may cause by replaying what failed together, and what may
//! travel together at all while that is dear.

/// The share of a route's calls that may be sent again, counted since start.
///
/// Extra calls stay within 20 % of the route's calls. The first ones are lent, so that what fails
/// soon after start can be isolated too: later calls have to earn them before there are more.
///
/// While batches of the route fail, a further one is sent only if the budget covers taking it apart
/// altogether: [`Budget::cover`]. What is not covered travels one by one, and nobody is told of
/// another's failure for want of budget.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    calls: u64,
    extra: u64,
    /// Set aside for batches in flight.
    covered: u64,
    /// Batches that have to be served before the route is trusted again.
    wary: u32,
}

impl Budget {
    /// Counts a call that arrived on the route.
    pub const fn arrived(&mut self) {
        self.calls = self.calls.saturating_add(1);
    }

    /// Takes leave for `n` extra calls: all of them or none.
    pub const fn take(&mut self, n: u64) -> bool {
        let may = n <= self.left();
        if may {
            self.extra += n;
        }
        may
    }

    /// Extra calls that may still be taken or set aside.
    const fn left(&self) -> u64 {
        let earned = self.calls / SHARE;
        let allowed = if earned > LENT { earned } else { LENT };
        allowed.saturating_sub(self.extra + self.covered)
    }

    /// Sets aside what it takes to send the members of a batch one by one, if need be: to be given
    /// back by [`Budget::uncover`] when the batch is over. `None`: they had better travel alone.
    /// Nothing is set aside while batches of the route do not fail.
    pub const fn cover(&mut self, members: u64) -> Option<u64> {
        if self.wary == 0 || members < 2 {
            return Some(0);
        }
        if members > self.left() {
            return None;
        }
        self.covered += members;
        Some(members)
    }

    /// A batch that was covered is over, or about to be taken apart.
    pub const fn uncover(&mut self, members: u64) {
        self.covered = self.covered.saturating_sub(members);
    }

    /// A batch of the route was served.
    pub const fn served(&mut self) {
        self.wary = self.wary.saturating_sub(1);
    }

    /// A batch of the route failed in a way that concerns its members.
    pub const fn failed(&mut self) {
        self.wary = WARY;
    }

    /// Extra calls taken since start.
    pub const fn extra(&self) -> u64 {
        self.extra
    }
}

/// One extra call for every five calls: 20 %.
const SHARE: u64 = 5;

/// A batch in so many may fail without another thought.
const WARY: u32 = 32;

/// Enough to send each member of one large batch alone, or to find one bad item in each of a few.
const LENT: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_failures_can_be_isolated_and_no_more_until_they_are_earned() {
        let mut budget = Budget::default();
        assert!(budget.take(64));
        for _ in 0..(5 * 65) {
            assert!(!budget.take(1));
            budget.arrived();
        }
        assert!(budget.take(1));
    }

    #[test]
    fn extra_calls_stay_within_a_fifth() {
        let mut budget = Budget::default();
        for _ in 0..10_000 {
            budget.arrived();
            while budget.take(2) {}
        }
        assert_eq!(budget.extra(), 2_000);
    }

    #[test]
    fn nothing_is_set_aside_while_no_batch_fails() {
        let mut budget = Budget::default();
        assert_eq!(budget.cover(64), Some(0));
        assert_eq!(budget.cover(64), Some(0));
    }

    #[test]
    fn once_one_failed_only_what_can_be_taken_apart_travels_together() {
        let mut budget = Budget::default();
        budget.failed();
        assert_eq!(budget.cover(60), Some(60));
        assert_eq!(budget.cover(8), None, "4 are left of 64");
        assert!(!budget.take(5), "what is set aside is not taken by others");
        budget.uncover(60);
        assert!(budget.take(60), "it is for whom it was set aside");
        assert_eq!(budget.cover(1), Some(0), "who is alone needs none");
        assert_eq!(budget.cover(5), None);
        for _ in 0..32 {
            budget.served();
        }
        assert_eq!(budget.cover(64), Some(0));
    }

    #[test]
    fn leave_is_all_or_nothing() {
        let mut budget = Budget::default();
        assert!(!budget.take(65));
        assert_eq!(budget.extra(), 0);
    }
}
