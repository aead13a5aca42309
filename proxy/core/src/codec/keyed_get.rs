//! `keyedGet`: GETs that differ in one variable of the path become one GET of a list, and each
//! caller gets the element that has its key.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use http::{Method, StatusCode};
use smallvec::SmallVec;

use super::bodies::{Bodies, SHARED_FROM};
use super::json::{Name, Scan, Span, decoded_string};
use super::pointer::{Pointer, walk};
use super::{Call, Chunks, Codec, CodecError, Encoded, ITEM, MemberReply, Read, Reply, Unsplit, open_reply};
use crate::Bypass;

mod template;

#[cfg(test)]
mod tests;

use template::Template;

/// The most bytes of a batch's path and query. Servers commonly refuse a request line of 8 KiB.
const MAX_TARGET: usize = 7 * 1024;

/// What is done about an id that the reply does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// The call is sent alone: only the upstream knows whether the id is an alias or unknown.
    #[default]
    AskAlone,
    /// The caller gets a 404 without a body.
    NotFound,
}

/// How many GETs become one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyedGetSettings {
    /// The variables of the route's template, in its order.
    pub variables: Vec<String>,
    /// The variable that becomes a list. `None`: the template's last.
    pub item: Option<String>,
    /// Path and query of the batch request: an RFC 6570 template over the variables.
    pub batch_path: String,
    /// Where the reply has its elements; a JSON pointer. Empty: the whole body.
    pub elements: String,
    /// Where an element of an array has its key; a JSON pointer. `None`: the elements are the
    /// members of an object, whose names are the keys.
    pub key: Option<String>,
    /// What is done about an id that the reply does not have.
    pub missing: Missing,
}

/// The codec.
#[derive(Clone, Debug)]
pub struct KeyedGet {
    item: Box<str>,
    template: Template,
    elements: Pointer,
    key: Option<Pointer>,
    missing: Missing,
}

/// One call's key, and the path of a batch around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedItem {
    /// The path and query of a batch that has only this key.
    target: Box<str>,
    /// Where the key stands, percent-encoded.
    id: Span,
    /// The decoded key, where that is not the same text.
    decoded: Option<Box<str>>,
}

impl KeyedItem {
    fn key(&self) -> &str {
        self.decoded
            .as_deref()
            .unwrap_or_else(|| &self.target[self.id.start..self.id.end])
    }
}

impl KeyedGet {
    /// A codec from checked settings.
    ///
    /// # Errors
    /// The first setting that does not fit.
    pub fn new(settings: &KeyedGetSettings) -> Result<Self, CodecError> {
        let item = match &settings.item {
            Some(item) if settings.variables.contains(item) => item,
            Some(item) => {
                let expected = "a variable of the route's path template";
                return Err(CodecError {
                    field: "item",
                    value: item.clone(),
                    expected,
                });
            }
            None => settings.variables.last().ok_or_else(|| CodecError {
                field: "match.path",
                value: String::new(),
                expected: "a template with a variable, such as /users/{id}",
            })?,
        };
        Ok(Self {
            template: Template::parse(&settings.batch_path, item, &settings.variables)?,
            item: item.as_str().into(),
            elements: Pointer::parse("elements", &settings.elements)?,
            key: settings
                .key
                .as_deref()
                .map(|key| Pointer::parse("key", key))
                .transpose()?,
            missing: settings.missing,
        })
    }

    /// The variable whose value is the call's own; the rest of its path is part of the batch key.
    pub fn item_variable(&self) -> &str {
        &self.item
    }

    /// Finds every element with its key.
    fn read_elements<'r>(&self, reply: &Reply<'r>) -> Result<Elements<'r>, Unsplit> {
        let body: &'r [u8] = reply.body;
        let mut scan = open_reply(reply)?;
        let mut found = None;
        let whole = walk(&mut scan, &[&self.elements], &mut |_, scan| {
            found = Some(match &self.key {
                Some(key) => read_array(scan, key, body)?,
                None => read_object(scan)?,
            });
            Ok::<(), Unsplit>(())
        })?;
        scan.end()?;
        Ok(Elements {
            whole,
            keyed: found.ok_or(Unsplit::Shape("no elements"))?,
        })
    }
}

/// A decoded key, and the place of its element.
type Keyed<'r> = (Cow<'r, [u8]>, Span);

/// The elements of a reply.
struct Elements<'r> {
    /// The place of the JSON value that the body is.
    whole: Span,
    keyed: Vec<Keyed<'r>>,
}

impl Codec for KeyedGet {
    type Item = KeyedItem;

    fn read(&self, call: &Call<'_>) -> Result<Read<KeyedItem>, Bypass> {
        if call.method != Method::GET || !call.body.is_empty() {
            return Err(Bypass::Kind);
        }
        let (target, id) = self.template.expand(call)?;
        let (prefix, suffix) = (&target[..id.start], &target[id.end..]);
        let (bytes, shared_bytes) = (
            id.len() + self.template.separator().len(),
            prefix.len() + suffix.len(),
        );
        if bytes + shared_bytes > MAX_TARGET {
            return Err(Bypass::TooLarge);
        }
        let mut invariants = SmallVec::new();
        invariants.extend_from_slice(prefix.as_bytes());
        invariants.push(ITEM);
        invariants.extend_from_slice(suffix.as_bytes());
        let decoded = decode(&target[id.start..id.end])?;
        let item = KeyedItem {
            target: target.into(),
            id,
            decoded,
        };
        Ok(Read {
            item,
            count: 1,
            bytes,
            shared_bytes,
            invariants,
        })
    }

