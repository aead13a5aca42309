//! A document as a tree in which everything knows its place. Typed values are decoded from it,
//! and faults that are found later ask it for line and column.

mod decode;
mod path;
mod yaml;

pub(crate) use decode::decode;
pub(crate) use path::Path;
pub(crate) use yaml::parse;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Tells the nodes of one file apart.
    pub(crate) id: usize,
    pub(crate) place: Place,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// A value that stands in no file.
    pub(crate) fn of_json(value: &serde_json::Value) -> Self {
        Self::numbered(value, &mut 0)
    }

    fn numbered(value: &serde_json::Value, ids: &mut usize) -> Self {
        let id = *ids;
        *ids += 1;
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => number.as_i128().map_or_else(
                || Value::Float(number.as_f64().unwrap_or_default()),
                Value::Integer,
            ),
            serde_json::Value::String(text) => Value::String(text.clone()),
            serde_json::Value::Array(list) => {
                Value::List(list.iter().map(|one| Self::numbered(one, ids)).collect())
            }
            serde_json::Value::Object(map) => {
                let entry = |(key, value): (&String, &serde_json::Value)| Entry {
                    key: key.clone(),
                    key_place: Place::default(),
                    value: Self::numbered(value, ids),
                };
                Value::Map(map.iter().map(entry).collect())
            }
        };
        Self {
            id,
            place: Place::default(),
            value,
        }
    }

    /// The member of a map.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        entries
            .iter()
            .find(|entry| entry.key == name)
            .map(|entry| &entry.value)
    }

    /// The text of a text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Value::String(text) = &self.value {
            Some(text)
        } else {
            None
        }
    }

    /// Where the node of a path stands, or what is nearest above it.
    pub(crate) fn place_of(&self, path: &Path) -> Place {
        let mut node = self;
        for step in path.steps() {
            let below = match (step, &node.value) {
                (path::Step::Key(name), _) => node.member(name),
                (path::Step::Index(index), Value::List(items)) => items.get(*index),
                (path::Step::Index(_), _) => None,
            };
            let Some(below) = below else { break };
            node = below;
        }
        node.place
    }
}

#[cfg(test)]
mod tests;
