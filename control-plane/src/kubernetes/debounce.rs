//! When changes go out: once nothing more has come for a moment, and soon in any case.

use std::time::Duration;

use tokio::time::Instant;

/// How urgent a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    /// Somebody has edited a document, and may edit another one.
    Edit,
    /// An address has come or gone: calls go wrong until that is known.
    Address,
}

/// Changes that have not gone out: of each pace, when the first and the last of them came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Debounce([Option<(Instant, Instant)>; 2]);

impl Pace {
    /// How long nothing may come, and how long the first change may wait.
    const fn bounds(self) -> (Duration, Duration) {
        match self {
            Self::Edit => (Duration::from_millis(100), Duration::from_secs(1)),
            Self::Address => (Duration::from_millis(10), Duration::from_millis(100)),
        }
    }
}

impl Debounce {
    /// Something has changed.
    pub(super) fn note(&mut self, pace: Pace, now: Instant) {
        let waiting = &mut self.0[pace as usize];
        let first = waiting.map_or(now, |(first, _)| first);
        *waiting = Some((first, now));
    }

    /// When they are to go out, all together; `None` when there are none.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = |pace: Pace| {
            let (first, last) = self.0[pace as usize]?;
            let (quiet, most) = pace.bounds();
            Some((last + quiet).min(first + most))
        };
        [Pace::Edit, Pace::Address].into_iter().filter_map(due).min()
    }

    /// They go out: since when the first of them waits.
    pub(super) fn take(&mut self) -> Option<Instant> {
        let waiting = std::mem::take(&mut self.0).into_iter().flatten();
        waiting.map(|(first, _)| first).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn changes_wait_for_quiet_and_not_for_long() {
        let (start, mut debounce) = (Instant::now(), Debounce::default());
        assert_eq!(debounce.due(), None);
        for millis in (0..=95).step_by(5) {
            debounce.note(Pace::Address, after(start, millis));
            assert_eq!(debounce.due(), Some(after(start, (millis + 10).min(100))));
        }
        assert_eq!(debounce.take(), Some(start));
        assert_eq!(debounce.due(), None);
    }

    #[test]
    fn what_is_urgent_takes_the_rest_along() {
        let (start, mut debounce) = (Instant::now(), Debounce::default());
        debounce.note(Pace::Edit, start);
        assert_eq!(debounce.due(), Some(after(start, 100)));
        debounce.note(Pace::Address, after(start, 20));
        assert_eq!(debounce.due(), Some(after(start, 30)));
        debounce.note(Pace::Edit, after(start, 25));
        assert_eq!(debounce.due(), Some(after(start, 30)));
        assert_eq!(debounce.take(), Some(start));
        assert_eq!(debounce.due(), None);
    }
}
