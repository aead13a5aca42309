//! How the calls do that a policy is for.

use std::collections::BTreeSet;

use jitney_api::push::Kind;
use jitney_core::decline::Tally;

use super::Duty;

impl Duty {
    /// The calls that a policy is for: those to the backends whose callers are to run it or, where there is
    /// no such backend, all that come to this workload.
    pub(super) fn tally(&self, policy: &str) -> Tally {
        let own = self.workload.as_ref().map(ToString::to_string);
        let others = self.assembly.listeners().map(|listener| &listener.backend);
        let others: BTreeSet<&str> = others
            .filter(|backend| Some(*backend) != own.as_ref())
            .map(String::as_str)
            .collect();
        let needs = (Kind::Policy, policy.to_owned());
        let mut outbound = others.clone();
        outbound.retain(|backend| self.assembly.wanted(backend).contains(&needs));
        if outbound.is_empty() {
            return self.metrics.tally(|name| !others.contains(backend_of(name)));
        }
        let named = self.assembly.named(policy);
        outbound.extend(named.iter().map(String::as_str));
        self.metrics.tally(|name| outbound.contains(backend_of(name)))
    }
}

/// The full name of a backend whose calls are counted by this name: one that is reached in a way of its own
/// has that behind it.
fn backend_of(name: &str) -> &str {
    let end = name.match_indices('/').nth(1);
    end.map_or(name, |(end, _)| &name[..end])
}
