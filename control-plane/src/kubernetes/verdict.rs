//! What is said of a policy in its status: decisions only, from what is known of it.

use std::collections::BTreeSet;

use jitney_api::push::{Catalog, Conflict, Place, Unresolved};
use jitney_api::{
    AncestorRef, AncestorStatus, BatchPolicy, BatchPolicyStatus, CONTROLLER_NAME, ConditionType, Documents,
    Reason, Resource, SidecarStatus, TargetKind, TargetRef,
};

use super::custom::Custom;

mod runtime;
mod said;

pub(super) use runtime::RuntimeFacts;
use said::{Said, programmed, status};

/// What is known of a policy.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) namespace: &'a str,
    pub(super) custom: &'a Custom,
    pub(super) catalog: &'a Catalog,
    /// Backends that documents describe.
    pub(super) backends: &'a BTreeSet<&'a str>,
    /// Targets that it is for and others have.
    pub(super) conflicts: Vec<&'a Conflict>,
    /// Its generation that is pushed; `None` when none is.
    pub(super) in_force: Option<i64>,
    pub(super) sidecars: SidecarStatus,
    /// The status that it has.
    pub(super) before: &'a BatchPolicyStatus,
    /// The time, as statuses write it.
    pub(super) now: &'a str,
}

impl Facts<'_> {
    /// What its status should be.
    pub(super) fn status(&self) -> BatchPolicyStatus {
        let targets = &self.custom.targets;
        let ancestors: Vec<AncestorStatus> = match &targets[..] {
            // It is for whatever is in its namespace.
            [] => vec![self.ancestor(namespace_ref(self.namespace), None)],
            some => {
                let some = some.iter().take(MOST_ANCESTORS);
                some.map(|target| self.ancestor(reference(self.namespace, target), Some(target)))
                    .collect()
            }
        };
        BatchPolicyStatus {
            ancestors,
            sidecars: Some(self.sidecars.clone()),
        }
    }

    fn ancestor(&self, ancestor: AncestorRef, target: Option<&TargetRef>) -> AncestorStatus {
        let places = target.map(|target| self.catalog.resolve(target, self.backends));
        let places = places.transpose();
        let said = [
            self.accepted(&places),
            self.resolved(places.as_ref().err()),
            programmed(self.in_force, self.custom.generation, &self.sidecars),
        ];
        let before = self.before.ancestors.iter();
        let mut before = before.filter(|one| one.ancestor_ref == ancestor);
        let before = before.next().map_or(&[][..], |one| &one.conditions);
        AncestorStatus {
            conditions: said
                .into_iter()
                .map(|said| said.condition(before, self.now))
                .collect(),
            ancestor_ref: ancestor,
            controller_name: CONTROLLER_NAME.to_owned(),
        }
    }

    /// Of a target that stands for these; without one, of all that is in the namespace.
    fn accepted(&self, places: &Result<Option<Vec<Place>>, Unresolved>) -> Said {
        let said = |reason: Reason, message: String| Said {
            kind: ConditionType::Accepted,
            status: status(reason == Reason::Accepted),
            reason,
            message,
            generation: self.custom.generation,
        };
        if !self.custom.faults.is_empty() {
            return said(Reason::Invalid, self.invalid());
        }
        let places = match places {
            Err(unresolved) => return said(Reason::TargetNotFound, unresolved.to_string()),
            Ok(places) => places,
        };
        let is_meant = |name: &str| {
            let places = places.as_ref();
            places.is_none_or(|places| places.iter().any(|place| place.to_string() == name))
        };
        let lost: Vec<&&Conflict> = self
            .conflicts
            .iter()
            .filter(|one| is_meant(&one.target))
            .collect();
        let told = |conflict: &&&Conflict| format!("{}: {}", conflict.target, conflict.reason);
        let texts = lost.iter().map(told).collect::<Vec<_>>().join("; ");
        let wholly = lost.iter().filter(|one| !one.is_partial);
        let wholly: BTreeSet<&str> = wholly.map(|one| one.target.as_str()).collect();
        let none = lost.is_empty();
        match places {
            None if none => {
                let message = "valid, and in force for every service that has no policy of its own";
                said(Reason::Accepted, message.to_owned())
            }
            Some(_) if none => said(Reason::Accepted, "valid, and in force for this target".to_owned()),
            Some(places) if wholly.len() < places.len() => said(
                Reason::Accepted,
                format!("in force for a part of the target: not for {texts}"),
            ),
            _ => said(Reason::Conflicted, texts),
        }
    }

    fn invalid(&self) -> String {
        let faults = self.custom.faults.iter();
        let fault = faults.map(|fault| format!("{}: {}", fault.field, fault.message));
        let faults = fault.collect::<Vec<_>>().join("; ");
        let stays = match self.in_force {
            Some(generation) => format!("generation {generation} stays in force"),
            None => "nothing of it is in force".to_owned(),
        };
        format!("{faults}; {stays}")
    }

    /// Whether the target is there, and all else that is named.
    fn resolved(&self, unresolved: Option<&Unresolved>) -> Said {
        let missing = self.missing();
        let reason = match (unresolved, &missing[..]) {
            (Some(_), _) => Reason::TargetNotFound,
            (None, []) => Reason::ResolvedRefs,
            (None, _) => Reason::BackendNotFound,
        };
        let is_resolved = reason == Reason::ResolvedRefs;
        let told = unresolved.map(ToString::to_string);
        let message = if is_resolved {
            "all that it names is there".to_owned()
        } else {
            told.into_iter().chain(missing).collect::<Vec<_>>().join("; ")
        };
        Said {
            kind: ConditionType::ResolvedRefs,
            status: status(is_resolved),
            reason,
            message,
            generation: self.custom.generation,
        }
    }

    /// What it names besides its targets, and nobody has.
    pub(super) fn missing(&self) -> Vec<String> {
        let policy = self.policy();
        policy.map_or_else(Vec::new, |policy| self.catalog.missing(policy, self.backends))
    }

    /// Its last good version.
    fn policy(&self) -> Option<&BatchPolicy> {
        match &self.custom.good.as_ref()?.resource {
            Resource::BatchPolicy(policy) => Some(policy),
            Resource::Backend(_) | Resource::Listener(_) | Resource::Runtime(_) => None,
        }
    }
}

/// The backends that documents describe.
pub(super) fn backends(documents: &Documents) -> BTreeSet<&str> {
    let documents = documents.documents.iter();
    let named = documents.filter_map(|document| match &document.resource {
        Resource::Backend(backend) => Some(backend.metadata.name.as_str()),
        Resource::BatchPolicy(_) | Resource::Listener(_) | Resource::Runtime(_) => None,
    });
    named.collect()
}

fn reference(namespace: &str, target: &TargetRef) -> AncestorRef {
    let (group, kind) = match target.kind {
        TargetKind::Service => ("", "Service"),
        TargetKind::HTTPRoute => ("gateway.networking.k8s.io", "HTTPRoute"),
        TargetKind::GRPCRoute => ("gateway.networking.k8s.io", "GRPCRoute"),
        TargetKind::Backend => ("jitney.dev", "Backend"),
    };
    AncestorRef {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: Some(namespace.to_owned()),
        name: target.name.clone(),
        section_name: target.section_name.clone(),
    }
}

fn namespace_ref(namespace: &str) -> AncestorRef {
    AncestorRef {
        group: String::new(),
        kind: "Namespace".to_owned(),
        namespace: None,
        name: namespace.to_owned(),
        section_name: None,
    }
}

/// GEP-713.
const MOST_ANCESTORS: usize = 16;

#[cfg(test)]
mod tests;
