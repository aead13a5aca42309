//! When to get the next certificate: before this one expires, and soon after another root signs.

use std::time::{Duration, SystemTime};

use super::super::backoff::random;

/// Of one certificate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    /// Jittered: sidecars that started together do not come back together.
    renew_at: SystemTime,
    /// When to take one from the root that signs now, once that is another one.
    switch_at: Option<SystemTime>,
    /// How often that went wrong.
    failures: u32,
}

impl Renewal {
    /// For a certificate that begins here and lasts so long.
    pub(super) fn new(not_before: SystemTime, lifetime: Duration) -> Self {
        Self {
            renew_at: not_before + lifetime.mul_f64(0.63 + 0.14 * random()),
            switch_at: None,
            failures: 0,
        }
    }

    /// It has just come, and ends then. However soon that is, as who signs it may end: it is not asked for again at
    /// once, and again, but when half of what is left has gone by.
    pub(super) fn received(&mut self, not_after: SystemTime, now: SystemTime) {
        let left = not_after.duration_since(now).unwrap_or_default();
        self.renew_at = self.renew_at.max(now + left / 2);
    }

    /// How long it has time, where its root signs no more or signs still.
    pub(super) fn wait(&mut self, is_outdated: bool, now: SystemTime) -> Duration {
        let left = self.renew_at.duration_since(now).unwrap_or_default();
        if !is_outdated {
            (self.switch_at, self.failures) = (None, 0);
            return left;
        }
        let switch_at = *self
            .switch_at
            .get_or_insert_with(|| now + SWITCHING.mul_f64(random()));
        left.min(switch_at.duration_since(now).unwrap_or_default())
    }

    /// It went wrong. Before it expires, of which so much is left, it is tried again several times; where its root
    /// signs no more, within half a minute: the exchange of the root waits for that.
    pub(super) fn failed(&mut self, is_outdated: bool, left: Duration, now: SystemTime) {
        let pause = if is_outdated {
            let most = AGAIN.saturating_mul(1 << self.failures.min(8)).min(AGAIN_MOST);
            self.failures += 1;
            most.mul_f64(0.5 + 0.5 * random())
        } else {
            left.mul_f64(0.05 + 0.05 * random()).max(AGAIN)
        };
        self.renew_at = self.renew_at.max(now + pause);
        self.switch_at = Some(now + pause);
    }

    /// A control plane is there again: it may do what the one before could not.
    pub(super) const fn connected(&mut self) {
        self.switch_at = None;
    }
}

/// All sidecars get a certificate from the new issuer within this time.
const SWITCHING: Duration = Duration::from_secs(10);

/// The longest pause after the first try that went wrong, and the longest of all; the shortest is half of it.
const AGAIN: Duration = Duration::from_secs(10);
const AGAIN_MOST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_certificate_of_a_root_that_signs_no_more_is_renewed_soon_however_often_that_fails() {
        for _ in 0..50 {
            let mut renewal = Renewal::new(now(), DAY);
            assert!(renewal.wait(false, now()) > DAY.mul_f64(0.6));
            assert!(renewal.wait(true, now()) <= SWITCHING);
            for failures in 0..9 {
                renewal.failed(true, DAY, now());
                let most = (AGAIN * (1 << failures)).min(AGAIN_MOST);
                let wait = renewal.wait(true, now());
                assert!(wait <= most && wait >= most / 2, "{failures}: {wait:?}");
            }
            renewal.connected();
            assert!(renewal.wait(true, now()) <= SWITCHING);
            assert!(
                renewal.wait(false, now()) > DAY.mul_f64(0.6),
                "its own time is another matter"
            );
        }
    }

    #[test]
    fn a_certificate_that_has_just_come_is_not_asked_for_again_at_once() {
        let minute = Duration::from_secs(60);
        for left in [minute, 10 * minute, DAY] {
            // It was dated back by five minutes.
            let mut renewal = Renewal::new(now() - 5 * minute, 5 * minute + left);
            renewal.received(now() + left, now());
            let wait = renewal.wait(false, now());
            assert!(wait >= left / 2 && wait < left.mul_f64(0.8), "{left:?}: {wait:?}");
        }
    }

    #[test]
    fn a_certificate_that_is_not_renewed_in_time_is_tried_again_before_it_expires() {
        let mut renewal = Renewal::new(now(), DAY);
        let (late, left) = (now() + DAY.mul_f64(0.8), DAY.mul_f64(0.2));
        assert_eq!(renewal.wait(false, late), Duration::ZERO);
        renewal.failed(false, left, late);
        let wait = renewal.wait(false, late);
        assert!(
            wait >= left.mul_f64(0.05) && wait <= left.mul_f64(0.1),
            "{wait:?}"
        );
        renewal.failed(true, left, late + wait);
        assert!(renewal.wait(true, late + wait) <= AGAIN);
    }
}
