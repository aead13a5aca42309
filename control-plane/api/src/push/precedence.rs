//! Which policy has a target, where several are for it: GEP-713, *atomic defaults*. The most
//! specific one has it whole; among equals the oldest, which in files is the one that comes first.

use std::collections::BTreeMap;

use crate::{BatchPolicy, Placement, TargetKind, TargetRef};

/// A target that a policy is for, and does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The policy that lost, as `namespace/name`.
    pub policy: String,
    /// The target's name.
    pub target: String,
    /// The policy that has it.
    pub winner: String,
    /// Why, in words.
    pub reason: String,
}

/// How closely a target reference fits: a rule of a route, a route, a port of a Service, a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    Service,
    Port,
    Route,
    Rule,
}

impl Specificity {
    const fn of(target: &TargetRef) -> Self {
        match (target.kind, target.section_name.is_some()) {
            (TargetKind::HTTPRoute | TargetKind::GRPCRoute, true) => Self::Rule,
            (TargetKind::HTTPRoute | TargetKind::GRPCRoute, false) => Self::Route,
            (TargetKind::Service | TargetKind::Backend, true) => Self::Port,
            (TargetKind::Service | TargetKind::Backend, false) => Self::Service,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "the whole service",
            Self::Port => "a port",
            Self::Route => "a route",
            Self::Rule => "a rule of a route",
        }
    }
}

/// A policy that is for a target.
#[derive(Clone, Debug)]
struct Contender {
    policy: String,
    specificity: Specificity,
}

/// Who has what, so far as the policies given say.
#[derive(Debug, Default)]
pub(super) struct Precedence {
    /// By namespace, target and whether callers' or callees' sidecars are meant: these do not
    /// contend with each other. In the order in which the policies came.
    targets: BTreeMap<(String, String, bool), Vec<Contender>>,
}

impl Precedence {
    /// Takes in a policy, which is for `only` where it names no target. Older ones first.
    pub(super) fn add(&mut self, namespace: &str, name: &str, policy: &BatchPolicy, only: &[&str]) {
        let outbound = policy.spec.placement == Placement::Outbound;
        let mut contend = |target: &str, specificity| {
            let key = (namespace.to_owned(), target.to_owned(), outbound);
            self.targets.entry(key).or_default().push(Contender {
                policy: name.to_owned(),
                specificity,
            });
        };
        for target in &policy.spec.target_refs {
            contend(&target.name, Specificity::of(target));
        }
        if policy.spec.target_refs.is_empty() {
            only.iter()
                .for_each(|target| contend(target, Specificity::Service));
        }
    }

    /// The targets that a policy has.
    pub(super) fn held_by(&self, policy: &str) -> Vec<&str> {
        let targets = self.targets.iter();
        let won =
            targets.filter(|(_, contenders)| winner(contenders).is_some_and(|one| one.policy == policy));
        won.map(|((_, target, _), _)| target.as_str()).collect()
    }

    /// Every target that a policy is for and does not have.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for ((_, target, _), contenders) in &self.targets {
            let Some(winner) = winner(contenders) else {
                continue;
            };
            for loser in contenders.iter().filter(|one| one.policy != winner.policy) {
                let reason = if winner.specificity > loser.specificity {
                    let (closer, wider) = (winner.specificity.as_str(), loser.specificity.as_str());
                    format!("{} is for {closer}, this one for {wider}", winner.policy)
                } else {
                    format!("{} is for the same, and is older", winner.policy)
                };
                conflicts.push(Conflict {
                    policy: loser.policy.clone(),
                    target: target.clone(),
                    winner: winner.policy.clone(),
                    reason,
                });
            }
        }
        conflicts
    }
}

/// The first of the most specific ones.
fn winner(contenders: &[Contender]) -> Option<&Contender> {
    let best = contenders.iter().map(|one| one.specificity).max()?;
    contenders.iter().find(|one| one.specificity == best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchPolicySpec, Metadata};

    fn target(kind: TargetKind, name: &str, section: Option<&str>) -> TargetRef {
        TargetRef {
            group: None,
            kind,
            name: name.into(),
            section_name: section.map(Into::into),
        }
    }

    fn policy(placement: Placement, target_refs: Vec<TargetRef>) -> BatchPolicy {
        BatchPolicy {
            api_version: "jitney.dev/v1alpha1".into(),
            kind: "BatchPolicy".into(),
            metadata: Metadata::default(),
            spec: BatchPolicySpec {
                target_refs,
                placement,
                ..BatchPolicySpec::default()
            },
            status: Default::default(),
        }
    }

    fn service(name: &str) -> TargetRef {
        target(TargetKind::Service, name, None)
    }

    #[test]
    fn the_most_specific_has_it_whole_and_among_equals_the_oldest() {
        let mut precedence = Precedence::default();
        let add = |precedence: &mut Precedence, name: &str, refs| {
            precedence.add("shop", name, &policy(Placement::Inbound, refs), &[]);
        };
        add(
            &mut precedence,
            "shop/old",
            vec![service("users"), service("orders")],
        );
        add(&mut precedence, "shop/young", vec![service("users")]);
        add(
            &mut precedence,
            "shop/port",
            vec![target(TargetKind::Service, "users", Some("http"))],
        );
        assert_eq!(precedence.held_by("shop/port"), ["users"]);
        assert_eq!(precedence.held_by("shop/old"), ["orders"]);
        assert!(precedence.held_by("shop/young").is_empty());
        let conflicts = precedence.conflicts();
        let told: Vec<(&str, &str)> = conflicts.iter().map(|one| (&*one.policy, &*one.reason)).collect();
        let reason = "shop/port is for a port, this one for the whole service";
        assert_eq!(told, [("shop/old", reason), ("shop/young", reason)]);
    }

    #[test]
    fn equals_are_told_by_age() {
        let mut precedence = Precedence::default();
        for name in ["shop/old", "shop/young"] {
            precedence.add(
                "shop",
                name,
                &policy(Placement::Inbound, vec![service("users")]),
                &[],
            );
        }
        let [conflict] = &precedence.conflicts()[..] else {
            panic!("{:?}", precedence.conflicts());
        };
        assert_eq!(conflict.reason, "shop/old is for the same, and is older");
        assert_eq!(
            (&*conflict.policy, &*conflict.target, &*conflict.winner),
            ("shop/young", "users", "shop/old")
        );
    }

    #[test]
    fn callers_callees_and_other_namespaces_do_not_contend() {
        let mut precedence = Precedence::default();
        precedence.add(
            "shop",
            "shop/in",
            &policy(Placement::Inbound, vec![service("users")]),
            &[],
        );
        precedence.add(
            "shop",
            "shop/out",
            &policy(Placement::Outbound, vec![service("users")]),
            &[],
        );
        precedence.add("bank", "bank/in", &policy(Placement::Inbound, vec![]), &["users"]);
        assert_eq!(precedence.conflicts(), []);
        for name in ["shop/in", "shop/out", "bank/in"] {
            assert_eq!(precedence.held_by(name), ["users"], "{name}");
        }
    }
}
