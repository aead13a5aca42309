//! The schemas of the resources: as JSON schemas for editors, and as definitions for Kubernetes.

mod definitions;
pub(crate) mod rules;
mod structural;
mod yaml;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::{Backend, BatchPolicy, Listener, Runtime};

pub use definitions::custom_resource_definitions;
pub use yaml::to_yaml;

/// The schema of each kind, by its name.
pub fn json_schemas() -> Vec<(&'static str, Value)> {
    let mut schemas = whole_schemas();
    for (_, schema) in &mut schemas {
        without_rules(schema);
    }
    schemas
}

/// The same with what Kubernetes alone understands.
fn whole_schemas() -> Vec<(&'static str, Value)> {
    // The contract is that of reading: a field with a default may be left out.
    let generator = || SchemaSettings::draft2020_12().for_deserialize().into_generator();
    [
        ("BatchPolicy", generator().into_root_schema_for::<BatchPolicy>()),
        ("Backend", generator().into_root_schema_for::<Backend>()),
        ("Listener", generator().into_root_schema_for::<Listener>()),
        ("Runtime", generator().into_root_schema_for::<Runtime>()),
    ]
    .map(|(name, schema)| (name, schema.to_value()))
    .into()
}

/// Takes out what editors do not know.
fn without_rules(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.starts_with("x-kubernetes-"));
            fields.values_mut().for_each(without_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(without_rules),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests;
