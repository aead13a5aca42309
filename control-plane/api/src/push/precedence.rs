//! Which policy has a target, where several are for it: GEP-713, *atomic defaults*. The most
//! specific one has it whole; among equals the oldest; among those of which that is not known, as in files
//! where nobody has written `creationTimestamp`, the first by namespace and name. So every control plane comes
//! to the same end, whatever the files are called and whenever they came.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::catalog::{Catalog, Claims};
use super::place::Place;
use super::resources::{full_name, namespace};
use crate::document::Created;
use crate::node::Path;
use crate::{BatchPolicy, Diagnostic, Document, Documents, Placement, Resource, TargetKind, TargetRef};

mod pod_ports;

pub(super) use pod_ports::PodPorts;

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
    /// Whether the loser has it all the same for some of the pods behind it.
    pub is_partial: bool,
    /// The same, with the place where the loser names the target.
    pub warning: Diagnostic,
}

/// How closely a target reference fits: a rule of a route, a route, a port of a Service, a Service, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    Everything,
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
            Self::Everything => "every service",
            Self::Service => "the whole service",
            Self::Port => "a port",
            Self::Route => "a route",
            Self::Rule => "a rule of a route",
        }
    }
}

/// A policy that is for a target.
#[derive(Clone, Debug)]
struct Contender<'a> {
    policy: String,
    document: &'a Document,
    specificity: Specificity,
    created: &'a Created,
    /// Where it names the target.
    path: Path,
}

/// What a policy may be for.
struct Known<'a> {
    /// Those that documents describe.
    backends: BTreeSet<&'a str>,
    catalog: Option<&'a Catalog>,
}

impl Known<'_> {
    /// Without a catalog, a target is the backend of its name, wherever that may be.
    fn named(&self, target: &TargetRef) -> Vec<Place> {
        match self.catalog {
            Some(catalog) => catalog.resolve(target, &self.backends).unwrap_or_default(),
            None => vec![Place::whole(&target.name)],
        }
    }

    fn all(&self) -> BTreeSet<String> {
        let catalog = self.catalog.into_iter().flat_map(Catalog::backends);
        let backends = self.backends.iter().map(|name| (*name).to_owned());
        backends.chain(catalog.map(|(name, _)| name)).collect()
    }
}

/// Who has what, so far as the policies given say.
#[derive(Debug, Default)]
pub(super) struct Precedence<'a> {
    /// By namespace, target and whether callers' or callees' sidecars are meant: these do not
    /// contend with each other. Those that win come first.
    targets: BTreeMap<(String, Place, bool), Vec<Contender<'a>>>,
}

impl<'a> Precedence<'a> {
    /// Of all policies of these documents. One that names no target is for every backend.
    pub(super) fn of(documents: &'a Documents, catalog: Option<&Catalog>) -> Self {
        let all = documents.documents.iter();
        let backends = all.clone().filter_map(|document| match &document.resource {
            Resource::Backend(backend) => Some(backend.metadata.name.as_str()),
            Resource::BatchPolicy(_) | Resource::Listener(_) | Resource::Runtime(_) => None,
        });
        let known = Known {
            backends: backends.collect(),
            catalog,
        };
        let mut precedence = Self::default();
        for document in all {
            if let Resource::BatchPolicy(policy) = &document.resource {
                precedence.add(document, policy, &known);
            }
        }
        for contenders in precedence.targets.values_mut() {
            contenders.sort_by(|one, other| one.rank().cmp(&other.rank()));
        }
        precedence
    }

