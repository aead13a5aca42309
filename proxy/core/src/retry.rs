//! Whether a call that travelled alone is tried once more, and how many such tries all calls of a
//! backend may have together.

use std::time::Instant;

use http::{Method, StatusCode};

use crate::grpc::Code;
use crate::policy::{OnFailure, Replay, Retry, RetryBudget};
use crate::rate::{Bucket, Rate};
use crate::sliding::Sliding;

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Why there is no reply of the upstream, if there is none.
    pub cause: Cause,
    /// The status that the caller would get.
    pub status: StatusCode,
    /// The code, in a call of gRPC.
    pub code: Option<Code>,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No connection could be made: nothing was sent.
    Unconnected,
    /// The upstream refused the call unread.
    Refused,
    /// The connection ended, or the try took too long.
    Reset,
    /// There is one, or something else went wrong.
    Other,
}

impl Retry {
    /// The leave to repeat a call, of which its route says `replay`: what either of the two declares, unless the
    /// other one forbids it.
    pub fn leave(&self, replay: Replay) -> Replay {
        match (self.replay, replay) {
            (Replay::Never, _) | (_, Replay::Never) => Replay::Never,
            (Replay::Declared, _) | (_, Replay::Declared) => Replay::Declared,
            (Replay::Idempotent, Replay::Idempotent) => Replay::Idempotent,
        }
    }

    /// Whether a call that was sent may be worth another try, as far as can be said before.
    pub fn may_repeat(&self, leave: Replay, method: &Method, is_grpc: bool) -> bool {
        let is_declared = is_grpc && leave != Replay::Never && !self.on.codes.is_empty();
        self.on.refused_stream || is_declared || may_replay(leave, method)
    }

    /// Whether the policy asks for another try, and leave to repeat such a call is given. Whoever names a code of
    /// gRPC, all calls of which are POST, declares that a call that ended with it may be repeated, as in Envoy and
    /// linkerd.
    pub fn is_worth_another(&self, tried: Tried, leave: Replay, method: &Method) -> bool {
        let on = &self.on;
        let (is_named, nothing_ran) = match tried.cause {
            Cause::Unconnected => (on.connect_failure, true),
            Cause::Refused => (on.refused_stream, true),
            Cause::Reset => (on.reset, false),
            Cause::Other => (false, false),
        };
        if tried.code.is_some_and(|code| on.codes.contains(&code)) {
            return nothing_ran || leave != Replay::Never;
        }
        let is_named = is_named || on.statuses.contains(&tried.status);
        is_named && (nothing_ran || may_replay(leave, method))
    }
}

fn may_replay(replay: Replay, method: &Method) -> bool {
    let leave = OnFailure {
        replay,
        ..OnFailure::default()
    };
    leave.may_replay(method)
}

/// The leave that is left for retries: a share of the calls of the last ten seconds, and beyond it
/// a few each second, so that a backend with few calls can be retried at all.
#[derive(Debug)]
pub struct Allowance {
    ratio: f64,
    /// Calls, and of these the retries that were taken from their share.
    recent: Sliding,
    floor: Option<Rate>,
    bucket: Bucket,
}

impl Allowance {
    /// A full allowance.
    pub fn new(budget: RetryBudget) -> Self {
        Self {
            ratio: budget.ratio,
            recent: Sliding::default(),
            floor: (budget.min_per_second > 0).then(|| Rate::per_second(budget.min_per_second.into())),
            bucket: Bucket::default(),
        }
    }

    /// Counts a call, which is no retry.
    pub fn called(&mut self, now: Instant) {
        self.recent.count(now);
    }

