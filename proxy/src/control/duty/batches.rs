//! Which policies have routes whose batches fail, by the names that the control plane knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use jitney_api::push::config::{BatchFinding, FailingRoute};

/// A finding for each policy, given by name and version, that has such a route. Routes are counted by
/// `policy/route`, and where two policies have one name by `namespace.policy/route`.
pub(super) fn findings<'p>(
    policies: impl Iterator<Item = (&'p str, &'p str)>,
    troubles: &BTreeMap<Arc<str>, String>,
) -> BTreeMap<String, BatchFinding> {
    let mut findings = BTreeMap::new();
    if troubles.is_empty() {
        return findings;
    }
    for (policy, version) in policies {
        let (_, short) = policy.split_once('/').unwrap_or_default();
        let long = policy.replacen('/', ".", 1);
        let routes = troubles.iter().filter_map(|(route, reason)| {
            let (of, name) = route.rsplit_once('/')?;
            (of == short || of == long).then(|| FailingRoute {
                name: name.to_owned(),
                reason: reason.clone(),
            })
        });
        let finding = BatchFinding {
            name: policy.to_owned(),
            version: version.to_owned(),
            routes: routes.take(MOST_ROUTES).collect(),
        };
        if !finding.routes.is_empty() {
            findings.insert(policy.to_owned(), finding);
        }
    }
    findings
}

/// Routes that are told of one policy: more of them say nothing more.
const MOST_ROUTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(policies: &[&str], troubles: &[&str], expected: &[(&str, &[&str])]) {
        let troubles = troubles
            .iter()
            .map(|route| (Arc::from(*route), "why".to_owned()))
            .collect();
        let found = findings(policies.iter().map(|name| (*name, "7")), &troubles);
        let found: Vec<_> = found
            .iter()
            .map(|(name, finding)| {
                let routes = finding.routes.iter().map(|route| route.name.as_str());
                (name.as_str(), routes.collect::<Vec<_>>())
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, routes)| (*name, routes.to_vec()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_route_is_told_of_its_policy() {
        check(&["shop/users", "shop/orders"], &[], &[]);
        check(
            &["shop/users", "shop/orders"],
            &["users/a", "users/b", "others/c"],
            &[("shop/users", &["a", "b"])],
        );
        check(
            &["one/users", "two/users"],
            &["two.users/a"],
            &[("two/users", &["a"])],
        );
    }
}
