//! The status of a policy as an object of Kubernetes: what GEP-713 has in every policy, and what sidecars
//! said, which a Runtime's says in the same words. The control plane writes it; a document's is not read.

use std::fmt::{self, Display, Formatter};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchPolicyStatus {
    /// What became of it for each of its targets, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub ancestors: Vec<AncestorStatus>,
    /// Which sidecars run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarStatus>,
}

/// What became of a policy for one of its targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The target.
    pub ancestor_ref: AncestorRef,
    /// Who says so: `jitney.dev/control-plane`.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs` and `Programmed`.
    #[schemars(length(min = 1, max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The target of a policy, whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// The API group of its kind; empty for a Service.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Its kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its namespace, which is that of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The port of a Service or the rule of a route, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub section_name: Option<String>,
}

/// One thing that is so or not, as all objects of Kubernetes say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What, in one word: `Accepted`, `ResolvedRefs` or `Programmed`.
    #[serde(rename = "type")]
    #[schemars(
        length(max = 316),
        regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")
    )]
    pub kind: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, in one word, such as `Accepted`, `Conflicted`, `Invalid`, `TargetNotFound` or `PartiallyProgrammed`.
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    )]
    pub reason: String,
    /// Why, in a sentence.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// Since when: `2026-01-31T23:59:59Z`.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The generation of the object of which this is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It is.
    True,
    /// It is not.
    False,
    /// It is not known yet.
    Unknown,
}

/// What a condition is about. A [`Condition`] has it as a text, so that what a later version wrote can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// The policy is valid, and has the target: [`Accepted`](Reason::Accepted), or
    /// [`Conflicted`](Reason::Conflicted), [`Invalid`](Reason::Invalid),
    /// [`TargetNotFound`](Reason::TargetNotFound).
    Accepted,
    /// The target is there, and what else the policy names: [`ResolvedRefs`](Reason::ResolvedRefs), or
    /// [`TargetNotFound`](Reason::TargetNotFound), [`BackendNotFound`](Reason::BackendNotFound), [`UnsupportedProtocol`](Reason::UnsupportedProtocol).
    ResolvedRefs,
    /// It is in force wherever it is to be: [`Programmed`](Reason::Programmed), or
    /// [`PartiallyProgrammed`](Reason::PartiallyProgrammed), [`Pending`](Reason::Pending),
    /// [`NoSidecars`](Reason::NoSidecars).
    Programmed,
}

/// Why something is so, a text in a [`Condition`]. GEP-713 has the reasons of `Accepted`, and those of `Programmed` but for the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `Accepted` is true.
    Accepted,
    /// `Accepted` is false: another policy has the target, and one target takes no two.
    Conflicted,
    /// `Accepted` is false: the document has faults that its schema could not find.
    Invalid,
    /// `Accepted` and `ResolvedRefs` are false: the target is not there, or is a route that leads nowhere.
    TargetNotFound,
    /// `ResolvedRefs` is true.
    ResolvedRefs,
    /// `ResolvedRefs` is false: a Backend that the policy names is not there.
    BackendNotFound,
    /// `ResolvedRefs` is false: a Backend that the policy names takes no calls.
    UnsupportedProtocol,
    /// `Programmed` is true: every sidecar that is selected has said that it runs the generation.
    Programmed,
    /// `Programmed` is false: some sidecars run the generation. False, although GEP-713 leaves the status open,
    /// for whoever waits for the condition waits for all.
    PartiallyProgrammed,
    /// `Programmed` is false: no sidecar has said yet that it runs the generation.
    Pending,
    /// `Programmed` is unknown: nobody is there to run it.
    NoSidecars,
}

impl Display for ConditionType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // A condition is spelt like its variant.
        fmt::Debug::fmt(self, f)
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // So is a reason.
        fmt::Debug::fmt(self, f)
    }
}

/// Which sidecars run an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarStatus {
    /// How many are connected and are to run it.
    pub selected: u32,
    /// How many of them have said that they run its last generation.
    pub acked: u32,
    /// How many have said that they cannot; they keep the generation that they have.
    pub rejected: u32,
    /// How many run an older generation and have not answered yet.
    pub stale: u32,
    /// Those that run it, of those that are to: `41/42`.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub summary: String,
    /// Why one of them cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rejection: Option<Rejection>,
}

impl SidecarStatus {
    /// How many run it, of how many, as `kubectl get` shows it.
    pub fn summary(&self) -> String {
        format!("{}/{}", self.acked, self.selected)
    }
}

/// Why a sidecar cannot run an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// The sidecar's name.
    #[schemars(length(max = 512))]
    pub sidecar: String,
    /// The field that it cannot run; empty for the whole.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub field: String,
    /// What is wrong with it.
    #[schemars(length(max = 4096))]
    pub reason: String,
}

/// Who writes statuses of ours.
pub const CONTROLLER_NAME: &str = "jitney.dev/control-plane";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_written_as_gep_713_has_it() {
        let condition = Condition {
            kind: ConditionType::Programmed.to_string(),
            status: ConditionStatus::False,
            reason: Reason::PartiallyProgrammed.to_string(),
            message: "41 of 42 sidecars run it".to_owned(),
            last_transition_time: "2026-01-31T23:59:59Z".to_owned(),
            observed_generation: Some(7),
        };
        let mut sidecars = SidecarStatus {
            selected: 42,
            acked: 41,
            stale: 1,
            ..SidecarStatus::default()
        };
        sidecars.summary = sidecars.summary();
        let status = BatchPolicyStatus {
            ancestors: vec![AncestorStatus {
                ancestor_ref: AncestorRef {
                    group: String::new(),
                    kind: "Service".to_owned(),
                    namespace: Some("shop".to_owned()),
                    name: "users".to_owned(),
                    section_name: None,
                },
                controller_name: CONTROLLER_NAME.to_owned(),
                conditions: vec![condition],
            }],
            sidecars: Some(sidecars),
        };
        let written = json!({
            "ancestors": [{
                "ancestorRef": {"group": "", "kind": "Service", "namespace": "shop", "name": "users"},
                "controllerName": "jitney.dev/control-plane",
                "conditions": [{
                    "type": "Programmed",
                    "status": "False",
                    "reason": "PartiallyProgrammed",
                    "message": "41 of 42 sidecars run it",
                    "lastTransitionTime": "2026-01-31T23:59:59Z",
                    "observedGeneration": 7,
                }],
            }],
            "sidecars": {"selected": 42, "acked": 41, "rejected": 0, "stale": 1, "summary": "41/42"},
        });
        assert_eq!(serde_json::to_value(&status).unwrap(), written);
        assert_eq!(
            serde_json::from_value::<BatchPolicyStatus>(written).unwrap(),
            status
        );
    }
}
