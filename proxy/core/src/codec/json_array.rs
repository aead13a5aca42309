//! `jsonArray`: an array in the request body is joined with those of other calls; the reply has an
//! array of as many results. Whatever else is in a body has to be equal, byte for byte.

use bytes::Bytes;
use smallvec::SmallVec;

use super::bodies::{Bodies, SHARED_FROM};
use super::json::{Scan, Span, whole_number};
use super::pointer::{Pointer, walk};
use super::{Call, Chunks, Codec, CodecError, Encoded, ITEM, MemberReply, Read, Reply, Unsplit};
use crate::Bypass;

mod divide;
mod preset;
mod results;
mod usage;

#[cfg(test)]
mod tests;

pub use preset::{PRESETS, Preset};

use results::Results;

/// Where a convention keeps its items and results; JSON pointers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonArraySettings {
    /// The items in a request: `/instances`. Empty: the whole body is the array.
    pub items: String,
    /// The results in a reply: `/predictions`. Empty: the whole body is the array.
    pub results: String,
    /// Inside a result, the position of its item: `/index`. Empty: results come in the order of
    /// the items.
    pub index: String,
    /// Members of the request that have to be equal. As all that is outside the items has to be
    /// equal anyway, naming one changes nothing; it is checked and serves the reader.
    pub invariants: Vec<String>,
    /// One item may stand without an array around it: a text, or an array of integers, which is
    /// one tokenised text. Items are then texts or token arrays, nothing else, and never both.
    pub scalar: bool,
    /// Counters in the reply that are shared out to the members in proportion to the length of
    /// their items, such that the shares sum to the whole: `/usage/total_tokens`. At most four.
    pub usage: Vec<String>,
}

/// The codec. Build it with [`JsonArray::new`] or from a [`Preset`].
#[derive(Clone, Debug)]
pub struct JsonArray {
    items: Pointer,
    /// The results, then the counters.
    reply: SmallVec<[Pointer; 4]>,
    index: Option<Pointer>,
    scalar: bool,
}

/// Counters of one convention: [`walk`] takes eight pointers at once.
const MAX_USAGE: usize = 4;

/// One call's items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayItem {
    body: Bytes,
    /// The array, or the scalar.
    value: Span,
    /// The items with the separators between them.
    content: Span,
    count: usize,
    /// Length of the items without what separates them: what counters are shared out by.
    weight: usize,
}

/// What stands for the items in a body.
struct Items {
    value: Span,
    content: Span,
    count: usize,
    weight: usize,
    kind: Kind,
}

/// What the items of one call are. Calls of different kinds are not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Not looked at.
    Any = 0,
    Texts = 1,
    TokenArrays = 2,
}

impl JsonArray {
    /// A codec from checked settings.
    ///
    /// # Errors
    /// The first setting that is not a JSON pointer, or that points to what another one points to.
    pub fn new(settings: &JsonArraySettings) -> Result<Self, CodecError> {
        let items = Pointer::parse("items", &settings.items)?;
        let mut reply: SmallVec<[Pointer; 4]> =
            SmallVec::from_iter([Pointer::parse("results", &settings.results)?]);
        if settings.usage.len() > MAX_USAGE {
            let value = settings.usage.join(", ");
            return Err(CodecError {
                field: "usage",
                value,
                expected: "a list of at most 4 JSON pointers",
            });
        }
        for text in &settings.usage {
            let pointer = Pointer::parse("usage", text)?;
            if reply.iter().any(|other| other.overlaps(&pointer)) {
                let expected = "a JSON pointer outside the results and the other counters";
                return Err(CodecError {
                    field: "usage",
                    value: text.clone(),
                    expected,
                });
            }
            reply.push(pointer);
        }
        for text in &settings.invariants {
            if Pointer::parse("invariants", text)?.overlaps(&items) {
                let expected = "a JSON pointer outside the items";
                return Err(CodecError {
                    field: "invariants",
                    value: text.clone(),
                    expected,
                });
            }
        }
        let index = Pointer::parse("index", &settings.index)?;
        Ok(Self {
            items,
            reply,
            index: (!index.is_root()).then_some(index),
            scalar: settings.scalar,
        })
    }

    /// Reads the value that stands for the items.
    fn read_items(&self, scan: &mut Scan<'_>, body: &[u8]) -> Result<Items, Bypass> {
        match scan.peek() {
            Some(b'[') => {}
            Some(b'"') if self.scalar => {
                let value = scan.value()?;
                return Ok(Items {
                    value,
                    content: value,
                    count: 1,
                    weight: value.len(),
                    kind: Kind::Texts,
                });
            }
            Some(_) | None => return Err(Bypass::Unparsable),
        }
        let mut list = List {
            body,
            ..List::default()
        };
        let value = scan.elements(|scan| {
            if self.scalar {
                list.classify(scan)
            } else {
                list.pass(scan)
            }
        })?;
        let kind = match list.kind {
            None if list.count == 0 => return Err(Bypass::Empty),
            Some(Element::Integer) => {
                return Ok(Items {
                    value,
                    content: value,
                    count: 1,
                    weight: value.len(),
                    kind: Kind::TokenArrays,
                });
            }
            Some(Element::Text) => Kind::Texts,
            Some(Element::TokenArray) => Kind::TokenArrays,
            None => Kind::Any,
        };
        Ok(Items {
            value,
            content: list.content,
            count: list.count,
            weight: list.weight,
            kind,
        })
    }
}

