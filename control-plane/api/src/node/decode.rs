//! Trees to typed values through serde, with every fault of a document instead of its first.
//!
//! Serde stops at a fault. So the part that is at fault is cut out and decoding starts again,
//! until nothing is at fault or what is left cannot be decoded.

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};

use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{Entry, Node, Path, Place, Value};
use crate::diagnostic::nearest;

/// What is wrong with a part of a tree.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) path: Path,
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// Decodes a tree; `None` when too much of it is at fault.
pub(crate) fn decode<'de, T: Deserialize<'de>>(root: &'de Node) -> (Option<T>, Vec<Fault>) {
    let mut cut = HashSet::new();
    let mut faults = Vec::new();
    while faults.len() < MAX_FAULTS {
        let error = match T::deserialize(Decoder {
            node: root,
            path: Path::default(),
            cut: &cut,
        }) {
            Ok(value) => return (Some(value), faults),
            Err(error) => error,
        };
        let (culprit, fault) = error.blame(root);
        // What is missing because it was cut out has been told.
        if !fault.is_echo {
            faults.push(fault.fault);
        }
        if culprit == root.id || !cut.insert(culprit) {
            break;
        }
    }
    (None, faults)
}

/// Decodes one node.
struct Decoder<'de, 'c> {
    node: &'de Node,
    path: Path,
    /// Ids of nodes that count as absent.
    cut: &'c HashSet<usize>,
}

impl<'de, 'c> Decoder<'de, 'c> {
    fn visit_list<V: Visitor<'de>>(&self, items: &'de [Node], visitor: V) -> Result<V::Value, Blame> {
        visitor.visit_seq(Items {
            items: items.iter().enumerate(),
            path: &self.path,
            cut: self.cut,
        })
    }

    fn visit_map<V: Visitor<'de>>(&self, entries: &'de [Entry], visitor: V) -> Result<V::Value, Blame> {
        let missing = entries.iter().filter(|entry| self.cut.contains(&entry.value.id));
        let cut_names = missing.map(|entry| entry.key.as_str()).collect::<Vec<_>>();
        let entries = Entries {
            entries: entries.iter(),
            value: None,
            path: &self.path,
            cut: self.cut,
        };
        visitor.visit_map(entries).map_err(|mut error| {
            if let Some(name) = error.missing
                && cut_names.contains(&name)
            {
                error.is_echo = true;
            }
            error
        })
    }
}

impl<'de> Deserializer<'de> for Decoder<'de, '_> {
    type Error = Blame;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Blame> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_u64(value),
                (_, Ok(value)) => visitor.visit_i64(value),
                _ => visitor.visit_i128(*value),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => self.visit_list(items, visitor),
            Value::Map(entries) => self.visit_map(entries, visitor),
        };
        result.map_err(|error| error.at(self.node.id, &self.path, self.node.place))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Blame> {
        if matches!(self.node.value, Value::Null) {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Blame> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Blame> {
        // Serde would take a list, too, as the fields in their order.
        if matches!(self.node.value, Value::Map(_)) {
            return self.deserialize_any(visitor);
        }
        let error = Blame::invalid_type(unexpected(&self.node.value), &visitor);
        Err(error.at(self.node.id, &self.path, self.node.place))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Blame> {
        let (id, place) = (self.node.id, self.node.place);
        let result = match self.node.text() {
            Some(text) => visitor.visit_enum(Word(text)),
            None => Err(Blame::invalid_type(unexpected(&self.node.value), &"a word")),
        };
        result.map_err(|error| error.at(id, &self.path, place))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Integer(value) => {
            i64::try_from(*value).map_or(Unexpected::Other("number"), Unexpected::Signed)
        }
        Value::Float(value) => Unexpected::Float(*value),
        Value::String(text) => Unexpected::Str(text),
        Value::List(_) => Unexpected::Seq,
        Value::Map(_) => Unexpected::Map,
    }
}

struct Items<'de, 'c> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
    path: &'c Path,
    cut: &'c HashSet<usize>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Blame;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Blame> {
        let Some((index, node)) = self.items.by_ref().find(|(_, node)| !self.cut.contains(&node.id)) else {
            return Ok(None);
        };
        seed.deserialize(Decoder {
            node,
            path: self.path.index(index),
            cut: self.cut,
        })
        .map(Some)
    }
}

