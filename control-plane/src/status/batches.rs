//! Policies whose batches fail in a sidecar although its calls are answered alone: what one of them says,
//! and what all of them say of a policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use jitney_api::push::Version;
use jitney_api::push::config::FailingRoute;

use super::{A_FEW, REASON_BYTES, cut};
use crate::store::Recipient;

/// What one sidecar says.
#[derive(Clone, Debug, Default)]
pub struct Batches {
    /// By policy: the version of which it speaks, and why batches fail by route.
    policies: BTreeMap<Arc<str>, (Version, BTreeMap<String, String>)>,
}

/// What all sidecars say of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failing {
    /// How many find that its batches fail.
    pub sidecars: usize,
    /// A few of them.
    pub by: Vec<Recipient>,
    /// What one of them says.
    pub reason: String,
}

impl Batches {
    /// Takes the place of what was noted of the policy. At the bounds the rest is left out: whoever says so
    /// much is looked at anyway.
    pub(super) fn note(&mut self, policy: &str, version: Version, routes: &[FailingRoute]) {
        self.policies.remove(policy);
        if routes.is_empty() || self.policies.len() >= MOST_POLICIES {
            return;
        }
        let routes = routes.iter().take(MOST_ROUTES);
        let routes = routes.map(|route| (cut(&route.name, NAME_BYTES), cut(&route.reason, REASON_BYTES)));
        self.policies.insert(policy.into(), (version, routes.collect()));
    }

    /// Routes of a policy's version, and why their batches fail.
    pub(super) fn of(&self, policy: &str, version: Version) -> impl Iterator<Item = (&String, &String)> {
        let of_policy = self.policies.get(policy).filter(|(of, _)| *of == version);
        of_policy.into_iter().flat_map(|(_, routes)| routes)
    }
}

impl Failing {
    /// Another sidecar says so.
    pub(super) fn note(&mut self, by: &Recipient, reason: &str) {
        self.sidecars += 1;
        if self.by.len() < A_FEW {
            self.by.push(by.clone());
        }
        reason.clone_into(&mut self.reason);
    }

    /// Who, and why.
    pub fn text(&self, route: &str) -> String {
        let by: Vec<String> = self.by.iter().map(ToString::to_string).collect();
        let more = self.sidecars.saturating_sub(by.len());
        let more = if more > 0 {
            format!(" and {more} others")
        } else {
            String::new()
        };
        format!(
            "batches of route {route} fail in {}{more}: {}",
            by.join(", "),
            self.reason
        )
    }
}

/// Policies of one sidecar with routes whose batches fail.
const MOST_POLICIES: usize = 64;
/// Routes of one policy.
const MOST_ROUTES: usize = 16;
/// A route's name: as long as a label in DNS.
const NAME_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(names: &[&str]) -> Vec<FailingRoute> {
        let one = |name: &&str| FailingRoute {
            name: (*name).to_owned(),
            reason: "status 404".repeat(1000),
        };
        names.iter().map(one).collect()
    }

    #[test]
    fn the_last_word_about_a_version_counts_within_bounds() {
        let (mut batches, [one, other]) = (Batches::default(), [b"1", b"2"].map(|text| Version::of(text)));
        let of = |batches: &Batches, version| batches.of("shop/users", version).count();
        batches.note("shop/users", one, &routes(&["a", "b"]));
        assert_eq!((of(&batches, one), of(&batches, other)), (2, 0));
        batches.note("shop/users", other, &routes(&["a"]));
        assert_eq!((of(&batches, one), of(&batches, other)), (0, 1));
        let (_, reason) = batches.of("shop/users", other).next().unwrap();
        assert_eq!(reason.len(), REASON_BYTES);
        batches.note("shop/users", other, &[]);
        assert_eq!(of(&batches, other), 0);
        for number in 0..1000 {
            batches.note(&format!("shop/{number}"), one, &routes(&["a"]));
        }
        assert_eq!(batches.policies.len(), MOST_POLICIES);
    }
}
