//! Admission: how many streams may begin in a second, so that sidecars that all come at once, after a
//! restart, are served one after another instead of all too late.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A token bucket over new streams, which holds two seconds' worth.
#[derive(Debug)]
pub struct Admission {
    per_second: f64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Streams that may begin now.
    room: f64,
    at: Instant,
    /// Until when streams that were sent away have been given a time to come back.
    promised: Instant,
}

impl Admission {
    /// So many streams a second; twice as many at once.
    pub fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        let bucket = Bucket {
            room: per_second * BURST,
            at: now,
            promised: now,
        };
        Self {
            per_second,
            bucket: Mutex::new(bucket),
        }
    }

    /// Lets a stream begin.
    ///
    /// # Errors
    /// When to come back, if there is no room now. Those who are sent away get a place each in the time
    /// to come, so that they do not all return together.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock();
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.room = (bucket.room + passed * self.per_second).min(self.per_second * BURST);
        bucket.at = now;
        if bucket.room >= 1.0 {
            bucket.room -= 1.0;
            return Ok(());
        }
        let place = bucket.promised.max(now) + Duration::from_secs_f64(1.0 / self.per_second);
        // Those for whom there is no place in that time share the later half of it: some who were
        // promised one do not come.
        bucket.promised = if place > now + LONGEST_WAIT {
            now + LONGEST_WAIT / 2
        } else {
            place
        };
        Err(bucket.promised - now)
    }
}

/// Seconds' worth of streams that may begin at once.
const BURST: f64 = 2.0;

/// The longest that a sidecar is told to stay away: as long as its own back-off grows.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_begin_at_the_rate_after_a_burst() {
        let now = Instant::now();
        let admission = Admission::new(10, now);
        let admitted = |at| (0..100).filter(|_| admission.admit(at).is_ok()).count();
        assert_eq!(admitted(now), 20);
        assert_eq!(admitted(now + Duration::from_millis(500)), 5);
        assert_eq!(admitted(now + Duration::from_secs(60)), 20, "no more is saved up");
    }

    #[tokio::test]
    async fn who_is_sent_away_gets_a_place_each() {
        let now = Instant::now();
        let admission = Admission::new(10, now);
        let waits: Vec<Duration> = (0..420).filter_map(|_| admission.admit(now).err()).collect();
        assert_eq!(waits[0], Duration::from_millis(100));
        assert_eq!(waits[1], Duration::from_millis(200));
        assert_eq!(waits[299], Duration::from_secs(30));
        assert_eq!(waits[300], Duration::from_secs(15), "and so on");
        assert_eq!(waits[301], Duration::from_millis(15_100));
        let later = now + Duration::from_secs(90);
        let first_again = (0..50).filter_map(|_| admission.admit(later).err()).next();
        assert_eq!(first_again, Some(Duration::from_millis(100)));
    }
}
