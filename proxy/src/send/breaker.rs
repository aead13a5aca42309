//! Keeps calls from endpoints that rest, and tells the core's breaker how each call ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Response;
use jitney_core::breaker::{self, Outcome, Stake};
use jitney_core::policy::CircuitBreaker;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::endpoint::Endpoint;
use super::{Address, is_failure};
use crate::batching::alarm::now;
use crate::body::Body;
use crate::error::{Error, Side};

/// The breaker of one backend.
#[derive(Debug)]
pub(super) struct Breaker {
    pub(super) rules: CircuitBreaker,
    /// For the log.
    addresses: Box<[Address]>,
    state: Mutex<breaker::Breaker>,
    /// Spares calls a search while all endpoints work.
    resting: AtomicUsize,
}

/// A call under way. Dropped before its end was told, it says nothing about the endpoint, unless
/// its deadline has passed.
#[derive(Debug)]
pub(super) struct Watch {
    breaker: Arc<Breaker>,
    at: usize,
    /// `None` once the end was told.
    stake: Option<Stake>,
    deadline: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(rules: CircuitBreaker, endpoints: &[Arc<Endpoint>]) -> Self {
        Self {
            rules,
            addresses: endpoints
                .iter()
                .map(|endpoint| endpoint.address.clone())
                .collect(),
            state: Mutex::new(breaker::Breaker::new(rules, endpoints.len())),
            resting: AtomicUsize::new(0),
        }
    }

    /// Has `pick` choose an endpoint that is not in the list it is given: those tried and those at
    /// rest; when these are all, those tried.
    pub(super) fn choose(
        self: &Arc<Self>,
        tried: &[usize],
        deadline: Option<Instant>,
        pick: impl Fn(&[usize]) -> Result<usize, Error>,
    ) -> Result<(usize, Watch), Error> {
        let watch = |at, stake| Watch {
            breaker: Arc::clone(self),
            at,
            stake: Some(stake),
            deadline,
        };
        if self.resting.load(Ordering::Relaxed) == 0 {
            let at = pick(tried)?;
            return Ok((at, watch(at, Stake::Ordinary)));
        }
        let (now, endpoints) = (now(), self.addresses.len());
        // Held while one is picked, so that only one call is the trial.
        let mut state = self.state.lock();
        let is_out = |at: &usize| tried.contains(at) || !state.may_call(*at, now);
        let out: SmallVec<[usize; 8]> = (0..endpoints).filter(is_out).collect();
        let at = pick(if out.len() < endpoints { &out } else { tried })?;
        let stake = state.begin(at, now);
        Ok((at, watch(at, stake)))
    }

    /// How long an endpoint rests yet.
    pub(super) fn rest_left(&self, at: usize) -> Option<Duration> {
        self.state.lock().rest_left(at, now())
    }

    fn ended(&self, at: usize, stake: Stake, outcome: Outcome) {
        let mut state = self.state.lock();
        let trip = state.ended(at, stake, outcome, now());
        if trip.is_some() || stake == Stake::Trial {
            self.resting.store(state.resting(), Ordering::Relaxed);
        }
        drop(state);
        if let Some(trip) = trip {
            let endpoint = self.addresses.get(at).map(Address::to_string);
            tracing::warn!(endpoint, why = ?trip.why, rest = ?trip.rest, "an endpoint rests, its calls fail");
        }
    }
}

impl Watch {
    /// Tells how the call ended.
    pub(super) fn tell(mut self, sent: &Result<Response<Body>, Error>) {
        self.end(verdict(sent));
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(stake) = self.stake.take() {
            self.breaker.ended(self.at, stake, outcome);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now());
        self.end(if is_late {
            Outcome::Failed
        } else {
            Outcome::Unknown
        });
    }
}

/// What a try says about its endpoint.
pub(super) fn verdict(sent: &Result<Response<Body>, Error>) -> Outcome {
    match sent {
        Ok(reply) if is_failure(reply.status()) => Outcome::Failed,
        Ok(_) => Outcome::Good,
        Err(error) if error.kind().side() == Side::Upstream => Outcome::Failed,
        Err(_) => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests;
