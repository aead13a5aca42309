//! Calls that only some of a policy's routes are for: those that belong to a rule of somebody else's, as of an
//! HTTPRoute. Whose a call is comes before what becomes of it, so that no route takes what belongs elsewhere.

use std::ops::Range;
use std::sync::Arc;

use crate::route::{Head, RouteMatch};

/// Calls, and the routes that are for them.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which calls.
    pub calls: Arc<RouteMatch>,
    /// Indexes of the routes that are for them; none: they pass through.
    pub routes: Range<usize>,
}

/// Which routes are for which calls.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The first that fits a call has it.
    pub claims: Arc<[Claim]>,
    /// Indexes of the routes for the calls that nobody claims.
    pub unclaimed: Range<usize>,
}

impl Claims {
    /// Indexes of the routes that are for a call.
    #[inline]
    pub(super) fn of(&self, head: &Head<'_>) -> Range<usize> {
        let mut claims = self.claims.iter();
        let first = claims.find(|claim| claim.calls.fits(head));
        first.map_or(&self.unclaimed, |claim| &claim.routes).clone()
    }
}
