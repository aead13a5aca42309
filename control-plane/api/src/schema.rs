//! The JSON schemas of the resources, for editors and for the CRD.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::{Backend, BatchPolicy, Listener, Runtime};

/// The schema of each kind, by its name.
pub fn json_schemas() -> Vec<(&'static str, Value)> {
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

#[cfg(test)]
mod tests;
