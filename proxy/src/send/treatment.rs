//! What a policy says of a backend's traffic, with what was learned under it.

use std::sync::Arc;

use jitney_core::policy::{LoadBalancer, Traffic};

use super::again::Retries;
use super::breaker::Breaker;
use super::endpoint::Endpoint;

/// How the calls to a backend are treated.
#[derive(Clone, Debug, Default)]
pub(super) struct Treatment {
    pub(super) load_balancer: LoadBalancer,
    pub(super) prefers_zone: bool,
    pub(super) retries: Option<Arc<Retries>>,
    pub(super) breaker: Option<Arc<Breaker>>,
}

impl Treatment {
    /// The treatment by these settings. A part whose settings are those of `before` is taken over.
    pub(super) fn of(traffic: &Traffic, endpoints: &[Arc<Endpoint>], before: &Self) -> Self {
        let retries = traffic.retry.as_ref().map(|rules| {
            let known = before.retries.as_ref().filter(|known| known.rules == *rules);
            known.map_or_else(|| Arc::new(Retries::new(rules.clone())), Arc::clone)
        });
        let breaker = traffic.circuit_breaker.map(|rules| {
            let known = before.breaker.as_ref().filter(|known| known.rules == rules);
            known.map_or_else(|| Arc::new(Breaker::new(rules, endpoints)), Arc::clone)
        });
        Self {
            load_balancer: traffic.load_balancer.clone(),
            prefers_zone: traffic.prefers_zone,
            retries,
            breaker,
        }
    }
}
