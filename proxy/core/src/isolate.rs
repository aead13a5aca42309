//! What to do with the members of a batch that failed: fan the failure out, or send them again
//! in smaller groups so that one bad item does not fail its neighbours.

use http::{Method, StatusCode};

use crate::budget::Budget;
use crate::codec::Unsplit;
use crate::policy::{Isolate, OnFailure, Replay};

/// How a batch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The upstream answered the whole batch with this status.
    Status(StatusCode),
    /// The upstream refused the batch in the convention's own words.
    Refused {
        /// True when the refusal proves that no member was executed.
        nothing_ran: bool,
    },
    /// No connection could be made: nothing was sent.
    Unsent,
    /// The connection broke or the time ran out after the batch was sent.
    Broken,
    /// The reply does not fit the members.
    Misfit,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Everyone gets the failure.
    FanOut,
    /// Send two halves.
    Halves,
    /// Send everyone alone.
    Singles,
    /// Send the suspects alone, and the others together.
    Apart,
}

/// A batch that failed.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// How.
    pub failure: Failure,
    /// What the route says about it.
    pub rules: OnFailure,
    /// The members' method.
    pub method: &'a Method,
    /// How many they are.
    pub members: usize,
    /// How many of them the reply lacks although it holds something else.
    pub suspects: usize,
    /// How often the most often sent of them was sent.
    pub sends: u32,
    /// True when the budget was set aside for sending everyone alone.
    pub covered: bool,
}

/// One item is sent at most this often, isolation and replay together.
pub const MOST_SENDS: u32 = 12;

impl Failure {
    /// The failure that an unsplittable reply stands for.
    pub const fn of(unsplit: &Unsplit) -> Self {
        match unsplit {
            Unsplit::Failed(status) => Self::Status(*status),
            Unsplit::Refused { nothing_ran, .. } => Self::Refused {
                nothing_ran: *nothing_ran,
            },
            Unsplit::Count { .. } | Unsplit::Id(_) | Unsplit::Stranger { .. } | Unsplit::Shape(_) => {
                Self::Misfit
            }
        }
    }

    /// True when it is certain that no member was executed.
    const fn nothing_ran(self) -> bool {
        match self {
            Self::Status(status) => {
                matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG)
            }
            Self::Refused { nothing_ran } => nothing_ran,
            Self::Unsent => true,
            Self::Broken | Self::Misfit => false,
        }
    }

    /// True when the upstream answered, and did not take what was merged, as far as that tells: a service
    /// that is down, busy or wants other credentials says the same to every call.
    pub const fn is_of_batch(self) -> bool {
        match self {
            Self::Status(StatusCode::FORBIDDEN | StatusCode::REQUEST_TIMEOUT) => false,
            Self::Status(status) => matches!(status.as_u16(), 400..500) && !self.concerns_all(),
            Self::Refused { .. } | Self::Misfit => true,
            Self::Unsent | Self::Broken => false,
        }
    }

    /// True when a smaller batch may be taken: what the upstream takes is learned.
    pub const fn is_of_size(self) -> bool {
        matches!(
            self,
            Self::Status(StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG)
        )
    }

    /// True when sending again could not change anything for anyone.
    const fn concerns_all(self) -> bool {
        match self {
            // Overload is answered by less load, and all members share their credentials.
            Self::Status(status) => matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::UNAUTHORIZED
                    | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            ),
            Self::Unsent => true,
            Self::Refused { .. } | Self::Broken | Self::Misfit => false,
        }
    }
}

/// Decides about a failed batch, and takes its extra calls from the budget: 2 for halves, one per
/// member for singles, one per suspect and one for the others.
pub fn remedy(case: &Case<'_>, budget: &mut Budget) -> Remedy {
    let Case { failure, rules, .. } = *case;
    if case.members < 2
        || case.sends >= MOST_SENDS
        || failure.concerns_all()
        || rules.isolate == Isolate::None
        || !may_replay(failure, rules, case.method)
    {
        return Remedy::FanOut;
    }
    budget.failed();
    let [members, suspects] = [case.members, case.suspects].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    if (1..members - 1).contains(&suspects) && budget.take(suspects + 1) {
        return Remedy::Apart;
    }
    // A reply that does not fit says nothing about which member is to blame.
    let singles = members == 2 || case.covered || failure == Failure::Misfit;
    if (singles || rules.isolate == Isolate::Singles) && budget.take(members) {
        return Remedy::Singles;
    }
    if rules.isolate == Isolate::Bisect && members > 2 && budget.take(2) {
        return Remedy::Halves;
    }
    Remedy::FanOut
}