    fn encode(&self, items: &[&KeyedItem], _first_id: u64) -> Encoded {
        let separator = self.template.separator();
        let mut asked: HashSet<&str, foldhash::fast::RandomState> = HashSet::default();
        let mut target = String::new();
        for item in items {
            if !asked.insert(item.key()) {
                continue;
            }
            if target.is_empty() {
                target.reserve(item.target.len() + items.len() * (item.id.len() + separator.len() + 8));
                target.push_str(&item.target[..item.id.start]);
            } else {
                target.push_str(separator);
            }
            target.push_str(&item.target[item.id.start..item.id.end]);
        }
        if let Some(first) = items.first() {
            target.push_str(&first.target[first.id.end..]);
        }
        Encoded {
            path_and_query: Some(target),
            body: Chunks::new(),
        }
    }

    fn split(
        &self,
        items: &[&KeyedItem],
        _first_id: u64,
        reply: &Reply<'_>,
    ) -> Result<Vec<MemberReply>, Unsplit> {
        let elements = self.read_elements(reply)?;
        let mut places: HashMap<&[u8], Option<Span>, foldhash::fast::RandomState> =
            items.iter().map(|item| (item.key().as_bytes(), None)).collect();
        let mut stranger = false;
        for (key, element) in &elements.keyed {
            match places.get_mut(&**key) {
                None => stranger = true,
                Some(Some(_)) => return Err(Unsplit::Id("two elements with one key")),
                Some(place) => *place = Some(*element),
            }
        }
        if stranger {
            return Err(strange(items, &places));
        }
        let body = reply.body;
        let mut out = Bodies::with_capacity(items.len(), body.len().min(items.len() * SHARED_FROM));
        let found: Vec<bool> = items
            .iter()
            .map(|item| {
                let place = places.get(item.key().as_bytes()).copied().flatten();
                if let Some(place) = place {
                    // White space around the body, such as a final newline, is around a direct reply too.
                    out.slice(body, Span::new(0, elements.whole.start));
                    out.slice(body, place);
                    out.slice(body, Span::new(elements.whole.end, body.len()));
                }
                out.end();
                place.is_some()
            })
            .collect();
        let reply = |(found, body)| match (found, self.missing) {
            (true, _) => MemberReply::Ready {
                status: StatusCode::OK,
                body,
            },
            (false, Missing::AskAlone) => MemberReply::AskAlone,
            (false, Missing::NotFound) => MemberReply::Ready {
                status: StatusCode::NOT_FOUND,
                body: Chunks::new(),
            },
        };
        Ok(found.into_iter().zip(out.finish()).map(reply).collect())
    }

    fn all_or_nothing(&self) -> bool {
        true
    }

    fn max_bytes(&self) -> Option<usize> {
        Some(MAX_TARGET)
    }
}

/// An element that nobody asked for: `007` may be known as `7`. Who has none is the suspect.
fn strange(
    items: &[&KeyedItem],
    places: &HashMap<&[u8], Option<Span>, foldhash::fast::RandomState>,
) -> Unsplit {
    let has_none = |item: &&KeyedItem| places.get(item.key().as_bytes()).is_none_or(Option::is_none);
    let positions = items.iter().enumerate().filter(|(_, item)| has_none(item));
    let suspects: Vec<usize> = positions.map(|(position, _)| position).collect();
    if suspects.is_empty() {
        return Unsplit::Id("an element that nobody asked for");
    }
    Unsplit::Stranger { suspects }
}

/// Reads an array of elements that hold their key.
fn read_array<'r>(scan: &mut Scan<'r>, key: &Pointer, body: &'r [u8]) -> Result<Vec<Keyed<'r>>, Unsplit> {
    if scan.peek() != Some(b'[') {
        return Err(Unsplit::Shape("the elements are not an array"));
    }
    let mut keyed = Vec::with_capacity(64);
    scan.elements(|scan| {
        let mut found = None;
        let element = walk(scan, &[key], &mut |_, scan| {
            found = Some(scan.value()?);
            Ok::<(), Unsplit>(())
        })?;
        let text = found.ok_or(Unsplit::Id("an element without a key"))?.of(body);
        let key = match text.first() {
            Some(b'"') => decoded_string(text),
            Some(b'-' | b'0'..=b'9') => Cow::Borrowed(text),
            Some(_) | None => return Err(Unsplit::Id("a key that is neither text nor number")),
        };
        keyed.push((key, element));
        Ok::<(), Unsplit>(())
    })?;
    Ok(keyed)
}

/// Reads an object whose names are keys.
fn read_object<'r>(scan: &mut Scan<'r>) -> Result<Vec<Keyed<'r>>, Unsplit> {
    if scan.peek() != Some(b'{') {
        return Err(Unsplit::Shape("the elements are not an object"));
    }
    let mut keyed = Vec::with_capacity(64);
    scan.members(|scan, name: Name<'r>| {
        keyed.push((name.decoded(), scan.value()?));
        Ok::<(), Unsplit>(())
    })?;
    Ok(keyed)
}

/// Percent-decodes a key; `None` when it stands for itself.
fn decode(id: &str) -> Result<Option<Box<str>>, Bypass> {
    if !id.contains('%') {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(id.len());
    let mut rest = id.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        // The template made sure that two digits follow.
        let digits = behind.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        bytes.push(
            digits
                .and_then(|two| u8::from_str_radix(two, 16).ok())
                .ok_or(Bypass::AmbiguousId)?,
        );
        rest = &behind[2..];
    }
    // A key that is no text cannot be in a JSON reply.
    String::from_utf8(bytes)
        .map(|text| Some(text.into()))
        .map_err(|_| Bypass::AmbiguousId)
}
