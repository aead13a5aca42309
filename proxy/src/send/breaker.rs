//! Keeps calls from endpoints that rest, and tells the core's breaker how each call ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use jitney_core::breaker::{self, Outcome, Stake};
use jitney_core::grpc;
use jitney_core::policy::CircuitBreaker;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::ending::Ending;
use super::endpoint::Endpoint;
use super::silence::Silence;
use super::{Address, is_failure, said};
use crate::batching::alarm::now;
use crate::body::Body;
use crate::error::{Error, Side};

/// The breaker of one backend.
#[derive(Debug)]
pub(super) struct Breaker {
    pub(super) rules: CircuitBreaker,
    state: Mutex<State>,
    /// Spares calls a search while all endpoints work.
    resting: AtomicUsize,
}

#[derive(Debug)]
struct State {
    endpoints: breaker::Breaker,
    /// By number, for the log.
    addresses: Vec<(u64, Address)>,
}

/// A call under way. Dropped before its end was told, it says nothing about the endpoint, unless
/// the endpoint's silence does.
#[derive(Debug)]
pub(super) struct Watch {
    breaker: Arc<Breaker>,
    endpoint: u64,
    /// `None` once the end was told.
    stake: Option<Stake>,
    silence: Silence,
}

impl Breaker {
    pub(super) fn new(rules: CircuitBreaker, endpoints: &[Arc<Endpoint>]) -> Self {
        Self {
            rules,
            state: Mutex::new(State {
                endpoints: breaker::Breaker::new(rules, ids(endpoints)),
                addresses: addresses(endpoints),
            }),
            resting: AtomicUsize::new(0),
        }
    }

    /// Watches these endpoints from now on. Of those that stay it keeps what it knows, for calls under
    /// way, too; how calls to others end means nothing.
    pub(super) fn replace(&self, endpoints: &[Arc<Endpoint>]) {
        let mut state = self.state.lock();
        state.endpoints.replace(ids(endpoints));
        state.addresses = addresses(endpoints);
        self.resting.store(state.endpoints.resting(), Ordering::Relaxed);
    }

    /// Has `pick` choose one of `endpoints` that is not in the list of places it is given: those tried
    /// and those at rest; when these are all, those tried.
    pub(super) fn choose(
        self: &Arc<Self>,
        endpoints: &[Arc<Endpoint>],
        tried: &[usize],
        silence: &Silence,
        pick: impl Fn(&[usize]) -> Result<usize, Error>,
    ) -> Result<(usize, Watch), Error> {
        let watch = |at: usize, stake| Watch {
            breaker: Arc::clone(self),
            endpoint: endpoints[at].id,
            stake: Some(stake),
            silence: silence.clone(),
        };
        if self.resting.load(Ordering::Relaxed) == 0 {
            let at = pick(tried)?;
            return Ok((at, watch(at, Stake::Ordinary)));
        }
        let now = now();
        // Held while one is picked, so that only one call is the trial.
        let mut state = self.state.lock();
        let is_out = |at: &usize| tried.contains(at) || !state.endpoints.may_call(endpoints[*at].id, now);
        let out: SmallVec<[usize; 8]> = (0..endpoints.len()).filter(is_out).collect();
        let at = pick(if out.len() < endpoints.len() { &out } else { tried })?;
        let stake = state.endpoints.begin(endpoints[at].id, now);
        Ok((at, watch(at, stake)))
    }

    /// How long an endpoint rests yet.
    pub(super) fn rest_left(&self, endpoint: u64) -> Option<Duration> {
        self.state.lock().endpoints.rest_left(endpoint, now())
    }

    fn ended(&self, endpoint: u64, stake: Stake, outcome: Outcome) {
        let mut state = self.state.lock();
        let trip = state.endpoints.ended(endpoint, stake, outcome, now());
        if trip.is_some() || stake == Stake::Trial {
            self.resting.store(state.endpoints.resting(), Ordering::Relaxed);
        }
        let Some(trip) = trip else { return };
        let known = state.addresses.iter().find(|(id, _)| *id == endpoint);
        let endpoint = known.map(|(_, address)| address.to_string());
        drop(state);
        tracing::warn!(endpoint, why = ?trip.why, rest = ?trip.rest, "an endpoint rests, its calls fail");
    }
}

impl Watch {
    /// Tells how the call ended; where its reply is still to come, once that has ended. The reply to a trial is not
    /// waited for, lest the endpoint rest for as long as a stream lasts.
    pub(super) fn tell(mut self, sent: &mut Result<Response<Body>, Error>) {
        let outcome = verdict(sent.as_ref().map(said));
        match sent {
            Ok(reply) if outcome == Outcome::Good && self.stake == Some(Stake::Ordinary) => {
                // Silence of the caller's behind the head is nothing that it waits for.
                self.silence.answered();
                reply.body_mut().watch(self);
            }
            _ => self.end(outcome),
        }
    }

    /// The reply, whose head was good, ended so.
    pub(super) fn ended(&mut self, ending: Ending<'_>) {
        self.end(match ending {
            Ending::Whole(Some(trailers)) if is_failure(grpc::status(StatusCode::OK, trailers)) => {
                Outcome::Failed
            }
            Ending::Whole(_) | Ending::Left | Ending::Unread => Outcome::Good,
            // Both sides of a stream may be what lasts too long.
            Ending::Late if self.silence.is_request_open() => Outcome::Unknown,
            Ending::Broken | Ending::Late => Outcome::Failed,
        });
    }

    /// It ended so.
    pub(super) fn end(&mut self, outcome: Outcome) {
        if let Some(stake) = self.stake.take() {
            self.breaker.ended(self.endpoint, stake, outcome);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.stake.is_some() {
            self.end(if self.silence.speaks() {
                Outcome::Failed
            } else {
                Outcome::Unknown
            });
        }
    }
}

/// What a try says about its endpoint.
pub(super) fn verdict(said: Result<StatusCode, &Error>) -> Outcome {
    match said {
        Ok(status) if is_failure(status) => Outcome::Failed,
        Ok(_) => Outcome::Good,
        Err(error) if error.kind().side() == Side::Upstream => Outcome::Failed,
        Err(_) => Outcome::Unknown,
    }
}

fn ids(endpoints: &[Arc<Endpoint>]) -> impl Iterator<Item = u64> {
    endpoints.iter().map(|endpoint| endpoint.id)
}

fn addresses(endpoints: &[Arc<Endpoint>]) -> Vec<(u64, Address)> {
    let address = |endpoint: &Arc<Endpoint>| (endpoint.id, endpoint.target.address.clone());
    endpoints.iter().map(address).collect()
}

#[cfg(test)]
mod tests;
