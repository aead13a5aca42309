//! Whose a port of a pod is where several services lead to it. Its sidecar cannot tell by which of them a call
//! came, so one of their policies has the port whole, by the same precedence as a target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Conflict, Contender, Precedence};
use crate::push::catalog::Catalog;
use crate::push::place::Place;

/// Who has the ports of pods, of those policies that callees' sidecars run for a service as a whole.
#[derive(Debug, Default)]
pub(in crate::push) struct PodPorts<'a> {
    holders: BTreeMap<PodPort<'a>, &'a str>,
    /// The pods of which a policy has a port, by its name.
    pods: BTreeMap<&'a str, BTreeSet<&'a Arc<str>>>,
    /// Policies that have a service, and not all of the ports that it leads to.
    pub(in crate::push) conflicts: Vec<Conflict>,
}

/// A sidecar, and a port of its pod.
type PodPort<'a> = (&'a Arc<str>, u16);

/// A policy and the service by which it is for a port.
type Entrant<'a> = (&'a Place, &'a Contender<'a>);

/// What a service leads to, and what of that its policy does not have.
#[derive(Debug, Default)]
struct Share<'a> {
    ports: usize,
    lost: usize,
    /// Who has it, with one of the ports, by policy.
    winners: BTreeMap<&'a str, (u16, Entrant<'a>)>,
}

impl<'a> PodPorts<'a> {
    /// The policy that has a port of a pod.
    pub(in crate::push) fn holder(&self, sidecar: &Arc<str>, port: u16) -> Option<&'a str> {
        self.holders.get(&(sidecar, port)).copied()
    }

    /// The sidecars that run a policy on a port at least.
    pub(in crate::push) fn sidecars(&self, policy: &str) -> impl Iterator<Item = &'a Arc<str>> {
        self.pods.get(policy).into_iter().flatten().copied()
    }

    fn of(entrants: &BTreeMap<PodPort<'a>, Vec<Entrant<'a>>>) -> Self {
        let mut found = Self::default();
        let mut shares = BTreeMap::<&Place, (&Contender<'_>, Share<'_>)>::new();
        for (pod_port, entrants) in entrants {
            let first = entrants
                .iter()
                .min_by(|(_, one), (_, other)| one.rank().cmp(&other.rank()));
            let Some((place, winner)) = first.copied() else {
                continue;
            };
            found.holders.insert(*pod_port, &winner.policy);
            found.pods.entry(&winner.policy).or_default().insert(pod_port.0);
            for (own, entrant) in entrants {
                let (_, share) = shares.entry(own).or_insert_with(|| (entrant, Share::default()));
                share.ports += 1;
                // One for every service leaves what has a policy of its own, and loses nothing by it.
                if winner.policy != entrant.policy && !winner.overrides(entrant) {
                    share.lost += 1;
                    let by = (pod_port.1, (place, winner));
                    share.winners.entry(&winner.policy).or_insert(by);
                }
            }
        }
        let conflicts = shares.into_iter().flat_map(|(place, (loser, share))| {
            let is_partial = share.lost < share.ports;
            let winners = share.winners.into_values();
            winners.map(move |(port, winner)| loser.loses_port(place, port, winner, is_partial))
        });
        found.conflicts = conflicts.collect();
        found
    }
}

impl<'a> Precedence<'a> {
    /// Who has which port of the pods behind a namespace's services.
    pub(in crate::push) fn pod_ports<'p>(&'p self, catalog: &'p Catalog) -> PodPorts<'p> {
        let mut entrants = BTreeMap::<PodPort<'_>, Vec<Entrant<'_>>>::new();
        for (backend, port) in catalog.backends() {
            let target = (catalog.namespace.clone(), Place::whole(backend), false);
            let Some(((_, place, _), contenders)) = self.targets.get_key_value(&target) else {
                continue;
            };
            let Some(holder) = contenders.first() else {
                continue;
            };
            let endpoints = port.endpoints.iter();
            let led_to = endpoints.filter_map(|one| Some((one.sidecar.as_ref()?, one.address.port())));
            // An address of either family is the same pod.
            for pod_port in led_to.collect::<BTreeSet<_>>() {
                entrants.entry(pod_port).or_default().push((place, holder));
            }
        }
        PodPorts::of(&entrants)
    }
}

impl Contender<'_> {
    fn loses_port(&self, target: &Place, port: u16, winner: (&Place, &Self), is_partial: bool) -> Conflict {
        let (by, winner) = winner;
        let why = if winner.specificity > self.specificity {
            let (closer, wider) = (winner.specificity.as_str(), self.specificity.as_str());
            format!("for {closer}, this one for {wider}")
        } else if winner.created.age() < self.created.age() {
            "older".to_owned()
        } else {
            "first by name".to_owned()
        };
        let some = if is_partial {
            "some of the same"
        } else {
            "the same"
        };
        let policy = &winner.policy;
        let reason = format!("{policy} is for {by}, which leads to {some} pods on port {port}, and is {why}");
        self.conflict(target, winner, reason, is_partial)
    }
}

#[cfg(test)]
mod tests;
