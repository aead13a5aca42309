//! Watches for a while after a policy changed whether its calls fail more often than before.
//!
//! Each policy has a count of its own, of the calls to what it is for: of two that change together, the one
//! whose calls fail is told, and not the other. Where two are for the same calls, nobody can tell them apart,
//! and both are told.

use std::collections::BTreeMap;
use std::time::Duration;

use jitney_core::decline::{Decline, Grown, Tally};
use tokio::time::Instant;

/// Looks each second for a minute after a change, and not at all otherwise.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// By policy.
    policies: BTreeMap<String, Watched>,
}

#[derive(Debug)]
struct Watched {
    /// The count when it changed last.
    last: Tally,
    present: Option<Present>,
}

#[derive(Clone, Copy, Debug)]
struct Present {
    decline: Decline,
    until: Instant,
    next: Instant,
}

impl Watch {
    /// A policy has changed, now that the count of its calls has come to `tally`.
    pub(super) fn changed(&mut self, policy: &str, tally: Tally, now: Instant) {
        let watched = self.policies.entry(policy.to_owned()).or_insert_with(|| Watched {
            last: Tally::default(),
            present: None,
        });
        let last = std::mem::replace(&mut watched.last, tally);
        // A policy and its routes come one after the other; and a change must not hide what one before it
        // has done.
        if let Some(present) = &mut watched.present
            && present.decline.is_known()
        {
            present.until = now + FOR;
            return;
        }
        watched.present = Some(Present {
            decline: Decline::new(tally.since(last), tally),
            until: now + FOR,
            next: now + EVERY,
        });
    }

    /// Forgets policies that are no more.
    pub(super) fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.policies.retain(|policy, _| exists(policy));
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        let present = self.policies.values().filter_map(|watched| watched.present);
        present.map(|present| present.next).min()
    }

    /// What is to be told, by the count that the calls of each policy have come to: once for each change.
    pub(super) fn look(&mut self, tally: impl Fn(&str) -> Tally, now: Instant) -> Vec<(String, Grown)> {
        let mut told = Vec::new();
        for (policy, watched) in &mut self.policies {
            let Some(present) = &mut watched.present else {
                continue;
            };
            if let Some(grown) = present.decline.verdict(tally(policy)) {
                told.push((policy.clone(), grown));
                watched.present = None;
                continue;
            }
            present.next = now + EVERY;
            if present.next > present.until {
                watched.present = None;
            }
        }
        told
    }
}

const EVERY: Duration = Duration::from_secs(1);
const FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(calls: u64, failed: u64) -> Tally {
        Tally { calls, failed }
    }

    fn is(calls: u64, failed: u64) -> impl Fn(&str) -> Tally {
        move |_| tally(calls, failed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_decline_is_told_once_and_the_watch_ends_by_itself() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        assert_eq!(watch.next(), None, "nothing changed, nobody looks");
        watch.changed("a", tally(1000, 10), now);
        // Its routes come after it.
        watch.changed("a", tally(1001, 10), now + EVERY / 2);
        assert_eq!(watch.look(is(1100, 11), now + EVERY), []);
        let told = watch.look(is(1200, 40), now + 2 * EVERY);
        let [(policy, grown)] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(policy, "a");
        assert!(grown.since > 0.1 && grown.before < 0.011, "{grown:?}");
        assert_eq!(watch.look(is(1300, 140), now + 3 * EVERY), []);
        now += 5 * EVERY;
        watch.changed("a", tally(2000, 200), now);
        let mut looks = 0;
        while let Some(next) = watch.next() {
            now = next;
            assert_eq!(watch.look(is(3000, 210), now), []);
            looks += 1;
        }
        assert_eq!(looks, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_change_together_only_the_one_whose_calls_fail_is_told() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        for policy in ["good", "bad", "gone"] {
            watch.changed(policy, tally(1000, 10), now);
        }
        watch.retain(|policy| policy != "gone");
        let of = |policy: &str| {
            if policy == "good" {
                tally(2000, 20)
            } else {
                tally(1100, 60)
            }
        };
        let told = watch.look(of, now + EVERY);
        let told: Vec<&str> = told.iter().map(|(policy, _)| policy.as_str()).collect();
        assert_eq!(told, ["bad"]);
        assert_eq!(
            watch.next(),
            Some(now + 2 * EVERY),
            "the other is looked at still"
        );
    }
}