impl Codec for JsonArray {
    type Item = ArrayItem;

    fn read(&self, call: &Call<'_>) -> Result<Read<ArrayItem>, Bypass> {
        let body = call.body;
        let mut scan = Scan::new(body)?;
        let mut found = None;
        walk(&mut scan, &[&self.items], &mut |_, scan| {
            found = Some(self.read_items(scan, body)?);
            Ok::<(), Bypass>(())
        })?;
        scan.end()?;
        let Items {
            value,
            content,
            count,
            weight,
            kind,
        } = found.ok_or(Bypass::Unparsable)?;
        let (prefix, suffix) = (&body[..value.start], &body[value.end..]);
        let mut invariants = SmallVec::new();
        invariants.extend_from_slice(prefix);
        invariants.push(ITEM + kind as u8);
        invariants.extend_from_slice(suffix);
        Ok(Read {
            item: ArrayItem {
                body: body.clone(),
                value,
                content,
                count,
                weight,
            },
            count,
            bytes: content.len() + ",".len(),
            shared_bytes: prefix.len() + "[]".len() + suffix.len(),
            invariants,
        })
    }

    fn encode(&self, items: &[&ArrayItem], _first_id: u64) -> Encoded {
        let copied: usize = items
            .iter()
            .map(|item| item.content.len().min(SHARED_FROM) + 1)
            .sum();
        let around = items
            .first()
            .map_or(0, |first| first.body.len() - first.content.len());
        let mut out = Bodies::with_capacity(1, copied + around + "[]".len());
        for (n, item) in items.iter().enumerate() {
            if n == 0 {
                out.slice(&item.body, Span::new(0, item.value.start));
            }
            out.copy(if n == 0 { b"[" } else { b"," });
            out.slice(&item.body, item.content);
        }
        if let Some(first) = items.first() {
            out.copy(b"]");
            out.slice(&first.body, Span::new(first.value.end, first.body.len()));
        }
        Encoded {
            path_and_query: None,
            body: out.single(),
        }
    }

    fn split(
        &self,
        items: &[&ArrayItem],
        _first_id: u64,
        reply: &Reply<'_>,
    ) -> Result<Vec<MemberReply>, Unsplit> {
        let results = Results::read(self, reply)?;
        let expected = items.iter().map(|item| item.count).sum();
        if results.len() != expected {
            return Err(Unsplit::Count {
                expected,
                found: results.len(),
            });
        }
        let bodies = results.share_out(items)?;
        let ready = |body| MemberReply::Ready {
            status: reply.status,
            body,
        };
        Ok(bodies.finish().map(ready).collect())
    }

    fn all_or_nothing(&self) -> bool {
        true
    }

    fn check(&self, item: &ArrayItem, reply: &Reply<'_>) -> Result<(), Unsplit> {
        if !self.is_plain() {
            return Ok(());
        }
        match Results::read(self, reply) {
            Ok(results) if results.len() != item.count => Err(Unsplit::Count {
                expected: item.count,
                found: results.len(),
            }),
            // What cannot be counted, as `NaN` or deep nesting, may yet be what the caller wants.
            Err(unsplit) if !is_json_like(reply.body) => Err(unsplit),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn divide(&self, item: &ArrayItem, most: usize) -> Option<Vec<Bytes>> {
        self.parts(item, most)
    }

    fn rejoin(&self, replies: &[Reply<'_>]) -> Option<Chunks> {
        self.whole(replies)
    }
}

/// Whether a body at least begins like an object or array.
fn is_json_like(body: &[u8]) -> bool {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(first, Some(b'{' | b'['))
}

/// What an element of a list of texts or tokens is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Text,
    Integer,
    TokenArray,
}

/// A list while it is read.
#[derive(Default)]
struct List<'a> {
    body: &'a [u8],
    content: Span,
    count: usize,
    weight: usize,
    kind: Option<Element>,
}

impl List<'_> {
    fn pass(&mut self, scan: &mut Scan<'_>) -> Result<(), Bypass> {
        let element = scan.value()?;
        self.take(element);
        Ok(())
    }

    fn take(&mut self, element: Span) {
        if self.count == 0 {
            self.content.start = element.start;
        }
        self.content.end = element.end;
        self.count += 1;
        self.weight += element.len();
    }

    /// Passes an element that has to be of the same kind as those before.
    fn classify(&mut self, scan: &mut Scan<'_>) -> Result<(), Bypass> {
        let (element, kind) = match scan.peek() {
            Some(b'"') => (scan.value()?, Element::Text),
            Some(b'[') => {
                let mut tokens = 0usize;
                let array = scan.elements(|scan| {
                    tokens += 1;
                    integer(scan, self.body).map(drop)
                })?;
                if tokens == 0 {
                    return Err(Bypass::Unparsable);
                }
                (array, Element::TokenArray)
            }
            Some(_) | None => (integer(scan, self.body)?, Element::Integer),
        };
        if *self.kind.get_or_insert(kind) != kind {
            return Err(Bypass::Unparsable);
        }
        self.take(element);
        Ok(())
    }
}

/// Passes a token: a whole number.
fn integer(scan: &mut Scan<'_>, body: &[u8]) -> Result<Span, Bypass> {
    let value = scan.value()?;
    whole_number(value.of(body))
        .map(|_| value)
        .ok_or(Bypass::Unparsable)
}
