//! YAML, and with it JSON, to trees: any number of documents, within bounds on what they may cost.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::{Entry, Node, Place, Value};
use crate::Diagnostic;

/// Reads all documents of a text; empty ones are left out.
///
/// # Errors
/// The first place where the text is no YAML, or more than the bounds allow.
pub(crate) fn parse(file: &Arc<str>, text: &str) -> Result<Vec<Node>, Diagnostic> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
            max_aliases: MAX_ALIASES,
        },
        // `on` and `yes` are words, as in YAML 1.2.
        strict_booleans: true,
        with_snippet: false,
    };
    let documents = serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options)
        .map_err(|error| fault(file, &error))?;
    let mut ids = 0..;
    Ok(documents
        .into_iter()
        .map(|document| node(document, &mut ids))
        .collect())
}

fn fault(file: &Arc<str>, error: &serde_saphyr::Error) -> Diagnostic {
    let error = error.without_snippet();
    let place = error
        .location()
        .map(|location| place(&location))
        .unwrap_or_default();
    let error = if let serde_saphyr::Error::AliasError { error, .. } = error {
        error
    } else {
        error
    };
    let message = if let serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } = error {
        format!("found the field {key:?} twice, expected it once")
    } else if let serde_saphyr::Error::Budget { breach, .. } = error {
        format!("found more than a policy file may hold: {breach:?}")
    } else {
        // The place is told in front of the message already.
        let text = error.to_string();
        let told = format!(" at line {}, column {}", place.line, place.column);
        format!("not valid YAML: {}", text.strip_suffix(&*told).unwrap_or(&text))
    };
    Diagnostic {
        line: place.line,
        column: place.column,
        ..Diagnostic::of_file(file, message)
    }
}

fn place(location: &Location) -> Place {
    Place {
        line: location.line(),
        column: location.column(),
    }
}

fn node(raw: Spanned<Raw>, ids: &mut std::ops::RangeFrom<usize>) -> Node {
    let place = place(&raw.referenced);
    let id = ids.next().unwrap_or_default();
    let value = match raw.value {
        Raw::Scalar(value) => value,
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, ids)).collect()),
        Raw::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| Entry {
                key_place: self::place(&key.referenced),
                key: key.value,
                value: node(value, ids),
            });
            Value::Map(entries.collect())
        }
    };
    Node { id, place, value }
}

/// A node as the parser gives it.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Raw, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Raw, E> {
        self.visit_i128(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Raw, E> {
        self.visit_i128(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Integer(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

/// Nodes of one document, those that aliases stand for included.
const MAX_NODES: usize = 100_000;

/// Levels of lists and maps: a policy has about ten.
const MAX_DEPTH: usize = 64;

const MAX_ALIASES: usize = 1_000;