struct Entries<'de, 'c> {
    entries: std::slice::Iter<'de, Entry>,
    value: Option<&'de Entry>,
    path: &'c Path,
    cut: &'c HashSet<usize>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Blame;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Blame> {
        let Some(entry) = self
            .entries
            .by_ref()
            .find(|entry| !self.cut.contains(&entry.value.id))
        else {
            return Ok(None);
        };
        self.value = Some(entry);
        let name = seed.deserialize(StrDeserializer::<Blame>::new(&entry.key));
        // A field that is not known is cut out with its value.
        name.map(Some)
            .map_err(|error| error.at(entry.value.id, &self.path.key(&entry.key), entry.key_place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Blame> {
        let Some(entry) = self.value.take() else {
            return Err(Blame::custom("a value without a name"));
        };
        let path = self.path.key(&entry.key);
        seed.deserialize(Decoder {
            node: &entry.value,
            path,
            cut: self.cut,
        })
    }
}

/// The text of an enum: our enums are words.
struct Word<'de>(&'de str);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = Blame;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Blame> {
        Ok((seed.deserialize(StrDeserializer::<Blame>::new(self.0))?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'de> {
    type Error = Blame;

    fn unit_variant(self) -> Result<(), Blame> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Blame> {
        Err(Blame::custom("a word cannot hold a value"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Blame> {
        Err(Blame::custom("a word cannot hold values"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Blame> {
        Err(Blame::custom("a word cannot hold fields"))
    }
}

/// A fault on its way up: it learns its place from the innermost node that sees it.
#[derive(Debug)]
struct Blame {
    message: String,
    /// The field whose absence is the fault.
    missing: Option<&'static str>,
    is_echo: bool,
    seen: Option<(usize, Path, Place)>,
}

struct Told {
    fault: Fault,
    is_echo: bool,
}

impl Blame {
    fn new(message: String) -> Self {
        Self {
            message,
            missing: None,
            is_echo: false,
            seen: None,
        }
    }

    fn at(mut self, id: usize, path: &Path, place: Place) -> Self {
        self.seen.get_or_insert_with(|| (id, path.clone(), place));
        self
    }

    fn blame(self, root: &Node) -> (usize, Told) {
        let (id, path, place) = self
            .seen
            .unwrap_or_else(|| (root.id, Path::default(), root.place));
        let path = match self.missing {
            Some(name) => path.key(name),
            None => path,
        };
        (
            id,
            Told {
                fault: Fault {
                    path,
                    place,
                    message: self.message,
                },
                is_echo: self.is_echo,
            },
        )
    }
}

impl Display for Blame {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Blame {}

impl serde::de::Error for Blame {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!(
            "found {}, expected {}",
            self::found(found),
            plain(&expected.to_string())
        ))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!(
            "found {found:?}, expected {}{}",
            one_of(known),
            meant(found, known)
        ))
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!(
            "unknown field{}; expected {}",
            meant(found, known),
            one_of(known)
        ))
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            missing: Some(field),
            ..Self::new("found nothing, but this field is required".to_owned())
        }
    }
}

fn meant(found: &str, known: &[&'static str]) -> String {
    nearest(found, known.iter().copied())
        .map(|name| format!(" (did you mean {name}?)"))
        .unwrap_or_default()
}

/// `a`, `a or b`, `one of a, b, c`.
fn one_of(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [name] => (*name).to_owned(),
        [one, other] => format!("{one} or {other}"),
        names => format!("one of {}", names.join(", ")),
    }
}

/// What serde expects, in words that are not Rust's.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f64" | "f32" => "a number",
        "a sequence" => "a list",
        "a map" => "a map of fields",
        other if other.starts_with("struct ") => "a map of fields",
        other => other,
    }
}

/// What was found, as it stands in the file.
fn found(value: Unexpected<'_>) -> String {
    // Serde says `integer `5``, `string "x"`, `sequence`: correct, but not what stands in the file.
    let text = value.to_string();
    let word = |prefix: &str| {
        text.strip_prefix(prefix)
            .map(|rest| rest.trim_matches('`').to_owned())
    };
    let scalar = ["integer ", "floating point ", "boolean ", "string "]
        .into_iter()
        .find_map(word);
    scalar.unwrap_or_else(|| match text.as_str() {
        "unit value" => "nothing".to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "a map of fields".to_owned(),
        _ => text,
    })
}

/// Faults of one document that are told; a file with more is not read to its end.
const MAX_FAULTS: usize = 100;