    /// Takes leave for one retry.
    pub fn take(&mut self, now: Instant) -> bool {
        let recent = self.recent.counts(now);
        if f64::from(recent.marked) + 1.0 <= self.ratio * f64::from(recent.all) {
            self.recent.mark(now);
            return true;
        }
        self.floor.is_some_and(|rate| self.bucket.take(rate, now).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::RetryOn;
    use crate::tests::start;

    #[test]
    fn only_what_the_policy_names_and_repeating_allows_is_tried_again() {
        let retry = Retry {
            attempts: 2,
            on: RetryOn {
                connect_failure: true,
                reset: true,
                refused_stream: false,
                statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
                codes: Vec::new(),
            },
            budget: RetryBudget::default(),
            replay: Replay::default(),
        };
        let (ok, bad, unavailable) = (
            StatusCode::OK,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
        );
        for (cause, status, replay, method, expected) in [
            (Cause::Other, ok, Replay::Declared, Method::GET, false),
            (Cause::Other, bad, Replay::Declared, Method::GET, false),
            (Cause::Other, unavailable, Replay::Idempotent, Method::GET, true),
            (Cause::Other, unavailable, Replay::Idempotent, Method::POST, false),
            (Cause::Other, unavailable, Replay::Declared, Method::POST, true),
            (Cause::Other, unavailable, Replay::Never, Method::GET, false),
            (Cause::Unconnected, bad, Replay::Never, Method::POST, true),
            (Cause::Refused, bad, Replay::Declared, Method::GET, false),
            (Cause::Reset, bad, Replay::Idempotent, Method::PUT, true),
            (Cause::Reset, bad, Replay::Idempotent, Method::POST, false),
        ] {
            let tried = Tried {
                cause,
                status,
                code: None,
            };
            let found = retry.is_worth_another(tried, replay, &method);
            assert_eq!(found, expected, "{cause:?} {status} {replay:?} {method}");
        }
    }

    #[test]
    fn a_code_is_worth_another_try_where_it_is_named() {
        let retry = Retry {
            attempts: 1,
            on: RetryOn {
                codes: vec![Code::RESOURCE_EXHAUSTED],
                ..RetryOn::default()
            },
            budget: RetryBudget::default(),
            replay: Replay::default(),
        };
        for (code, replay, expected) in [
            (Some(Code::RESOURCE_EXHAUSTED), Replay::Declared, true),
            (Some(Code::RESOURCE_EXHAUSTED), Replay::Idempotent, true),
            (Some(Code::RESOURCE_EXHAUSTED), Replay::Never, false),
            (Some(Code::UNAVAILABLE), Replay::Declared, false),
            (None, Replay::Declared, false),
        ] {
            let tried = Tried {
                cause: Cause::Other,
                status: StatusCode::TOO_MANY_REQUESTS,
                code,
            };
            let found = retry.is_worth_another(tried, replay, &Method::POST);
            assert_eq!(found, expected, "{code:?} {replay:?}");
        }
    }

    #[test]
    fn a_call_is_repeated_by_leave_of_its_route_or_of_the_retry_and_against_neither() {
        use Replay::{Declared, Idempotent, Never};
        for (retry, route, expected) in [
            (Idempotent, Idempotent, Idempotent),
            (Declared, Idempotent, Declared),
            (Idempotent, Declared, Declared),
            (Declared, Never, Never),
            (Never, Declared, Never),
        ] {
            let retry = Retry {
                attempts: 1,
                on: RetryOn::default(),
                budget: RetryBudget::default(),
                replay: retry,
            };
            assert_eq!(retry.leave(route), expected, "{retry:?} {route:?}");
        }
    }

    #[test]
    fn retries_stay_within_the_share_and_the_floor() {
        let (now, budget) = (
            start(),
            RetryBudget {
                ratio: 0.2,
                min_per_second: 10,
            },
        );
        let mut allowance = Allowance::new(budget);
        for _ in 0..100 {
            allowance.called(now);
        }
        assert_eq!((0..1_000).filter(|_| allowance.take(now)).count(), 20 + 10);
        // A minute later the calls are forgotten and the floor is whole again.
        let later = now + Duration::from_secs(60);
        assert_eq!((0..1_000).filter(|_| allowance.take(later)).count(), 10);
        let none = RetryBudget {
            ratio: 0.0,
            min_per_second: 0,
        };
        assert!(!Allowance::new(none).take(now));
    }

    #[test]
    fn an_upstream_that_always_fails_gets_a_fifth_more_and_no_avalanche() {
        let (start, mut allowance) = (start(), Allowance::new(RetryBudget::default()));
        let mut retries = 0;
        for call in 0..60_000 {
            let now = start + Duration::from_millis(call);
            allowance.called(now);
            retries += (0..2).filter(|_| allowance.take(now)).count();
        }
        // 20 % of 60,000 calls and ten in each of 60 seconds.
        assert!((12_500..=12_700).contains(&retries), "{retries} retries");
    }
}
