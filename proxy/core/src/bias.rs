//! An endpoint that says it has too much to do gets fewer calls for a while. It is not taken out: who
//! answers 429 still serves what it can, and says for whom it is too much.

use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

/// What an endpoint was heard to say of its load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bias {
    /// When it last asked to be spared, and until when. `None`: it never did.
    spared: Option<(Instant, Instant)>,
}

impl Bias {
    /// The endpoint asks to be spared for so long, or says no time.
    pub fn spare(&mut self, wait: Option<Duration>, now: Instant) {
        let until = now + wait.unwrap_or(UNSAID).clamp(SHORTEST, LONGEST);
        let before = self.spared.map_or(until, |(_, before)| before);
        self.spared = Some((now, until.max(before)));
    }

    /// How many times its cost it costs now: at most 17 times, less and less until its time is over,
    /// so that not all come back at once.
    pub fn factor(&self, now: Instant) -> f64 {
        let Some((from, until)) = self.spared else {
            return 1.0;
        };
        let left = until.saturating_duration_since(now).as_secs_f64();
        let whole = until.saturating_duration_since(from).as_secs_f64();
        if whole > 0.0 {
            MOST.mul_add((left / whole).min(1.0), 1.0)
        } else {
            1.0
        }
    }

    /// For how long it is spared yet; `None`: it is not.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let (_, until) = self.spared?;
        let left = until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

/// True for a status by which an endpoint says that it has too much to do.
pub fn is_plea(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE
}

/// `Retry-After` in seconds; the date form is for callers with a calendar.
pub fn retry_after(reply: &HeaderMap) -> Option<Duration> {
    let seconds = reply.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What is added to the cost of an endpoint that has just asked to be spared, as a multiple of it.
const MOST: f64 = 16.0;
/// For how long one is spared that does not say, as in linkerd's failure accrual.
const UNSAID: Duration = Duration::from_secs(1);
/// `Retry-After: 0` asks for something, too.
const SHORTEST: Duration = Duration::from_millis(100);
/// Nobody talks itself out of its share for longer by one reply.
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::start;

    #[test]
    fn a_plea_is_heeded_for_as_long_as_it_asks_within_bounds() {
        let second = Duration::from_secs(1);
        for (wait, expected) in [
            (None, UNSAID),
            (Some(4 * second), 4 * second),
            (Some(Duration::ZERO), SHORTEST),
            (Some(3600 * second), LONGEST),
        ] {
            let (now, mut bias) = (start(), Bias::default());
            assert_eq!((bias.factor(now), bias.left(now)), (1.0, None));
            bias.spare(wait, now);
            assert_eq!((bias.factor(now), bias.left(now)), (17.0, Some(expected)));
            assert_eq!(bias.factor(now + expected / 2), 9.0);
            let over = now + expected;
            assert_eq!((bias.factor(over), bias.left(over)), (1.0, None));
        }
    }

    #[test]
    fn a_later_plea_never_ends_an_earlier_one() {
        let (now, mut bias) = (start(), Bias::default());
        bias.spare(Some(Duration::from_secs(10)), now);
        bias.spare(None, now + Duration::from_secs(1));
        assert_eq!(bias.left(now), Some(Duration::from_secs(10)));
    }
}
