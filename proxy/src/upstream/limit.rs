//! The rate limit of a backend: who a call counts for.

use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use http::HeaderMap;
use jitney_core::policy::{RateLimit, RatePer};
use jitney_core::rate::RateLimiter;
use parking_lot::Mutex;

use super::caller;
use crate::batching::alarm::now;

/// A rate limit in force.
#[derive(Debug)]
pub(super) struct Limit {
    setting: RateLimit,
    limiter: Mutex<RateLimiter>,
    /// Random, so that nobody can choose credentials that use up another caller's budget.
    hasher: RandomState,
}

impl Limit {
    /// The limit of this setting: the one before, when it has the same, so that a reload forgives nothing.
    pub(super) fn of(setting: Option<RateLimit>, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let setting = setting?;
        let known = before.filter(|known| known.setting == setting);
        Some(known.map_or_else(
            || {
                Arc::new(Self {
                    setting,
                    limiter: Mutex::new(RateLimiter::new(setting)),
                    hasher: RandomState::default(),
                })
            },
            Arc::clone,
        ))
    }

    /// Lets a call through.
    ///
    /// # Errors
    /// How long until the next call of its caller would be.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Duration> {
        let caller = match self.setting.per {
            RatePer::Backend => None,
            RatePer::Identity => caller::counted(&self.hasher, headers),
        };
        self.limiter.lock().admit(caller, now())
    }
}
