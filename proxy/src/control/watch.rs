//! Watches for a while after a policy changed whether calls fail more often than before.

use std::collections::BTreeSet;
use std::time::Duration;

use jitney_core::decline::{Decline, Grown, Tally};
use tokio::time::Instant;

/// Looks each second for a minute after a change, and not at all otherwise.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The count when something changed last.
    last: Tally,
    present: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    policies: BTreeSet<String>,
    decline: Decline,
    until: Instant,
    next: Instant,
}

impl Watch {
    /// Policies have changed, now that the count has come to `tally`.
    pub(super) fn changed(&mut self, policies: BTreeSet<String>, tally: Tally, now: Instant) {
        if policies.is_empty() {
            return;
        }
        // A policy and its routes come one after the other; and a change must not hide what one before it
        // has done.
        let present = self.present.as_mut();
        if let Some(present) = present.filter(|present| present.decline.is_known()) {
            present.policies.extend(policies);
            present.until = now + FOR;
            self.last = tally;
            return;
        }
        self.present = Some(Watched {
            policies,
            decline: Decline::new(tally.since(self.last), tally),
            until: now + FOR,
            next: now + EVERY,
        });
        self.last = tally;
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.present.as_ref().map(|present| present.next)
    }

    /// What is to be told, now that the count has come to `tally`: once for each change.
    pub(super) fn look(&mut self, tally: Tally, now: Instant) -> Option<(BTreeSet<String>, Grown)> {
        let present = self.present.as_mut()?;
        if let Some(grown) = present.decline.verdict(tally) {
            let policies = std::mem::take(&mut present.policies);
            self.present = None;
            return Some((policies, grown));
        }
        present.next = now + EVERY;
        if present.next > present.until {
            self.present = None;
        }
        None
    }
}

const EVERY: Duration = Duration::from_secs(1);
const FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(name: &str) -> BTreeSet<String> {
        BTreeSet::from([name.to_owned()])
    }

    fn tally(calls: u64, failed: u64) -> Tally {
        Tally { calls, failed }
    }

    #[tokio::test(start_paused = true)]
    async fn a_decline_is_told_once_and_the_watch_ends_by_itself() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        assert_eq!(watch.next(), None, "nothing changed, nobody looks");
        watch.changed(BTreeSet::new(), tally(1, 0), now);
        assert_eq!(watch.next(), None);
        watch.changed(policies("a"), tally(1000, 10), now);
        watch.changed(policies("b"), tally(1001, 10), now + EVERY / 2);
        assert_eq!(watch.look(tally(1100, 11), now + EVERY), None);
        let (told, grown) = watch.look(tally(1200, 40), now + 2 * EVERY).unwrap();
        assert_eq!(told, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(grown.since > 0.1 && grown.before < 0.011, "{grown:?}");
        assert_eq!(watch.look(tally(1300, 140), now + 3 * EVERY), None);
        now += 5 * EVERY;
        watch.changed(policies("a"), tally(2000, 200), now);
        let mut looks = 0;
        while let Some(next) = watch.next() {
            now = next;
            assert_eq!(watch.look(tally(3000, 210), now), None);
            looks += 1;
        }
        assert_eq!(looks, 60);
    }
}
