//! What sidecars notice about the policies that they run: whether calls fail more often since.
//!
//! Kept for the present version of each policy, and only shown here; a staged rollout stops by them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use jitney_api::Workload;
use jitney_api::push::Version;
use parking_lot::Mutex;

/// What was noticed, by policy.
#[derive(Debug, Default)]
pub struct Findings {
    policies: Mutex<BTreeMap<Arc<str>, Policy>>,
}

#[derive(Debug)]
struct Policy {
    version: Version,
    /// The last of each connection, the oldest first.
    found: VecDeque<(u64, Found)>,
}

/// What one sidecar noticed about a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Whose sidecar it is.
    pub workload: Workload,
    /// When it said so.
    pub at: SystemTime,
    /// The share of calls that failed before the version was applied, 0 to 1.
    pub before: f64,
    /// The share since.
    pub since: f64,
}

impl Findings {
    /// Notes what the sidecar of a connection has found about a version. What was found about another
    /// version of the policy is forgotten; of one version the last 1,024 sidecars are remembered.
    pub fn note(&self, policy: &Arc<str>, version: Version, connection: u64, found: Found) {
        let mut policies = self.policies.lock();
        let of_policy = policies.entry(Arc::clone(policy)).or_insert_with(|| Policy {
            version,
            found: VecDeque::new(),
        });
        if of_policy.version != version {
            of_policy.version = version;
            of_policy.found.clear();
        }
        of_policy.found.retain(|(other, _)| *other != connection);
        if of_policy.found.len() >= MOST_FOUND {
            of_policy.found.pop_front();
        }
        of_policy.found.push_back((connection, found));
    }

    /// Forgets policies that are no more.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.policies.lock().retain(|name, _| exists(name));
    }

    /// What was found about a version of a policy, the oldest first.
    pub fn of(&self, policy: &str, version: Version) -> Vec<Found> {
        let policies = self.policies.lock();
        let of_policy = policies.get(policy).filter(|one| one.version == version);
        let found = of_policy.into_iter().flat_map(|one| &one.found);
        found.map(|(_, found)| found.clone()).collect()
    }
}

/// Findings remembered of one policy: more of them say nothing more.
const MOST_FOUND: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn found(since: f64) -> Found {
        Found {
            workload: Workload {
                namespace: "shop".into(),
                account: "users".into(),
            },
            at: SystemTime::UNIX_EPOCH,
            before: 0.01,
            since,
        }
    }

    #[test]
    fn the_last_of_each_sidecar_about_the_present_version() {
        let (findings, policy) = (Findings::default(), "shop/users".into());
        let [one, other] = [b"1", b"2"].map(|content| Version::of(content));
        findings.note(&policy, one, 1, found(0.1));
        findings.note(&policy, one, 2, found(0.2));
        findings.note(&policy, one, 1, found(0.3));
        assert_eq!(findings.of("shop/users", one), [found(0.2), found(0.3)]);
        findings.note(&policy, other, 1, found(0.4));
        assert_eq!(findings.of("shop/users", one), []);
        assert_eq!(findings.of("shop/users", other), [found(0.4)]);
        for connection in 0..2000 {
            findings.note(&policy, other, connection, found(0.5));
        }
        assert_eq!(findings.of("shop/users", other).len(), MOST_FOUND);
        findings.retain(|name| name != "shop/users");
        assert_eq!(findings.of("shop/users", other), []);
    }
}