    fn add(&mut self, document: &'a Document, policy: &'a BatchPolicy, known: &Known<'_>) {
        let outbound = policy.spec.placement == Placement::Outbound;
        let mut contend = |target: Place, specificity, path| {
            let key = (namespace(&policy.metadata).to_owned(), target, outbound);
            self.targets.entry(key).or_default().push(Contender {
                policy: full_name(&policy.metadata),
                document,
                specificity,
                created: &policy.metadata.creation_timestamp,
                path,
            });
        };
        let path = Path::default().keys("spec.targetRefs");
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            for place in known.named(target) {
                let path = path.index(index).key("name");
                contend(place, Specificity::of(target), path);
            }
        }
        if policy.spec.target_refs.is_empty() {
            for target in known.all() {
                contend(
                    Place::whole(target),
                    Specificity::Everything,
                    Path::default().key("spec"),
                );
            }
        }
    }

    /// The targets that a policy has.
    pub(super) fn held_by(&self, policy: &str) -> Vec<&Place> {
        let targets = self.targets.iter();
        let won =
            targets.filter(|(_, contenders)| contenders.first().is_some_and(|one| one.policy == policy));
        won.map(|((_, target, _), _)| target).collect()
    }

    /// Whose the calls are that belong to rules of routes, to each backend of a catalog.
    pub(super) fn claims<'c>(&'c self, catalog: &'c Catalog, placement: Placement) -> Claims<'c> {
        let outbound = placement == Placement::Outbound;
        let own = |(_, place, side): &(String, Place, bool)| place.rule.is_some() && *side == outbound;
        if !self.targets.keys().any(own) {
            return Claims::default();
        }
        catalog.claims(|place| {
            let key = (catalog.namespace.clone(), place.clone(), outbound);
            let first = self.targets.get(&key).and_then(|contenders| contenders.first());
            first.map(|one| one.policy.as_str())
        })
    }

    /// Every target that a policy is for and does not have. One for every service is for those that have none of
    /// their own: it loses nothing to them.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let targets = self.targets.iter();
        let conflicts = targets.flat_map(|((_, target, _), contenders)| {
            let (winner, losers) = contenders.split_first()?;
            // One that names a target twice, as a whole and by a port, does not lose it to itself.
            let losers = losers.iter().filter(|one| one.policy != winner.policy);
            let losers = losers.filter(|one| !winner.overrides(one));
            Some(
                losers
                    .map(|loser| loser.loses(target, winner))
                    .collect::<Vec<_>>(),
            )
        });
        conflicts.flatten().collect()
    }
}

