//! The endpoints of a backend and how calls to them are treated, as both are at one time: a try looks
//! at one roster only, so that places in it mean the same endpoints throughout.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::HeaderMap;
use smallvec::SmallVec;

use super::balance::Balancer;
use super::breaker::Watch;
use super::endpoint::Endpoint;
use super::silence::Silence;
use super::treatment::Treatment;
use super::{OTHER_ENDPOINTS, Target};
use crate::error::Error;

/// The endpoints and their treatment.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Invariant: those of the own zone come first.
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
    /// How many are in the own zone.
    near: usize,
    pub(super) treatment: Treatment,
}

/// The numbers of the endpoints that a call was sent to; places would not outlive their roster.
pub(super) type Tried = SmallVec<[u64; OTHER_ENDPOINTS + 1]>;

impl Roster {
    /// The same treatment of the endpoints at these addresses: those of this roster where it has
    /// them, or else new ones.
    pub(super) fn moved(&self, targets: &[Target], start: impl Fn(&Target) -> Arc<Endpoint>) -> Self {
        let known = self.endpoints.iter();
        let mut known: HashMap<_, _> = known.map(|endpoint| (&endpoint.target, endpoint)).collect();
        let endpoint = |target| known.remove(target).map_or_else(|| start(target), Arc::clone);
        let (mut endpoints, far): (Vec<_>, Vec<_>) = targets
            .iter()
            .map(endpoint)
            .partition(|endpoint| endpoint.is_near);
        let near = endpoints.len();
        endpoints.extend(far);
        Self {
            endpoints: endpoints.into(),
            near,
            treatment: self.treatment.clone(),
        }
    }

    /// The same endpoints, treated so.
    pub(super) fn treated(&self, treatment: Treatment) -> Self {
        Self {
            endpoints: self.endpoints.clone(),
            near: self.near,
            treatment,
        }
    }

    /// The endpoints that `next` no longer has.
    pub(super) fn gone<'r>(&'r self, next: &Self) -> impl Iterator<Item = &'r Arc<Endpoint>> {
        let stay: HashSet<u64> = next.endpoints.iter().map(|endpoint| endpoint.id).collect();
        let endpoints = self.endpoints.iter();
        endpoints.filter(move |endpoint| !stay.contains(&endpoint.id))
    }

    /// An endpoint for the next try, not one of those tried already.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn choose(
        &self,
        balancer: &Balancer,
        headers: Option<&HeaderMap>,
        tried: &Tried,
        silence: &Silence,
    ) -> Result<(Arc<Endpoint>, Option<Watch>), Error> {
        let by = &self.treatment.load_balancer;
        let is_first = tried.is_empty();
        let tried = self.places(tried);
        let pick = |out: &[usize]| match self.near_enough(out, &tried) {
            Some(near) => {
                let out: SmallVec<[usize; 8]> = out.iter().copied().filter(|at| *at < near.len()).collect();
                balancer.pick(by, near, headers, &out, is_first)
            }
            None => balancer.pick(by, &self.endpoints, headers, out, is_first),
        };
        let (at, watch) = match &self.treatment.breaker {
            Some(breaker) if self.endpoints.len() > 1 => {
                let (at, watch) = breaker.choose(&self.endpoints, &tried, silence, pick)?;
                (at, Some(watch))
            }
            // A lone endpoint never rests.
            Some(_) | None => (pick(&tried)?, None),
        };
        Ok((Arc::clone(&self.endpoints[at]), watch))
    }

    /// The endpoints of the own zone, where they come first, at least half of them are fit, and one is
    /// not among those that are out: tried or at rest.
    fn near_enough(&self, out: &[usize], tried: &[usize]) -> Option<&[Arc<Endpoint>]> {
        if !self.treatment.prefers_zone || self.near == 0 {
            return None;
        }
        let zone = &self.endpoints[..self.near];
        let rests = |at: &usize| out.contains(at) && !tried.contains(at);
        let fit = (0..self.near).filter(|at| zone[*at].is_reachable() && !rests(at));
        let half = self.near.div_ceil(2);
        let has_enough = fit.take(half).count() == half;
        let has_one = (0..self.near).any(|at| !out.contains(&at));
        (has_enough && has_one).then_some(zone)
    }

    /// Whether there is an endpoint that was not tried yet.
    pub(super) fn has_untried(&self, tried: &Tried) -> bool {
        let mut endpoints = self.endpoints.iter();
        endpoints.any(|endpoint| !tried.contains(&endpoint.id))
    }

    /// Where those that were tried are here; those that are gone are left out.
    fn places(&self, tried: &Tried) -> SmallVec<[usize; OTHER_ENDPOINTS + 1]> {
        let place = |id: &u64| self.endpoints.iter().position(|endpoint| endpoint.id == *id);
        tried.iter().filter_map(place).collect()
    }
}

#[cfg(test)]
mod tests;
