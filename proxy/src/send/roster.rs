//! The endpoints of a backend and how calls to them are treated, as both are at one time: a try looks
//! at one roster only, so that places in it mean the same endpoints throughout.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use smallvec::SmallVec;

use super::balance::Balancer;
use super::breaker::Watch;
use super::endpoint::Endpoint;
use super::treatment::Treatment;
use super::{OTHER_ENDPOINTS, Target};
use crate::error::Error;

/// The endpoints and their treatment.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
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
        Self {
            endpoints: targets.iter().map(endpoint).collect(),
            treatment: self.treatment.clone(),
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
        deadline: Option<Instant>,
    ) -> Result<(Arc<Endpoint>, Option<Watch>), Error> {
        let by = &self.treatment.load_balancer;
        let pick = |out: &[usize]| balancer.pick(by, &self.endpoints, headers, out);
        let tried = self.places(tried);
        let (at, watch) = match &self.treatment.breaker {
            Some(breaker) if self.endpoints.len() > 1 => {
                let (at, watch) = breaker.choose(&self.endpoints, &tried, deadline, pick)?;
                (at, Some(watch))
            }
            // A lone endpoint never rests.
            Some(_) | None => (pick(&tried)?, None),
        };
        Ok((Arc::clone(&self.endpoints[at]), watch))
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
