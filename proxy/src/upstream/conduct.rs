//! What is remembered of one route: its extra-call budget, its offenders, whether its replies set
//! cookies. Outlives the policy, so that a reload forgives nothing.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use foldhash::fast::RandomState;
use http::HeaderMap;
use jitney_core::Bypass;
use jitney_core::budget::Budget;
use jitney_core::quarantine::{Fingerprint, Quarantine};
use parking_lot::Mutex;

use super::caller;
use crate::batching::alarm::now;
use crate::metrics::RouteMetrics;

/// One route as this process has known it since start.
#[derive(Debug)]
pub struct RouteState {
    /// The route's number: cost models are learned per class.
    pub(crate) class: u32,
    /// Its counts.
    pub metrics: Arc<RouteMetrics>,
    pub(crate) conduct: Mutex<Conduct>,
    /// Set while there may be someone in quarantine: spares the others their fingerprints.
    watched: AtomicBool,
    sets_cookies: AtomicBool,
    /// The document that the route is of, by its hash.
    generation: AtomicU64,
    hasher: RandomState,
}

/// How the route's calls have behaved.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    pub(crate) budget: Budget,
    quarantine: Quarantine,
}

impl RouteState {
    pub(crate) fn new(class: u32, metrics: Arc<RouteMetrics>) -> Self {
        Self {
            class,
            metrics,
            conduct: Mutex::default(),
            watched: AtomicBool::new(false),
            sets_cookies: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            hasher: RandomState::default(),
        }
    }

    /// It is of this document from now on. How batches of another one failed says nothing of it.
    pub(crate) fn is_of(&self, generation: u64) {
        if self.generation.swap(generation, Ordering::Relaxed) != generation {
            self.metrics.trouble.answered();
        }
    }

    /// Counts a call on the route; says whether its reply may not be shared because the route's
    /// replies set cookies.
    pub(crate) fn arrived(&self) -> Option<Bypass> {
        self.conduct.lock().budget.arrived();
        self.sets_cookies
            .load(Ordering::Relaxed)
            .then_some(Bypass::SetCookie)
    }

    /// Leave to send a batch. `None`: too many of the route's batches failed lately to take this one
    /// apart, too, and its members had better travel alone.
    pub(crate) fn cover(self: &Arc<Self>, members: usize) -> Option<Cover> {
        let calls = self.conduct.lock().budget.cover(members as u64)?;
        Some(Cover {
            state: Arc::clone(self),
            calls,
        })
    }

    /// Whether this call has to travel alone because of what its like did before.
    pub(crate) fn held(&self, headers: &HeaderMap, body: &[u8], target: &str, key: &[u8]) -> Option<Bypass> {
        if !self.watched.load(Ordering::Relaxed) {
            return None;
        }
        let key = self.key(key);
        let (body, identity) = (self.body(body, target), self.identity(headers));
        let now = now();
        let mut conduct = self.conduct.lock();
        let quarantine = &mut conduct.quarantine;
        // All of them are asked, since asking counts.
        let held = [quarantine.holds(body, now), quarantine.holds(key, now)];
        let caller = identity.is_some_and(|identity| quarantine.holds(identity, now));
        self.watched.store(!quarantine.is_empty(), Ordering::Relaxed);
        (caller || held.contains(&true)).then_some(Bypass::Quarantined)
    }

    /// This call made a batch fail.
    pub(crate) fn blame(&self, culprit: Culprit) {
        let now = now();
        let mut conduct = self.conduct.lock();
        conduct.quarantine.body_failed(culprit.body, now);
        if let Some(identity) = culprit.identity {
            conduct.quarantine.habit_failed(identity, now);
        }
        self.watched.store(true, Ordering::Relaxed);
        self.metrics.poison_items.inc();
    }

    /// A batch of this key failed although each of its members succeeded alone.
    pub(crate) fn blame_key(&self, key: &[u8]) {
        self.conduct.lock().quarantine.habit_failed(self.key(key), now());
        self.watched.store(true, Ordering::Relaxed);
    }

    /// A batch reply set a cookie: whose, nobody can say.
    pub(crate) fn saw_cookie(&self) {
        if !self.sets_cookies.swap(true, Ordering::Relaxed) {
            tracing::warn!(route = %self.metrics.name(), "a batch reply set a cookie: the route is no longer batched");
        }
    }

    fn key(&self, key: &[u8]) -> Fingerprint {
        self.hasher.hash_one((Kind::Key, key))
    }

    /// The fingerprints of a call that made a batch fail.
    pub(crate) fn culprit(&self, headers: &HeaderMap, body: &[u8], target: &str) -> Culprit {
        Culprit {
            body: self.body(body, target),
            identity: self.identity(headers),
        }
    }

    fn body(&self, body: &[u8], target: &str) -> Fingerprint {
        self.hasher.hash_one((Kind::Body, target, body))
    }

    fn identity(&self, headers: &HeaderMap) -> Option<Fingerprint> {
        caller::print(&self.hasher, headers)
    }
}

/// What is set aside for taking a batch apart; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Cover {
    state: Arc<RouteState>,
    calls: u64,
}

impl Cover {
    /// The batch was served.
    pub(crate) fn served(self) {
        self.state.conduct.lock().budget.served();
    }

    /// Gives it back to be spent. True when there was any.
    pub(crate) const fn spend(&mut self, budget: &mut Budget) -> bool {
        let calls = std::mem::replace(&mut self.calls, 0);
        budget.uncover(calls);
        calls > 0
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        if self.calls > 0 {
            self.state.conduct.lock().budget.uncover(self.calls);
        }
    }
}

/// The fingerprints of a call that made a batch fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Culprit {
    body: Fingerprint,
    identity: Option<Fingerprint>,
}

/// Keeps fingerprints of different things apart.
#[derive(Hash)]
enum Kind {
    Body,
    Key,
}
