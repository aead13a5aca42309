//! Which endpoint gets a call, and what is learned of each from the calls it got.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use http::HeaderMap;
use jitney_core::bias::Bias;
use jitney_core::policy::LoadBalancer;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use crate::error::{Error, ErrorKind};

/// Chooses among the endpoints of a backend.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    turn: AtomicU64,
    /// Of calls that are tried again. They take no turn from others: with two endpoints, one of which fails, each call
    /// would be given to that one first.
    again: AtomicU64,
}

/// What is learned of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) in_flight: AtomicUsize,
    learned: Mutex<Learned>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Learned {
    /// Seconds to the head of a reply; 0 before the first.
    latency: f64,
    /// Share of calls that failed.
    failing: f64,
    /// When the two were last decayed.
    at: Option<Instant>,
    bias: Bias,
}

/// Over this time an observation loses its weight to 1/e.
const MEMORY_SECONDS: f64 = 10.0;
/// The weight of one failure in the share that fails.
const FAILURE_WEIGHT: f64 = 0.25;
/// A share of failures below which there are none. Beside one of which nothing is known, as of those that get
/// connections only, one with any at all would never be chosen again.
const FORGOTTEN: f64 = 0.01;
/// How many times its latency an endpoint costs when every call to it fails.
const FAILING_COST: f64 = 1000.0;
/// Taken for the latency of an endpoint that only ever failed, in seconds.
const UNKNOWN_LATENCY: f64 = 1.0;
/// Equal in every sidecar, so that all of them send equal values to the same endpoint.
const SEED: u64 = 0x6a69_746e_6579;

impl Balancer {
    /// A number that differs from call to call, for spreading what would come together.
    pub(super) fn random(&self) -> u64 {
        spread(self.again.fetch_add(1, Ordering::Relaxed))
    }

    /// An endpoint that is not among those already tried, or out for other reasons.
    pub(super) fn pick(
        &self,
        by: &LoadBalancer,
        endpoints: &[Arc<Endpoint>],
        headers: Option<&HeaderMap>,
        tried: &[usize],
        is_first: bool,
    ) -> Result<usize, Error> {
        if endpoints.len() == 1 && tried.is_empty() {
            return Ok(0);
        }
        let left = endpoints.len().saturating_sub(tried.len());
        if left == 0 {
            return Err(ErrorKind::NoEndpoint.into());
        }
        if let LoadBalancer::ConsistentHash { header } = by
            && let Some(value) = headers.and_then(|headers| headers.get(header))
        {
            return Ok(rendezvous(endpoints, value.as_bytes(), tried));
        }
        let turn = match is_first {
            true => self.turn.fetch_add(1, Ordering::Relaxed),
            false => self.random(),
        };
        if *by == LoadBalancer::RoundRobin || left == 1 {
            return Ok(nth_untried(bounded(turn, left), tried));
        }
        let random = spread(turn);
        let first = bounded(random >> 32, left);
        let second = (first + 1 + bounded(random & 0xffff_ffff, left - 1)) % left;
        let (first, second) = (nth_untried(first, tried), nth_untried(second, tried));
        let cost = |at: usize| match by {
            LoadBalancer::PeakEwma => endpoints[at].load.cost(),
            // One to be hashed by a field that the call lacks, too.
            LoadBalancer::LeastRequest | LoadBalancer::RoundRobin | LoadBalancer::ConsistentHash { .. } => {
                endpoints[at].load.cost_of_calls()
            }
        };
        Ok(if cost(second) < cost(first) { second } else { first })
    }
}

fn spread(turn: u64) -> u64 {
    FixedState::with_seed(SEED).hash_one(turn)
}

/// `value` modulo `count`.
fn bounded(value: u64, count: usize) -> usize {
    usize::try_from(value % count.max(1) as u64).unwrap_or(0)
}

/// The `nth` index that is not in `tried`.
fn nth_untried(nth: usize, tried: &[usize]) -> usize {
    (0..).filter(|at| !tried.contains(at)).nth(nth).unwrap_or(0)
}

/// Highest random weight: an endpoint that goes moves only its own values.
fn rendezvous(endpoints: &[Arc<Endpoint>], value: &[u8], tried: &[usize]) -> usize {
    let weigh = FixedState::with_seed(SEED);
    let untried = (0..endpoints.len()).filter(|at| !tried.contains(at));
    untried
        .max_by_key(|&at| weigh.hash_one((value, &endpoints[at].target.address)))
        .unwrap_or(0)
}

impl Load {
    /// The time at which a call begins or ends.
    pub(super) fn clock() -> Instant {
        Instant::now()
    }

    pub(super) fn succeeded(&self, began: Instant, now: Instant) {
        let latency = now.saturating_duration_since(began).as_secs_f64();
        let mut learned = self.learned.lock();
        let kept = learned.decay(now);
        learned.latency = if latency >= learned.latency {
            latency
        } else {
            learned.latency.mul_add(kept, latency * (1.0 - kept))
        };
        learned.failing *= 1.0 - FAILURE_WEIGHT;
    }

    pub(super) fn failed(&self) {
        let mut learned = self.learned.lock();
        learned.decay(Instant::now());
        // Its latency says nothing: failing is often fast.
        learned.failing += (1.0 - learned.failing) * FAILURE_WEIGHT;
    }

    /// The endpoint said that it has too much to do. How soon it said so is no measure of its work.
    pub(super) fn spare(&self, wait: Option<Duration>) {
        self.learned.lock().bias.spare(wait, Instant::now().into());
    }

    /// For how long it gets fewer calls because it said so.
    pub(super) fn spared(&self) -> Option<Duration> {
        self.learned.lock().bias.left(Instant::now().into())
    }

    /// Latency and share of failures.
    pub(super) fn averages(&self) -> (Duration, f64) {
        let mut learned = *self.learned.lock();
        // One without calls is forgiven all the same.
        learned.decay(Instant::now());
        (
            Duration::try_from_secs_f64(learned.latency).unwrap_or_default(),
            learned.failing,
        )
    }

    /// What one more call would cost.
    fn cost(&self) -> f64 {
        let mut learned = *self.learned.lock();
        let now = Instant::now();
        learned.decay(now);
        let bias = learned.bias.factor(now.into());
        // Squared: a few per cent of failures, spread over all endpoints, decide nothing.
        let failing = learned.failing * learned.failing;
        let penalty = failing.mul_add(FAILING_COST, 1.0);
        // One that never answered well is tried again when its failures are forgotten.
        let latency = if learned.latency > 0.0 {
            learned.latency
        } else {
            UNKNOWN_LATENCY * failing.max((bias - 1.0).min(1.0))
        };
        latency * penalty * bias * (self.calls() + 1.0)
    }

    /// The same by calls in flight alone.
    fn cost_of_calls(&self) -> f64 {
        let bias = self.learned.lock().bias;
        bias.factor(Instant::now().into()) * (self.calls() + 1.0)
    }

    #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
    fn calls(&self) -> f64 {
        self.in_flight.load(Ordering::Relaxed) as f64
    }
}

impl Learned {
    /// Lets what was learned fade; returns the weight that is left of it.
    fn decay(&mut self, now: Instant) -> f64 {
        let age = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let kept = (-age.as_secs_f64() / MEMORY_SECONDS).exp();
        self.at = Some(now);
        self.failing *= kept;
        if self.failing < FORGOTTEN {
            self.failing = 0.0;
        }
        kept
    }
}

#[cfg(test)]
mod tests;
