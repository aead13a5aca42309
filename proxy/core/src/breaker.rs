//! Which endpoints of a backend rest because their calls fail: after so many failures in a row, or
//! when too few of the last ten seconds' calls went well. A rest ends with one call on trial; where that has not
//! ended after as long as the rest took, another call is one, too.
//!
//! At most half of the endpoints rest, so a lone one never does: calls that go nowhere help nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::policy::CircuitBreaker;
use crate::sliding::Sliding;

/// The endpoints of one backend, each by a number that no other endpoint ever has: endpoints come and
/// go while calls to them are under way.
#[derive(Debug)]
pub struct Breaker {
    rules: CircuitBreaker,
    /// Invariant: at most half of them rest, and a lone one is not among them.
    endpoints: BTreeMap<u64, Watched>,
}

#[derive(Clone, Debug, Default)]
struct Watched {
    state: State,
    failures_in_a_row: u32,
    /// Calls, and the failed ones of them.
    recent: Sliding,
    /// Rests in a short time, each longer than the one before.
    rests: u32,
    /// How long the last one took.
    rest: Duration,
    /// When the last rest ended well.
    back: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Working,
    Resting {
        until: Instant,
    },
    /// One call finds out whether it is well again.
    OnTrial {
        /// When another may, too: a call may last for as long as its caller likes.
        next: Instant,
    },
}

/// What a call means for its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stake {
    /// One call of many.
    Ordinary,
    /// It decides whether a rest is over.
    Trial,
}

/// How a call ended, as far as its endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint is well.
    Good,
    /// The endpoint is at fault.
    Failed,
    /// It says nothing: its caller left, say.
    Unknown,
}

/// Why an endpoint begins to rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// So many failures in a row.
    InARow(u32),
    /// This share of its calls went well.
    SuccessRate(f64),
    /// It failed on trial.
    Trial,
}

/// An endpoint begins to rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trip {
    /// For how long.
    pub rest: Duration,
    /// Why.
    pub why: Why,
}

impl Breaker {
    /// All of these endpoints work.
    pub fn new(rules: CircuitBreaker, endpoints: impl IntoIterator<Item = u64>) -> Self {
        let mut breaker = Self {
            rules,
            endpoints: BTreeMap::new(),
        };
        breaker.replace(endpoints);
        breaker
    }

    /// Has these be the endpoints. Those that stay keep what is known of them; but when more than half of
    /// all would rest, those work again that have the least left of their rest. A lone endpoint is forgotten.
    pub fn replace(&mut self, endpoints: impl IntoIterator<Item = u64>) {
        let mut before = std::mem::take(&mut self.endpoints);
        self.endpoints = endpoints
            .into_iter()
            .map(|id| (id, before.remove(&id).unwrap_or_default()))
            .collect();
        if self.endpoints.len() == 1 {
            self.endpoints.clear();
        }
        let excess = self.resting().saturating_sub(self.endpoints.len() / 2);
        for _ in 0..excess {
            let resting = self.endpoints.values_mut().filter(|endpoint| endpoint.rests());
            if let Some(first) = resting.min_by_key(|endpoint| endpoint.until()) {
                *first = Watched {
                    rests: first.rests,
                    ..Watched::default()
                };
            }
        }
    }

    /// Endpoints that do not simply work.
    pub fn resting(&self) -> usize {
        self.endpoints
            .values()
            .filter(|endpoint| endpoint.rests())
            .count()
    }

    /// How long an endpoint rests yet; zero while it is on trial or due for it, `None` when it works.
    pub fn rest_left(&self, id: u64, now: Instant) -> Option<Duration> {
        match self.endpoints.get(&id)?.state {
            State::Working => None,
            State::Resting { until } => Some(until.saturating_duration_since(now)),
            State::OnTrial { .. } => Some(Duration::ZERO),
        }
    }

    /// Whether an endpoint may be given a call; true for one that is not watched.
    pub fn may_call(&self, id: u64, now: Instant) -> bool {
        self.endpoints
            .get(&id)
            .is_none_or(|endpoint| !endpoint.rests() || endpoint.is_due(now))
    }

