//! Calls that belong to rules of somebody else's routes, and the policies that are for them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use jitney_core::policy::{Claim as CoreClaim, Claims as CoreClaims, Policy};
use jitney_core::route::RouteMatch as CoreMatch;

use super::Fault;
use crate::RouteMatch;
use crate::compile::{fnv, lone_match};
use crate::push::config;

/// Calls that the policies of their backend are not for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which calls, as it came: what says the same is the same.
    text: Bytes,
    calls: Arc<CoreMatch>,
    /// The policy that is for them; `None`: those of the backend.
    pub(super) policy: Option<String>,
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.policy) == (&other.text, &other.policy)
    }
}

impl Eq for Claim {}

/// Claims as they came, which stand at `field`.
pub(super) fn read(claims: Vec<config::Claim>, field: &str) -> Result<Vec<Claim>, Fault> {
    let claims = claims.into_iter().enumerate();
    let read = claims.map(|(index, claim)| {
        let fault = |below: String, reason: String| Fault {
            field: format!("{field}[{index}].calls{below}"),
            reason,
            missing: None,
            is_beyond: false,
        };
        let calls: RouteMatch =
            serde_json::from_slice(&claim.calls).map_err(|error| fault(String::new(), error.to_string()))?;
        let calls = lone_match(&calls).map_err(|found| fault(format!(".{}", found.field), found.message))?;
        Ok(Claim {
            text: claim.calls,
            calls: calls.into(),
            policy: Some(claim.policy).filter(|policy| !policy.is_empty()),
        })
    });
    read.collect()
}

/// The names of these policies, and after them those that claims are for.
pub(super) fn with_claimants<'a>(
    names: impl IntoIterator<Item = &'a str>,
    claims: &'a [Claim],
) -> Vec<&'a str> {
    let mut all: Vec<&str> = names.into_iter().collect();
    for claimant in claims.iter().filter_map(|claim| claim.policy.as_deref()) {
        if !all.contains(&claimant) {
            all.push(claimant);
        }
    }
    all
}

/// A policy whose routes are for their own calls only. `known` are the policies that it was made of, each with
/// the number of its routes, of which the first `unclaimed` are for what nobody claims. Calls of a policy that
/// is not among them pass through.
pub(super) fn divided(
    policy: &Policy,
    claims: &[Claim],
    known: &[(&str, usize)],
    unclaimed: usize,
) -> Policy {
    let routes_before = |index: usize| known[..index].iter().map(|(_, routes)| routes).sum::<usize>();
    let routes_of = |name: &str| -> Range<usize> {
        let found = known.iter().position(|(known, _)| *known == name);
        found.map_or(0..0, |index| routes_before(index)..routes_before(index + 1))
    };
    let unclaimed = 0..routes_before(unclaimed);
    let claim = |claim: &Claim| CoreClaim {
        calls: Arc::clone(&claim.calls),
        routes: claim
            .policy
            .as_deref()
            .map_or_else(|| unclaimed.clone(), routes_of),
    };
    let mut text = policy.generation.to_le_bytes().to_vec();
    for claim in claims {
        let policy = claim.policy.as_deref().unwrap_or_default();
        let parts = [&claim.text[..], b"\0", policy.as_bytes(), b"\0"];
        text.extend(parts.concat());
    }
    let claims = claims.iter().map(claim).collect();
    let mut divided = policy.clone().with_claims(Some(CoreClaims { claims, unclaimed }));
    divided.generation = fnv(&text);
    divided
}
