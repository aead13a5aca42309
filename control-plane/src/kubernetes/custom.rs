//! Objects of Jitney's own kinds, each read by the code that reads files.

use std::collections::BTreeMap;
use std::sync::Arc;

use jitney_api::{Diagnostic, Document, Documents, check_pushed};
use kube::core::DynamicObject;
use serde_json::{Value, json};

/// An object of one of Jitney's kinds.
#[derive(Clone, Debug)]
pub struct Custom {
    /// Its generation: what [`Custom::faults`] are about, and [`Custom::good`] if there are none.
    pub generation: i64,
    /// The last version without a fault; `None` when there was none.
    pub good: Option<Document>,
    /// Why the present version is not in force.
    pub faults: Vec<Diagnostic>,
    /// What is odd about it.
    pub warnings: Vec<Diagnostic>,
    read: Value,
}

impl Custom {
    /// Reads an object. What was good before stays where this is not.
    pub(super) fn read(kind: &str, object: &DynamicObject, before: Option<&Self>) -> Self {
        let (name, document) = document(kind, object);
        let generation = object.metadata.generation.unwrap_or_default();
        if let Some(same) = before.filter(|before| before.read == document) {
            return Self {
                generation,
                ..same.clone()
            };
        }
        let documents = Documents::of_json([(name, document.clone())]);
        let (faults, warnings) = check_pushed(&documents)
            .into_iter()
            .partition::<Vec<_>, _>(Diagnostic::is_error);
        let good = match faults.is_empty() {
            true => documents.documents.into_iter().next(),
            false => before.and_then(|before| before.good.clone()),
        };
        Self {
            generation,
            good,
            faults,
            warnings,
            read: document,
        }
    }

    /// Whether it comes to the same as another reading.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.generation == other.generation && self.read == other.read
    }
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
