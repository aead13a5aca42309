//! JSON schemas to what the API server of Kubernetes takes: structural schemas, in which nothing is referred
//! to, every value has one type, and alternatives say nothing of types.

use serde_json::{Map, Value, json};

/// The schema of a document as that of objects of the same kind.
pub(super) fn structural(root: &Value) -> Value {
    let mut schema = Structural { root }.node(root);
    // The server has its own idea of these, and takes no default for them.
    schema["properties"]["metadata"] = json!({"type": "object"});
    for name in ["apiVersion", "kind"] {
        schema["properties"][name] = json!({"type": "string"});
    }
    schema["required"] = root["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|name| *name == "spec")
        .cloned()
        .collect();
    schema
}

struct Structural<'a> {
    root: &'a Value,
}

impl Structural<'_> {
    fn node(&self, schema: &Value) -> Value {
        let mut found = self.resolved(schema);
        let mut node = Map::new();
        set_type(&mut node, &mut found);
        if let Some(words) = words(&mut found) {
            let described = format!("{}{}", description(&found), words.meanings);
            node.insert("description".into(), described.into());
            node.insert("enum".into(), words.names.into());
            node.insert("type".into(), "string".into());
        } else if found.contains_key("description") {
            node.insert("description".into(), description(&found).into());
        }
        if let Some(Value::Object(fields)) = found.remove("properties") {
            let fields = fields
                .iter()
                .map(|(name, field)| (name.clone(), self.node(field)));
            node.insert("properties".into(), Value::Object(fields.collect()));
        }
        if let Some(items) = found.remove("items") {
            node.insert("items".into(), self.node(&items));
        }
        if let Some(bound) = found.remove("exclusiveMinimum") {
            // A flag in OpenAPI 3.0.
            node.insert("exclusiveMinimum".into(), true.into());
            node.insert("minimum".into(), bound);
        }
        if let Some(default) = found.remove("default").filter(is_worth_writing) {
            node.insert("default".into(), default);
        }
        let kept = found.into_iter().filter(|(key, _)| is_kept(key));
        for (key, value) in kept {
            node.entry(key).or_insert(value);
        }
        Value::Object(node)
    }

    /// What a schema refers to, with what it says beside that; without the alternative of there being nothing.
    fn resolved(&self, schema: &Value) -> Map<String, Value> {
        let mut own = schema.as_object().cloned().unwrap_or_default();
        let target = if let Some(name) = own.remove("$ref") {
            let pointer = name.as_str().unwrap_or_default().trim_start_matches('#');
            self.root.pointer(pointer).cloned()
        } else if let Some(Value::Array(any)) = own.remove("anyOf") {
            any.into_iter().find(|one| one["type"] != "null")
        } else {
            return own;
        };
        let mut found = self.resolved(&target.unwrap_or_default());
        for (key, value) in own {
            match (found.get_mut(&key), value) {
                (Some(Value::Array(rules)), Value::Array(more)) if key == RULES => rules.extend(more),
                (_, value) => drop(found.insert(key, value)),
            }
        }
        found
    }
}

/// One type, whatever the value may be beside it.
fn set_type(node: &mut Map<String, Value>, found: &mut Map<String, Value>) {
    let types = match found.remove("type") {
        Some(Value::Array(types)) => types,
        Some(one) => vec![one],
        None => Vec::new(),
    };
    let has = |name: &str| types.iter().any(|one| one == name);
    if has("string") && has("integer") {
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        node.insert("anyOf".into(), either);
        node.insert("x-kubernetes-int-or-string".into(), true.into());
    } else if has("string") && has("object") {
        // What is said of texts holds for texts here, and what is said of maps for maps.
        node.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    } else if let Some(one) = types.into_iter().find(|one| one != "null") {
        node.insert("type".into(), one);
    }
    // Formats of Rust's numbers; the server knows two.
    match found.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16") => drop(found.insert("format".into(), "int32".into())),
        Some("uint32") => {
            found.insert("format".into(), "int64".into());
            found.entry("maximum").or_insert(u32::MAX.into());
        }
        Some("uint" | "uint64") => drop(found.insert("format".into(), "int64".into())),
        _ => {}
    }
}

/// The words of an enum, and what they mean.
struct Words {
    names: Vec<Value>,
    meanings: String,
}

fn words(found: &mut Map<String, Value>) -> Option<Words> {
    let Some(Value::Array(variants)) = found.remove("oneOf") else {
        return None;
    };
    let meaning = |variant: &Value| {
        let meaning = variant["description"].as_str()?.replace('\n', " ");
        Some(format!("\n- `{}`: {meaning}", variant["const"].as_str()?))
    };
    Some(Words {
        meanings: variants.iter().filter_map(meaning).collect(),
        names: variants
            .into_iter()
            .map(|mut variant| variant["const"].take())
            .collect(),
    })
}

/// Lines of the source are no lines of the text.
fn description(found: &Map<String, Value>) -> String {
    let text = found
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    text.replace("\n\n", "\0")
        .replace('\n', " ")
        .replace('\0', "\n\n")
}

/// What a map holds by default stands at its own fields, and nothing need not be written into an object.
fn is_worth_writing(default: &Value) -> bool {
    match default {
        Value::Null | Value::Object(_) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// What has been dealt with is no more there. Unknown fields are dropped or refused whatever a schema says of them.
fn is_kept(key: &str) -> bool {
    let bounds = [
        "enum",
        "format",
        "maximum",
        "minimum",
        "pattern",
        "required",
        "maxItems",
        "maxLength",
        "maxProperties",
        "minItems",
        "minLength",
        "minProperties",
    ];
    bounds.contains(&key) || key.starts_with("x-kubernetes-")
}

/// The keyword under which an API server looks for rules.
const RULES: &str = "x-kubernetes-validations";
