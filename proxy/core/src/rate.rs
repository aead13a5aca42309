//! How many calls are let through: the generic cell rate algorithm (ITU-T I.371), with one bucket
//! for all calls or one for each caller.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::policy::{RateLimit, RatePer};

/// So many a second; at once, as many as one second brings, but at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time that brings one.
    interval: Duration,
    /// How far ahead of that pace calls may come.
    tolerance: Duration,
}

/// What is left of one rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When the bucket is full again; `None`: it is.
    full: Option<Instant>,
}

/// The rate limit of one backend.
#[derive(Debug)]
pub struct RateLimiter {
    limit: RateLimit,
    rate: Rate,
    /// For everybody, or for those without a bucket of their own.
    shared: Bucket,
    /// Bounded: at [`CALLERS`], newcomers share a bucket.
    callers: HashMap<u64, Bucket, foldhash::fast::FixedState>,
    swept: Option<Instant>,
}

impl Rate {
    /// This many a second; the least is one a year.
    pub fn per_second(count: f64) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / count)
            .unwrap_or(LONGEST)
            .min(LONGEST);
        Self {
            interval,
            tolerance: Duration::from_secs(1).saturating_sub(interval),
        }
    }
}

impl Bucket {
    /// Takes one.
    ///
    /// # Errors
    /// How long until there is one, when there is none.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full = self.full.map_or(now, |full| full.max(now));
        let ahead = full.saturating_duration_since(now);
        if ahead > rate.tolerance {
            return Err(ahead - rate.tolerance);
        }
        self.full = Some(full + rate.interval);
        Ok(())
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full.is_none_or(|full| full <= now)
    }
}

impl RateLimiter {
    /// A limiter that has let nothing through yet.
    pub fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            rate: Rate::per_second(limit.requests_per_second),
            shared: Bucket::default(),
            callers: HashMap::default(),
            swept: None,
        }
    }

    /// The setting it enforces.
    pub const fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Lets a call through. `caller` is a fingerprint of the caller's identity; those without one
    /// share a bucket.
    ///
    /// # Errors
    /// How long until the next call would be let through.
    pub fn admit(&mut self, caller: Option<u64>, now: Instant) -> Result<(), Duration> {
        let bucket = match (self.limit.per, caller) {
            (RatePer::Identity, Some(caller)) if self.has_room_for(caller, now) => {
                self.callers.entry(caller).or_default()
            }
            (RatePer::Backend | RatePer::Identity, _) => &mut self.shared,
        };
        bucket.take(self.rate, now)
    }

    /// True when the caller is known or can be. Forgetting a full bucket changes nothing for anyone.
    fn has_room_for(&mut self, caller: u64, now: Instant) -> bool {
        if self.callers.len() < CALLERS || self.callers.contains_key(&caller) {
            return true;
        }
        // Not with every newcomer: a flood of invented callers must not cost a sweep each.
        let rested = |swept: Instant| now.saturating_duration_since(swept) >= SWEEP;
        if self.swept.is_none_or(rested) {
            self.swept = Some(now);
            self.callers.retain(|_, bucket| !bucket.is_full(now));
        }
        self.callers.len() < CALLERS
    }
}

/// A pace slower than any that is asked for in earnest; keeps sums of instants far from their end.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Callers with a bucket of their own, per backend: some 400 KiB.
const CALLERS: usize = 10_000;

/// The least time between two searches for callers that can be forgotten.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::start;

    fn limiter(requests_per_second: f64, per: RatePer) -> RateLimiter {
        RateLimiter::new(RateLimit {
            requests_per_second,
            per,
        })
    }

    /// Calls of one caller that are let through of `calls`, which come `every` so often.
    fn let_through(limiter: &mut RateLimiter, calls: u32, every: Duration) -> usize {
        let start = start();
        let let_through = (0..calls).filter(|n| limiter.admit(Some(1), start + every * *n).is_ok());
        let_through.count()
    }

    #[test]
    fn a_second_may_come_at_once_and_then_the_pace_holds() {
        for (rate, calls, every_ms, expected) in [
            (5.0, 20, 0, 5),
            (500.0, 1_000, 0, 500),
            (100.0, 1_000, 10, 1_000),
            (100.0, 2_000, 5, 1_099),
            (0.5, 100, 100, 5),
            (1e300, 1_000, 0, 1_000),
            (1e-300, 1_000, 1_000, 1),
        ] {
            let found = let_through(
                &mut limiter(rate, RatePer::Backend),
                calls,
                Duration::from_millis(every_ms),
            );
            assert_eq!(found, expected, "{rate} a second, a call every {every_ms} ms");
        }
    }

    #[test]
    fn the_wait_that_is_told_is_the_wait_that_helps() {
        let (mut limiter, now) = (limiter(2.0, RatePer::Backend), start());
        assert_eq!(
            (limiter.admit(None, now), limiter.admit(None, now)),
            (Ok(()), Ok(()))
        );
        let wait = limiter.admit(None, now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        assert!(limiter.admit(None, now + wait - Duration::from_nanos(1)).is_err());
        assert!(limiter.admit(None, now + wait).is_ok());
    }

    #[test]
    fn callers_do_not_use_up_each_others_budget_unless_they_share_it() {
        let now = start();
        let mut own = limiter(1.0, RatePer::Identity);
        for caller in [Some(1), Some(2), None] {
            assert!(own.admit(caller, now).is_ok());
            assert!(own.admit(caller, now).is_err());
        }
        let mut shared = limiter(1.0, RatePer::Backend);
        assert!(shared.admit(Some(1), now).is_ok());
        assert!(shared.admit(Some(2), now).is_err());
    }

    #[test]
    fn callers_are_bounded_and_those_beyond_share_until_others_are_forgotten() {
        let (mut limiter, now) = (limiter(1.0, RatePer::Identity), start());
        let admitted = (0..50_000)
            .filter(|caller| limiter.admit(Some(*caller), now).is_ok())
            .count();
        assert_eq!((admitted, limiter.callers.len()), (CALLERS + 1, CALLERS));
        let later = now + Duration::from_secs(2);
        assert!(limiter.admit(Some(60_000), later).is_ok());
        assert_eq!(limiter.callers.len(), 1);
    }

    #[test]
    fn time_that_goes_backwards_neither_panics_nor_gives_more() {
        let (mut limiter, now) = (limiter(1.0, RatePer::Backend), start() + Duration::from_secs(9));
        assert!(limiter.admit(None, now).is_ok());
        assert!(limiter.admit(None, now - Duration::from_secs(9)).is_err());
    }
}