impl Contender<'_> {
    /// What is less wins.
    fn rank(&self) -> impl Ord {
        (Reverse(self.specificity), self.created.age(), &self.policy)
    }

    /// Whether it has what the other, for every service, has only where nobody says otherwise.
    fn overrides(&self, other: &Self) -> bool {
        other.specificity == Specificity::Everything && self.specificity > other.specificity
    }

    fn loses(&self, target: &Place, winner: &Self) -> Conflict {
        let reason = if winner.specificity > self.specificity {
            let (closer, wider) = (winner.specificity.as_str(), self.specificity.as_str());
            format!("{} is for {closer}, this one for {wider}", winner.policy)
        } else if winner.created.age() < self.created.age() {
            format!("{} is for the same, and is older", winner.policy)
        } else {
            format!("{} is for the same, and comes first by name", winner.policy)
        };
        self.conflict(target, winner, reason, false)
    }

    fn conflict(&self, target: &Place, winner: &Self, reason: String, is_partial: bool) -> Conflict {
        let partly = if is_partial { "partly " } else { "" };
        let message = format!("{partly}without effect for {target}: {reason}");
        Conflict {
            policy: self.policy.clone(),
            target: target.to_string(),
            winner: winner.policy.clone(),
            warning: self.document.warning(&self.path, message),
            reason,
            is_partial,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sources;

    /// Documents of policies, given as metadata, placement and targets.
    fn documents(policies: &[(&str, &str, &str)]) -> Documents {
        let policies = policies.iter().map(|(metadata, placement, targets)| {
            format!(
                "kind: BatchPolicy\nmetadata: {{{metadata}}}\nspec:\n  placement: {placement}\n  targetRefs: [{targets}]\n"
            )
        });
        let text = policies.collect::<Vec<_>>().join("---\n");
        let documents = Documents::read(&Sources::inline("p.yaml", &text));
        assert!(documents.faults.is_empty(), "{:?}", documents.faults);
        documents
    }

    const USERS: &str = "{kind: Service, name: users}";

    fn told(precedence: &Precedence<'_>) -> Vec<String> {
        let conflicts = precedence.conflicts().into_iter();
        conflicts
            .map(|one| format!("{} {}: {}", one.policy, one.target, one.reason))
            .collect()
    }

    fn held<'p>(precedence: &'p Precedence<'_>, policy: &str) -> Vec<&'p str> {
        let held = precedence.held_by(policy).into_iter();
        held.map(|place| place.backend.as_str()).collect()
    }

    #[test]
    fn the_most_specific_has_it_whole() {
        let port = "{kind: Service, name: users, sectionName: http}";
        let both = format!("{USERS}, {{kind: Service, name: orders}}");
        let documents = documents(&[
            ("name: all, namespace: shop", "Inbound", &both),
            ("name: port, namespace: shop", "Inbound", port),
        ]);
        let precedence = Precedence::of(&documents, None);
        assert_eq!(held(&precedence, "shop/port"), ["users"]);
        assert_eq!(held(&precedence, "shop/all"), ["orders"]);
        assert_eq!(
            told(&precedence),
            ["shop/all users: shop/port is for a port, this one for the whole service"]
        );
        let [conflict] = &precedence.conflicts()[..] else {
            panic!("one");
        };
        assert_eq!(conflict.winner, "shop/port");
        assert_eq!(
            conflict.warning.to_string(),
            "p.yaml:5:38: warning: spec.targetRefs[0].name: without effect for users: shop/port is for a port, this one \
             for the whole service"
        );
    }

    #[test]
    fn equals_are_told_by_age_and_then_by_name() {
        let old = "name: z, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'";
        let young = "name: y, namespace: shop, creationTimestamp: '2026-01-01T00:00:01Z'";
        let unknown = "name: b, namespace: shop, creationTimestamp: null";
        let another = "name: a, namespace: shop";
        let documents = documents(&[another, unknown, young, old].map(|one| (one, "Inbound", USERS)));
        let precedence = Precedence::of(&documents, None);
        assert_eq!(held(&precedence, "shop/z"), ["users"]);
        let older = "users: shop/z is for the same, and is older";
        assert_eq!(
            told(&precedence),
            ["y", "a", "b"].map(|name| format!("shop/{name} {older}"))
        );
        let documents = self::documents(&[unknown, another].map(|one| (one, "Inbound", USERS)));
        assert_eq!(
            told(&Precedence::of(&documents, None)),
            ["shop/b users: shop/a is for the same, and comes first by name"]
        );
    }

    #[test]
    fn one_for_every_service_is_for_those_that_have_none() {
        let old = "name: all, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'";
        let young = "name: users, namespace: shop, creationTimestamp: '2026-01-01T00:00:01Z'";
        let backends = ["users", "orders"].map(|name| {
            format!("---\nkind: Backend\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{endpoints: [\"h:80\"]}}\n")
        });
        let policies = [(old, ""), (young, USERS)].map(|(metadata, targets)| {
            format!("---\nkind: BatchPolicy\nmetadata: {{{metadata}}}\nspec: {{targetRefs: [{targets}]}}\n")
        });
        let text = policies.into_iter().chain(backends).collect::<String>();
        let documents = Documents::read(&Sources::inline("p.yaml", &text));
        assert!(documents.faults.is_empty(), "{:?}", documents.faults);
        let precedence = Precedence::of(&documents, None);
        assert_eq!(held(&precedence, "shop/users"), ["users"]);
        assert_eq!(held(&precedence, "shop/all"), ["orders"]);
        assert_eq!(told(&precedence), [""; 0]);
    }

    #[test]
    fn callers_callees_and_other_namespaces_do_not_contend() {
        let documents = documents(&[
            ("name: in, namespace: shop", "Inbound", USERS),
            ("name: out, namespace: shop", "Outbound", USERS),
            ("name: in, namespace: bank", "Inbound", USERS),
        ]);
        let precedence = Precedence::of(&documents, None);
        assert_eq!(precedence.conflicts(), []);
        for name in ["shop/in", "shop/out", "bank/in"] {
            assert_eq!(held(&precedence, name), ["users"], "{name}");
        }
    }

    #[test]
    fn what_is_no_time_is_told_with_its_place() {
        let text = "kind: BatchPolicy\nmetadata: {name: a, creationTimestamp: yesterday}\nspec: {}\n";
        let documents = Documents::read(&Sources::inline("p.yaml", text));
        let told: Vec<String> = documents.faults.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("p.yaml:2:")
                && told[0].contains("expected a time such as 2026-01-31T23:59:59Z"),
            "{told:?}"
        );
    }
}
