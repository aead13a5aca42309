//! How many extra upstream calls a route may cause by replaying what failed together.

/// The share of a route's calls that may be sent again, counted since start.
///
/// Extra calls stay within 20 % of the route's calls, plus a small reserve so that the first
/// failure after start can be isolated too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    calls: u64,
    extra: u64,
}

impl Budget {
    /// Counts a call that arrived on the route.
    pub const fn arrived(&mut self) {
        self.calls = self.calls.saturating_add(1);
    }

    /// Takes leave for `n` extra calls: all of them or none.
    pub const fn take(&mut self, n: u64) -> bool {
        let allowed = RESERVE.saturating_add(self.calls / SHARE);
        let wanted = self.extra.saturating_add(n);
        if wanted > allowed {
            return false;
        }
        self.extra = wanted;
        true
    }

    /// Extra calls taken since start.
    pub const fn extra(&self) -> u64 {
        self.extra
    }
}

/// One extra call for every five calls: 20 %.
const SHARE: u64 = 5;

/// Isolating one bad item of a batch of 64 takes `2·log2(64) = 12` extra calls.
const RESERVE: u64 = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_failure_can_be_isolated_and_no_more() {
        let mut budget = Budget::default();
        assert!(budget.take(12));
        assert!(!budget.take(1));
    }

    #[test]
    fn extra_calls_stay_within_a_fifth() {
        let mut budget = Budget::default();
        for _ in 0..10_000 {
            budget.arrived();
            while budget.take(2) {}
        }
        assert_eq!(budget.extra(), 12 + 2_000);
    }

    #[test]
    fn leave_is_all_or_nothing() {
        let mut budget = Budget::default();
        assert!(!budget.take(13));
        assert_eq!(budget.extra(), 0);
    }
}
