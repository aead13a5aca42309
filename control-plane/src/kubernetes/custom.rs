//! Objects of Jitney's own kinds, each read by the code that reads files.

mod cautious;

use std::collections::BTreeMap;
use std::sync::Arc;

use jitney_api::{
    BatchPolicyStatus, Diagnostic, Document, Documents, Resource, RuntimeStatus, Severity, TargetRef,
    check_pushed, compile_for_upstream,
};
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// An object of one of Jitney's kinds.
#[derive(Clone, Debug)]
pub struct Custom {
    /// Its generation: what [`Custom::faults`] are about, and [`Custom::good`] if there are none.
    pub generation: i64,
    /// The last version without a fault; where there was none, what of a Runtime keeps callers out, or nothing.
    pub good: Option<Document>,
    /// The generation of that.
    pub good_generation: Option<i64>,
    /// Why the present version is not in force.
    pub faults: Vec<Diagnostic>,
    /// What is odd about it.
    pub warnings: Vec<Diagnostic>,
    /// What it is for, where so much of it can be read.
    pub targets: Vec<TargetRef>,
    /// The status that it has, if that is one of a policy.
    pub status: BatchPolicyStatus,
    /// The same, if it is one of a Runtime.
    pub runtime_status: RuntimeStatus,
    read: Value,
}

impl Custom {
    /// Reads an object. What was good before stays where this is not.
    pub(super) fn read(kind: &str, object: &DynamicObject, before: Option<&Self>) -> Self {
        let (name, document) = document(kind, object);
        let generation = object.metadata.generation.unwrap_or_default();
        let status = read_part(object.data.get("status"));
        let runtime_status = read_part(object.data.get("status"));
        if let Some(same) = before.filter(|before| before.read == document) {
            return Self {
                generation,
                good_generation: match same.faults.is_empty() {
                    true => Some(generation),
                    false => same.good_generation,
                },
                status,
                runtime_status,
                ..same.clone()
            };
        }
        let documents = Documents::of_json([(Arc::clone(&name), document.clone())]);
        let (faults, mut warnings) = check(&documents)
            .into_iter()
            .partition::<Vec<_>, _>(Diagnostic::is_error);
        let (good, good_generation) = match faults.is_empty() {
            true => (documents.documents.into_iter().next(), Some(generation)),
            false => before.map_or((None, None), |before| {
                (before.good.clone(), before.good_generation)
            }),
        };
        let cautious = || cautious::of(&name, &document, check);
        let good = good.or_else(|| {
            let good = cautious()?;
            warnings.push(Diagnostic {
                severity: Severity::Warning,
                ..Diagnostic::of_file(&name, KEPT)
            });
            Some(good)
        });
        Self {
            generation,
            good,
            good_generation,
            faults,
            warnings,
            targets: read_part(document.pointer("/spec/targetRefs")),
            status,
            runtime_status,
            read: document,
        }
    }

    /// Whether it is faulty, was never good, and keeps callers out all the same.
    pub(super) const fn is_kept_in_part(&self) -> bool {
        self.good.is_some() && self.good_generation.is_none()
    }

    /// Whether it comes to the same as another reading.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.generation == other.generation && self.read == other.read
    }
}

/// What is said of a Runtime that is in force in part.
pub(super) const KEPT: &str = "until it can be taken as it is, it keeps out whom it may be meant to keep out: of its rules those \
                    that can be read allow somebody, and callers prove what it says, or else who they are";

/// What is wrong with a document in itself. Whether what it names is there is another question.
fn check(documents: &Documents) -> Vec<Diagnostic> {
    let is_backend = |document: &Document| matches!(document.resource, Resource::Backend(_));
    if documents.documents.iter().any(is_backend) {
        return check_pushed(documents);
    }
    compile_for_upstream(documents).map_or_else(|faults| faults, |compiled| compiled.warnings)
}

/// A part of an object; nothing where it is not there or is another thing.
fn read_part<T: DeserializeOwned + Default>(part: Option<&Value>) -> T {
    let part = part.and_then(|part| serde_json::from_value(part.clone()).ok());
    part.unwrap_or_default()
}

/// What of an object says something, and the name that its faults are told by. What others write into an
/// object's metadata and status is no part of it.
fn document(kind: &str, object: &DynamicObject) -> (Arc<str>, Value) {
    let metadata = &object.metadata;
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let created = metadata.creation_timestamp.as_ref();
    let created = created.and_then(|created| serde_json::to_value(created).ok());
    let mut fields = BTreeMap::from([
        ("kind", json!(kind)),
        (
            "metadata",
            json!({"name": name, "namespace": namespace, "creationTimestamp": created}),
        ),
    ]);
    if let Some(types) = &object.types {
        fields.insert("apiVersion", json!(types.api_version));
    }
    if let Some(spec) = object.data.get("spec") {
        fields.insert("spec", spec.clone());
    }
    (format!("{kind} {namespace}/{name}").into(), json!(fields))
}