    /// An endpoint is given a call. Say how it ended with [`Breaker::ended`].
    pub fn begin(&mut self, id: u64, now: Instant) -> Stake {
        match self.endpoints.get_mut(&id) {
            Some(endpoint) if endpoint.is_due(now) => {
                endpoint.state = State::OnTrial {
                    next: now + endpoint.rest,
                };
                Stake::Trial
            }
            Some(_) | None => Stake::Ordinary,
        }
    }

    /// A call ended. What it was sent to may be gone by now.
    pub fn ended(&mut self, id: u64, stake: Stake, outcome: Outcome, now: Instant) -> Option<Trip> {
        let base = self.rules.base_ejection_time;
        let endpoint = self.endpoints.get_mut(&id)?;
        match (endpoint.state, stake) {
            (State::Working, _) => {
                let why = endpoint.count(outcome, &self.rules, now)?;
                let has_room = (self.resting() + 1) * 2 <= self.endpoints.len();
                let endpoint = self.endpoints.get_mut(&id).filter(|_| has_room)?;
                Some(endpoint.rest(base, why, now))
            }
            // Of several the first that ends decides.
            (State::OnTrial { .. }, Stake::Trial) => match outcome {
                Outcome::Good => {
                    *endpoint = Watched {
                        rests: endpoint.rests,
                        back: Some(now),
                        ..Watched::default()
                    };
                    None
                }
                Outcome::Failed => Some(endpoint.rest(base, Why::Trial, now)),
                // The next call is the trial.
                Outcome::Unknown => {
                    endpoint.state = State::Resting { until: now };
                    None
                }
            },
            // Sent before the rest began, or because all others had been tried.
            (State::Resting { .. } | State::OnTrial { .. }, _) => None,
        }
    }
}

impl Watched {
    fn rests(&self) -> bool {
        self.state != State::Working
    }

    /// Whether the next call is a trial.
    fn is_due(&self, now: Instant) -> bool {
        match self.state {
            State::Working => false,
            State::Resting { until: due } | State::OnTrial { next: due } => due <= now,
        }
    }

    /// When its rest is over; `None`: it is being tried out, or works.
    const fn until(&self) -> Option<Instant> {
        match self.state {
            State::Resting { until } => Some(until),
            State::Working | State::OnTrial { .. } => None,
        }
    }

    /// Counts a call; says why the endpoint should rest, if it should.
    fn count(&mut self, outcome: Outcome, rules: &CircuitBreaker, now: Instant) -> Option<Why> {
        match outcome {
            Outcome::Unknown => return None,
            Outcome::Good => {
                self.recent.count(now);
                self.failures_in_a_row = 0;
                return None;
            }
            Outcome::Failed => {}
        }
        self.recent.count(now);
        self.recent.mark(now);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if self.failures_in_a_row >= rules.consecutive_failures {
            return Some(Why::InARow(self.failures_in_a_row));
        }
        let recent = self.recent.counts(now);
        let good = 1.0 - f64::from(recent.marked) / f64::from(recent.all.max(1));
        (recent.all >= VOLUME && good < rules.success_rate).then_some(Why::SuccessRate(good))
    }

    /// The first rest is `base`; each that follows soon is twice as long.
    fn rest(&mut self, base: Duration, why: Why, now: Instant) -> Trip {
        if self
            .back
            .is_some_and(|back| now.saturating_duration_since(back) > LONGEST)
        {
            self.rests = 0;
        }
        let longest = LONGEST.max(base);
        let rest = base.saturating_mul(1 << self.rests.min(8)).min(longest);
        self.rests = self.rests.saturating_add(1);
        self.rest = rest;
        self.state = State::Resting { until: now + rest };
        Trip { rest, why }
    }
}

/// The longest rest, as in Envoy, unless the first is longer; an endpoint that works this long begins anew.
const LONGEST: Duration = Duration::from_secs(300);

/// Calls below which their share that went well says too little. With 100, an endpoint of which
/// 6 % of the calls fail falls below 80 % in less than one of a million samples.
const VOLUME: u32 = 100;

#[cfg(test)]
mod tests;
