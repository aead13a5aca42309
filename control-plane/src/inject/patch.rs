//! A JSON Patch (RFC 6902): what there is stays in its order.

use serde_json::{Map, Value, json};

/// Operations, in order.
#[derive(Debug, Default)]
pub(crate) struct Patch(Vec<Value>);

impl Patch {
    /// Puts `items` in front of the list that is `field` of `of`, which is at `path`.
    pub(crate) fn first(&mut self, path: &str, of: &Value, field: &str, items: Vec<Value>) {
        if of[field].is_array() {
            for (at, item) in items.into_iter().enumerate() {
                self.add(format!("{path}/{field}/{at}"), item);
            }
        } else {
            self.add(format!("{path}/{field}"), Value::Array(items));
        }
    }

    /// Puts them at its end.
    pub(crate) fn last(&mut self, path: &str, of: &Value, field: &str, items: Vec<Value>) {
        if of[field].is_array() {
            for item in items {
                self.add(format!("{path}/{field}/-"), item);
            }
        } else {
            self.add(format!("{path}/{field}"), Value::Array(items));
        }
    }

    /// Sets `name` in the map that is `field` of `of`, which is at `path`.
    pub(crate) fn entry(&mut self, path: &str, of: &Value, field: &str, name: &str, value: Value) {
        let entry = |value| Value::Object(Map::from_iter([(name.to_owned(), value)]));
        if of[field].is_object() {
            self.add(format!("{path}/{field}/{}", escaped(name)), value);
        } else if of.is_object() {
            self.add(format!("{path}/{field}"), entry(value));
        } else {
            self.add(path.to_owned(), json!({field: entry(value)}));
        }
    }

    /// Puts `value` in the place of what is at `path`.
    #[expect(clippy::needless_pass_by_value, reason = "it becomes part of the patch")]
    pub(crate) fn replace(&mut self, path: String, value: Value) {
        self.0
            .push(json!({"op": "replace", "path": path, "value": value}));
    }

    /// The operations.
    pub(crate) fn into_operations(self) -> Vec<Value> {
        self.0
    }

    #[expect(clippy::needless_pass_by_value, reason = "it becomes part of the patch")]
    fn add(&mut self, path: String, value: Value) {
        self.0.push(json!({"op": "add", "path": path, "value": value}));
    }
}

/// A name as part of a JSON Pointer (RFC 6901, section 3).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
