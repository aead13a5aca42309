//! YAML, and with it JSON, to trees: any number of documents, within bounds on what they may cost.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
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
    let message = in_words(error).unwrap_or_else(|| {
        // The place is told in front of the message already.
        let text = error.to_string();
        let told = format!(" at line {}, column {}", place.line, place.column);
        format!("not valid YAML: {}", text.strip_suffix(&*told).unwrap_or(&text))
    });
    Diagnostic {
        line: place.line,
        column: place.column,
        ..Diagnostic::of_file(file, message)
    }
}

/// What the reader says to whoever writes programs with it, for who writes files; `None` where it speaks of
/// the text itself.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most of its errors are about YAML and say what is wrong with it"
)]
fn in_words(error: &serde_saphyr::Error) -> Option<String> {
    use serde_saphyr::Error as E;
    let words = match error {
        E::DuplicateMappingKey { key: Some(key), .. } => {
            return Some(format!("found the field {key:?} twice, expected it once"));
        }
        E::DuplicateMappingKey { key: None, .. } => "found a field twice, expected it once",
        E::Budget { breach, .. } => return Some(too_much(breach)),
        E::NullIntoString { .. } => "found no name in front of ':', expected the name of a field",
        // Nothing but names of fields is read as a certain type.
        E::Unexpected { .. } => "found a list or a map in front of ':', expected the name of a field",
        E::TaggedScalarCannotDeserializeIntoString { .. } => {
            "found a value of a type of its own in front of ':', expected the name of a field"
        }
        E::BinaryNotUtf8 { .. } => "found !!binary that is no UTF-8 text, expected text",
        E::RecursiveReferencesRequireWeakTypes { .. } => "found an alias inside what it stands for",
        E::InvalidScalar { ty, .. } if ty.contains("float") => "found no number behind !!float",
        E::InvalidScalar { .. } => "found no whole number behind !!int",
        E::InvalidBooleanStrict { .. } => "found neither true nor false behind !!bool",
        E::NonFiniteFloat { value, .. } => {
            return Some(format!("found {value}, expected a number that is not infinite"));
        }
        _ => return None,
    };
    Some(words.to_owned())
}

fn too_much(breach: &BudgetBreach) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others cannot come before these"
    )]
    match breach {
        BudgetBreach::Depth { .. } => {
            format!("found lists and maps inside one another, expected at most {MAX_DEPTH} levels")
        }
        BudgetBreach::Aliases { .. } => format!("found too many aliases, expected at most {MAX_ALIASES}"),
        _ => format!("found more than a policy file may hold, expected at most {MAX_NODES} values"),
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

/// Levels of lists and maps: a policy has about ten. The reader goes down into each, and is to come back from
/// there with the stack of a thread, 2 MiB, in a build that is not optimized, too: it takes 36 KiB a level.
const MAX_DEPTH: usize = 32;

const MAX_ALIASES: usize = 1_000;
