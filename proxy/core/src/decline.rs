//! Whether calls fail more often since something changed.

/// Calls that were answered, and those of them that failed, since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub calls: u64,
    /// Those that failed.
    pub failed: u64,
}

/// Compares what came after a change with what was before it.
#[derive(Clone, Copy, Debug)]
pub struct Decline {
    before: Tally,
    /// The count when the change was made.
    then: Tally,
}

/// A share that grew, each from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grown {
    /// Before the change.
    pub before: f64,
    /// Since.
    pub since: f64,
}

impl Tally {
    /// What was added since an earlier count.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            failed: self.failed.saturating_sub(earlier.failed),
        }
    }

    fn share(self) -> f64 {
        if self.calls == 0 {
            0.0
        } else {
            self.failed as f64 / self.calls as f64
        }
    }
}

impl Decline {
    /// A change is made now, after `before` was counted; the count has come to `then`.
    pub const fn new(before: Tally, then: Tally) -> Self {
        Self { before, then }
    }

    /// Whether enough came before the change to compare with.
    pub const fn is_known(&self) -> bool {
        self.before.calls >= FEWEST_BEFORE
    }

    /// Whether the share of calls that fail has doubled, now that the count has come to `now`. A few
    /// failures say nothing: there must be 10 of them, and a hundredth more of the calls than before. Where
    /// fewer than 20 calls came before, nobody knows how it was.
    pub fn verdict(&self, now: Tally) -> Option<Grown> {
        let since = now.since(self.then);
        let grown = Grown {
            before: self.before.share(),
            since: since.share(),
        };
        let is_worse = grown.since >= 2.0 * grown.before && grown.since >= grown.before + 0.01;
        (self.is_known() && since.failed >= FEWEST && is_worse).then_some(grown)
    }
}

/// Calls that show how it was.
const FEWEST_BEFORE: u64 = 20;

/// Failures that chance does not explain.
const FEWEST: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(calls: u64, failed: u64) -> Tally {
        Tally { calls, failed }
    }

    #[test]
    fn a_share_that_doubled_is_told_and_a_few_failures_are_not() {
        let decline = Decline::new(tally(1000, 50), tally(5000, 300));
        for (calls, failed, told) in [
            (0, 0, false),
            (100, 5, false),
            (9, 9, false),
            (100, 9, false),
            (100, 10, true),
            (1000, 99, false),
            (1000, 100, true),
        ] {
            let now = tally(5000 + calls, 300 + failed);
            assert_eq!(decline.verdict(now).is_some(), told, "{failed} of {calls}");
        }
        let grown = decline.verdict(tally(5100, 320)).unwrap();
        assert_eq!(
            grown,
            Grown {
                before: 0.05,
                since: 0.2
            }
        );
    }

    #[test]
    fn where_nothing_failed_a_hundredth_does_and_less_does_not() {
        let decline = Decline::new(tally(1000, 0), Tally::default());
        assert_eq!(decline.verdict(tally(10_000, 99)), None);
        assert!(decline.verdict(tally(10_000, 100)).is_some());
        let unknown = Decline::new(tally(19, 0), Tally::default());
        assert_eq!(
            unknown.verdict(tally(100, 100)),
            None,
            "a sidecar that has just started"
        );
    }

    #[test]
    fn counts_that_begin_anew_are_no_decline() {
        let decline = Decline::new(tally(10, 1), tally(1000, 100));
        assert_eq!(decline.verdict(tally(5, 5)), None);
    }
}