/// Whether a member of a batch that failed so may reach the upstream again.
pub fn may_replay(failure: Failure, rules: OnFailure, method: &Method) -> bool {
    rules.may_replay(method) || (failure.nothing_ran() && rules.replay != Replay::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BISECT: OnFailure = OnFailure {
        replay: Replay::Declared,
        isolate: Isolate::Bisect,
    };
    const BAD: Failure = Failure::Status(StatusCode::BAD_REQUEST);

    fn case(failure: Failure, rules: OnFailure, method: &Method, members: usize) -> Case<'_> {
        Case {
            failure,
            rules,
            method,
            members,
            suspects: 0,
            sends: 1,
            covered: false,
        }
    }

    fn fresh(failure: Failure, rules: OnFailure, method: &Method, members: usize) -> Remedy {
        remedy(&case(failure, rules, method, members), &mut Budget::default())
    }

    #[test]
    fn a_bad_item_of_eight_is_found_by_halving_and_the_last_pair_goes_alone() {
        assert_eq!(fresh(BAD, BISECT, &Method::POST, 8), Remedy::Halves);
        assert_eq!(fresh(BAD, BISECT, &Method::POST, 2), Remedy::Singles);
        assert_eq!(fresh(BAD, BISECT, &Method::POST, 1), Remedy::FanOut);
    }

    #[test]
    fn overload_and_refused_credentials_reach_everyone() {
        for status in [429, 503, 401, 407] {
            let failure = Failure::Status(StatusCode::from_u16(status).unwrap());
            assert_eq!(
                fresh(failure, BISECT, &Method::GET, 8),
                Remedy::FanOut,
                "{status}"
            );
        }
    }

    #[test]
    fn a_reply_that_does_not_fit_is_replayed_alone() {
        assert_eq!(fresh(Failure::Misfit, BISECT, &Method::GET, 8), Remedy::Singles);
    }

    #[test]
    fn never_means_never_and_idempotent_goes_by_method_or_proof() {
        let never = OnFailure {
            replay: Replay::Never,
            ..BISECT
        };
        let idempotent = OnFailure {
            replay: Replay::Idempotent,
            ..BISECT
        };
        assert_eq!(fresh(BAD, never, &Method::GET, 8), Remedy::FanOut);
        assert_eq!(fresh(BAD, idempotent, &Method::GET, 8), Remedy::Halves);
        assert_eq!(fresh(BAD, idempotent, &Method::POST, 8), Remedy::FanOut);
        let proof = Failure::Refused { nothing_ran: true };
        assert_eq!(fresh(proof, idempotent, &Method::POST, 8), Remedy::Halves);
        let large = Failure::Status(StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(fresh(large, idempotent, &Method::POST, 8), Remedy::Halves);
        assert_eq!(fresh(large, never, &Method::POST, 8), Remedy::FanOut);
    }

    #[test]
    fn without_budget_the_failure_reaches_everyone() {
        let mut budget = Budget::default();
        while budget.take(1) {}
        let case = case(BAD, BISECT, &Method::GET, 8);
        assert_eq!(remedy(&case, &mut budget), Remedy::FanOut);
    }

    #[test]
    fn one_item_is_sent_twelve_times_at_most() {
        let case = Case {
            sends: MOST_SENDS,
            ..case(BAD, BISECT, &Method::GET, 8)
        };
        assert_eq!(remedy(&case, &mut Budget::default()), Remedy::FanOut);
    }

    #[test]
    fn suspects_go_alone_and_the_others_together() {
        let suspects = |suspects| Case {
            suspects,
            ..case(Failure::Misfit, BISECT, &Method::GET, 8)
        };
        let mut budget = Budget::default();
        assert_eq!(remedy(&suspects(2), &mut budget), Remedy::Apart);
        assert_eq!(budget.extra(), 3);
        for all in [0, 7, 8] {
            let remedy = remedy(&suspects(all), &mut Budget::default());
            assert_eq!(remedy, Remedy::Singles, "{all} of 8 suspects");
        }
    }

    #[test]
    fn what_is_covered_is_taken_apart_at_once() {
        let covered = Case {
            covered: true,
            ..case(BAD, BISECT, &Method::GET, 8)
        };
        assert_eq!(remedy(&covered, &mut Budget::default()), Remedy::Singles);
    }

    #[test]
    fn a_reply_that_does_not_fit_is_halved_when_singles_are_too_dear() {
        let wide = case(Failure::Misfit, BISECT, &Method::GET, 65);
        assert_eq!(remedy(&wide, &mut Budget::default()), Remedy::Halves);
    }
}
