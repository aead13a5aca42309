//! Pauses between tries: full jitter, so that a thousand sidecars that lost their control plane at once do
//! not come back at once.

use std::hash::BuildHasher as _;
use std::time::Duration;

use foldhash::fast::RandomState;

/// Grows with each failure, up to a bound.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

impl Backoff {
    /// The pause before the next try: anything up to twice as much as after the failure before, from 100 ms
    /// to 30 s.
    pub(super) fn next(&mut self) -> Duration {
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        most.mul_f64(random())
    }

    /// It went well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// From 0 to 1.
pub(super) fn random() -> f64 {
    // 53 bits are what a double holds.
    (bits() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Any of so many, 0 if there is none.
pub(super) fn any_of(count: usize) -> usize {
    usize::try_from(bits() % count.max(1) as u64).unwrap_or(0)
}

/// Of a hasher's random seed: nobody's secret hangs on it.
fn bits() -> u64 {
    RandomState::default().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_spread_and_stay_within_bounds() {
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let mut backoff = Backoff::default();
            assert!(backoff.next() <= FIRST);
            assert!(backoff.next() <= 2 * FIRST);
            for _ in 0..60 {
                longest = longest.max(backoff.next());
            }
            backoff.reset();
            assert!(backoff.next() <= FIRST);
        }
        assert!(longest <= LONGEST && longest > LONGEST / 2, "{longest:?}");
        let mean = (0..1000).map(|_| random()).sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
