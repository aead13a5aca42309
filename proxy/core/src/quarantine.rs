//! Who made batches fail again and again, and so travels alone for a while.
//!
//! An offender is a body or a caller identity, never a route: one bad caller must not take
//! batching away from the others. Callers without credentials have no identity here. A batch key
//! is held only when most of its batches fail although every member succeeds alone: then the
//! upstream does not take such batches at all.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A fingerprint of a body or of an identity. A collision only sends a call alone.
pub type Fingerprint = u64;

/// The offenders of one route. Bounded: the oldest entry makes room.
#[derive(Debug, Default)]
pub struct Quarantine {
    offenders: HashMap<Fingerprint, Offender, foldhash::fast::FixedState>,
}

#[derive(Clone, Copy, Debug)]
struct Offender {
    offences: u32,
    /// Calls seen of it since its first offence, so that a busy caller with few bad calls stays free.
    calls: u32,
    last: Instant,
    until: Option<Instant>,
}

impl Quarantine {
    /// True when nobody is watched, so that the hot path need not make a fingerprint.
    pub fn is_empty(&self) -> bool {
        self.offenders.is_empty()
    }

    /// Whether the holder of this fingerprint travels alone now; counts the call.
    pub fn holds(&mut self, who: Fingerprint, now: Instant) -> bool {
        let Some(offender) = self.offenders.get_mut(&who) else {
            return false;
        };
        offender.calls = offender.calls.saturating_add(1);
        match offender.until {
            Some(until) if now < until => true,
            Some(_) => {
                self.offenders.remove(&who);
                false
            }
            None if now.saturating_duration_since(offender.last) > MEMORY => {
                self.offenders.remove(&who);
                false
            }
            None => false,
        }
    }

    /// Notes that this body made a batch fail: the second time within `MEMORY` it is held.
    pub fn body_failed(&mut self, who: Fingerprint, now: Instant) {
        let offender = self.offence(who, now);
        if offender.offences >= BODY_OFFENCES {
            offender.until = Some(now + TERM);
        }
    }

    /// Notes that a call of this identity, or a batch of this key, failed: it is held once that is
    /// a habit, at least `HABIT` times and for more than a quarter of its calls or batches.
    pub fn habit_failed(&mut self, who: Fingerprint, now: Instant) {
        let offender = self.offence(who, now);
        if offender.offences >= HABIT && offender.offences.saturating_mul(4) > offender.calls {
            offender.until = Some(now + TERM);
        }
    }

    fn offence(&mut self, who: Fingerprint, now: Instant) -> &mut Offender {
        if self.offenders.len() >= CAPACITY && !self.offenders.contains_key(&who) {
            self.forget_oldest(now);
        }
        let fresh = Offender {
            offences: 0,
            calls: 0,
            last: now,
            until: None,
        };
        let offender = self.offenders.entry(who).or_insert(fresh);
        if now.saturating_duration_since(offender.last) > MEMORY {
            *offender = fresh;
        }
        offender.offences = offender.offences.saturating_add(1);
        offender.last = now;
        offender
    }

    fn forget_oldest(&mut self, now: Instant) {
        self.offenders
            .retain(|_, o| now.saturating_duration_since(o.last) <= MEMORY);
        if self.offenders.len() < CAPACITY {
            return;
        }
        if let Some(oldest) = self
            .offenders
            .iter()
            .min_by_key(|(_, o)| o.last)
            .map(|(who, _)| *who)
        {
            self.offenders.remove(&oldest);
        }
    }
}

/// How long an offence is remembered.
const MEMORY: Duration = Duration::from_secs(60);

/// How long a repeat offender travels alone.
const TERM: Duration = Duration::from_secs(30);

/// A body that failed twice fails by itself.
const BODY_OFFENCES: u32 = 2;

/// What is not bad by itself is held only after this many offences.
const HABIT: u32 = 4;

/// Offenders watched at once, per route.
const CAPACITY: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::start;

    #[test]
    fn a_body_is_held_from_its_second_offence_for_a_term() {
        let (mut q, t) = (Quarantine::default(), start());
        q.body_failed(7, t);
        assert!(!q.holds(7, t));
        q.body_failed(7, t);
        assert!(q.holds(7, t));
        assert!(!q.holds(8, t));
        assert!(!q.holds(7, t + TERM));
        assert!(q.is_empty());
    }

    #[test]
    fn a_busy_identity_with_few_bad_calls_stays_free() {
        let (mut q, t) = (Quarantine::default(), start());
        for _ in 0..100 {
            q.habit_failed(1, t);
            for _ in 0..15 {
                assert!(!q.holds(1, t));
            }
        }
    }

    #[test]
    fn an_identity_whose_calls_mostly_fail_is_held() {
        let (mut q, t) = (Quarantine::default(), start());
        for _ in 0..HABIT {
            assert!(!q.holds(1, t));
            q.habit_failed(1, t);
        }
        assert!(q.holds(1, t));
    }

    #[test]
    fn old_offences_are_forgotten() {
        let (mut q, t) = (Quarantine::default(), start());
        q.body_failed(7, t);
        q.body_failed(7, t + MEMORY + Duration::from_secs(1));
        assert!(!q.holds(7, t + MEMORY + Duration::from_secs(1)));
    }

    #[test]
    fn the_number_of_watched_offenders_is_bounded() {
        let (mut q, t) = (Quarantine::default(), start());
        for who in 0..10_000 {
            q.body_failed(who, t);
        }
        assert!(q.offenders.len() <= CAPACITY);
    }
}
