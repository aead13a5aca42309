//! The effective policy of one backend: an immutable list of routes and how its traffic is
//! treated. It is replaced as a whole, never changed.

mod claims;
mod detour;
mod explain;
mod traffic;

use std::sync::Arc;

use crate::route::{Head, Matched, Route};

pub use claims::{Claim, Claims};
pub use detour::{BackendRef, Detours, Faults, Injected, Mirror, Share, Split};
pub use explain::{Explanation, Verdict, explain};
pub use traffic::{
    AdaptiveConcurrency, CircuitBreaker, LoadBalancer, RateLimit, RatePer, Retry, RetryBudget, RetryOn,
    Timeouts, Traffic,
};

/// Whether a route merges calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Calls are merged.
    #[default]
    Active,
    /// Batches are formed and reported, and every call is sent alone.
    Shadow,
    /// Every call is forwarded untouched.
    Disabled,
}

impl Mode {
    /// The word of the policy file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Shadow => "Shadow",
            Self::Disabled => "Disabled",
        }
    }
}

/// When a call may reach the upstream a second time after a batch failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Replay {
    /// No item reaches the upstream twice, whatever happened.
    Never,
    /// Calls whose method is idempotent (RFC 9110 section 9.2.2).
    #[default]
    Idempotent,
    /// Every call of the route: its author declares that repeating one does no harm.
    Declared,
}

/// How the bad item of a failed batch is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolate {
    /// By halves, within the extra-call budget.
    #[default]
    Bisect,
    /// Every member is sent alone.
    Singles,
    /// It is not: the failure goes to every member.
    None,
}

/// What happens when a batch fails as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OnFailure {
    /// Which calls may be sent again.
    pub replay: Replay,
    /// How they are sent again.
    pub isolate: Isolate,
}

impl OnFailure {
    /// True when a call of `method` may be sent a second time.
    pub fn may_replay(self, method: &http::Method) -> bool {
        match self.replay {
            Replay::Never => false,
            Replay::Idempotent => method.is_idempotent(),
            Replay::Declared => true,
        }
    }
}

/// The effective policy of one backend.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// A content hash of everything in the policy: equal policies have equal generations.
    pub generation: u64,
    /// How the backend's traffic is treated, batched or not.
    pub traffic: Traffic,
    routes: Box<[Arc<Route>]>,
    /// `None`: every route is for every call.
    claims: Option<Claims>,
}

impl Policy {
    /// A policy of these routes, tried in this order.
    pub fn new(generation: u64, traffic: Traffic, routes: Vec<Arc<Route>>) -> Self {
        Self {
            generation,
            traffic,
            routes: routes.into(),
            claims: None,
        }
    }

    /// The same routes, each for those calls only that these say. The generation is to tell of them, too.
    pub fn with_claims(self, claims: Option<Claims>) -> Self {
        Self { claims, ..self }
    }

    /// Which routes are for which calls; `None`: every route is for every call.
    pub const fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    /// The first route that matches, of those that are for the call; `None`: the call passes through.
    #[inline]
    pub fn route<'p, 'u>(&'p self, head: &Head<'u>) -> Option<Matched<'p, 'u>> {
        let routes = match &self.claims {
            None => &*self.routes,
            Some(claims) => self.routes.get(claims.of(head)).unwrap_or_default(),
        };
        routes.iter().find_map(|route| {
            let captures = route.captures(head)?;
            Some(Matched { route, captures })
        })
    }

    /// The routes in the order they are tried; a route's index is its [`RouteId`](crate::route::RouteId).
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

#[cfg(test)]
mod tests;
