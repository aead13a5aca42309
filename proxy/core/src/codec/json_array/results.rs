//! The results of a batch reply, and which member gets which.

use bytes::Bytes;
use smallvec::SmallVec;

use super::usage::shares;
use super::{ArrayItem, JsonArray, MAX_USAGE};
use crate::codec::bodies::{Bodies, SHARED_FROM};
use crate::codec::json::{Scan, Span, whole_number};
use crate::codec::pointer::{Pointer, walk};
use crate::codec::{Reply, Unsplit, open_reply};

/// A reply that has been read.
pub(super) struct Results<'r> {
    body: &'r Bytes,
    elements: Vec<Element>,
    /// True when elements name their item.
    indexed: bool,
    counters: SmallVec<[Counter; MAX_USAGE]>,
}

/// One result.
#[derive(Clone, Copy)]
struct Element {
    place: Span,
    /// Where the index stands; empty at the start when there is none.
    digits: Span,
    /// Which item it belongs to.
    item: u64,
}

/// A number outside the results that is shared out.
struct Counter {
    digits: Span,
    total: u64,
}

impl<'r> Results<'r> {
    pub(super) fn read(codec: &JsonArray, reply: &Reply<'r>) -> Result<Self, Unsplit> {
        let body = reply.body;
        let mut scan = open_reply(reply)?;
        let pointers: SmallVec<[&Pointer; 4]> = codec.reply.iter().collect();
        let mut elements = None;
        let mut counters = SmallVec::new();
        walk(&mut scan, &pointers, &mut |n, scan| {
            if n == 0 {
                elements = Some(read_elements(scan, codec.index.as_ref(), body)?);
            } else {
                counters.extend(read_counter(scan, body)?);
            }
            Ok::<(), Unsplit>(())
        })?;
        scan.end()?;
        let elements = elements.ok_or(Unsplit::Shape("no results"))?;
        counters.sort_unstable_by_key(|counter: &Counter| counter.digits.start);
        Ok(Self {
            body,
            elements,
            indexed: codec.index.is_some(),
            counters,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    /// From the first result to the last, with what stands between them.
    pub(super) fn content(&self) -> Option<Span> {
        let (first, last) = (self.elements.first()?, self.elements.last()?);
        Some(Span::new(first.place.start, last.place.end))
    }

    /// One body for each member; there are as many results as items.
    ///
    /// What stood around and between the results stands around and between each member's, so that
    /// the reply has the form a direct one would have had.
    pub(super) fn share_out(mut self, items: &[&ArrayItem]) -> Result<Bodies, Unsplit> {
        let (Some(first), Some(last)) = (self.elements.first(), self.elements.last()) else {
            return Err(Unsplit::Shape("no results"));
        };
        let (before, after) = (
            Span::new(0, first.place.start),
            Span::new(last.place.end, self.body.len()),
        );
        let between = self
            .elements
            .get(1)
            .map_or(first.place, |next| Span::new(first.place.end, next.place.start));
        let in_order = self.put_in_order()?;
        let mut out = self.room(items.len(), before.len() + after.len());
        let parts = self.parts(items);
        let mut position = 0;
        for (member, item) in items.iter().enumerate() {
            let own = &self.elements[position..position + item.count];
            self.around(&mut out, before, &parts, member);
            if self.indexed {
                let mut own: SmallVec<[Element; 16]> = own.into();
                if !in_order {
                    own.sort_unstable_by_key(|element| element.place.start);
                }
                self.rebased(&mut out, &own, position, between);
            } else if let (Some(first), Some(last)) = (own.first(), own.last()) {
                out.slice(self.body, Span::new(first.place.start, last.place.end));
            }
            self.around(&mut out, after, &parts, member);
            out.end();
            position += item.count;
        }
        Ok(out)
    }

    /// Sorts the results by item, each of which has to have one. True when they were sorted.
    fn put_in_order(&mut self) -> Result<bool, Unsplit> {
        let fits = |elements: &[Element]| {
            elements
                .iter()
                .enumerate()
                .all(|(n, element)| element.item == n as u64)
        };
        if fits(&self.elements) {
            return Ok(true);
        }
        self.elements.sort_unstable_by_key(|element| element.item);
        if fits(&self.elements) {
            Ok(false)
        } else {
            Err(Unsplit::Id("an index twice, or of no item"))
        }
    }

    fn room(&self, bodies: usize, around: usize) -> Bodies {
        let copied = |length: usize| length.min(SHARED_FROM);
        let own: usize = self
            .elements
            .iter()
            .map(|element| copied(element.place.len()) + 1)
            .sum();
        Bodies::with_capacity(bodies, bodies * copied(around) + own)
    }

    /// For each counter the members' parts.
    fn parts(&self, items: &[&ArrayItem]) -> SmallVec<[Vec<u64>; MAX_USAGE]> {
        if self.counters.is_empty() {
            return SmallVec::new();
        }
        let weights: SmallVec<[u64; 64]> = items.iter().map(|item| item.weight as u64).collect();
        self.counters
            .iter()
            .map(|counter| shares(counter.total, &weights))
            .collect()
    }

    /// Writes what stands before or behind the results, with the member's part of each counter.
    fn around(&self, out: &mut Bodies, place: Span, parts: &[Vec<u64>], member: usize) {
        let mut from = place.start;
        for (counter, parts) in self.counters.iter().zip(parts) {
            if (place.start..place.end).contains(&counter.digits.start) {
                out.slice(self.body, Span::new(from, counter.digits.start));
                out.number(parts[member]);
                from = counter.digits.end;
            }
        }
        out.slice(self.body, Span::new(from, place.end));
    }

    /// Writes a member's results with indexes that count from its own first item.
    fn rebased(&self, out: &mut Bodies, own: &[Element], position: usize, between: Span) {
        for (n, element) in own.iter().enumerate() {
            if n > 0 {
                out.slice(self.body, between);
            }
            out.slice(self.body, Span::new(element.place.start, element.digits.start));
            out.number(element.item - position as u64);
            out.slice(self.body, Span::new(element.digits.end, element.place.end));
        }
    }
}

fn read_elements(scan: &mut Scan<'_>, index: Option<&Pointer>, body: &[u8]) -> Result<Vec<Element>, Unsplit> {
    if scan.peek() != Some(b'[') {
        return Err(Unsplit::Shape("the results are not an array"));
    }
    let mut elements = Vec::with_capacity(64);
    scan.elements(|scan| {
        let element = match index {
            None => Element {
                place: scan.value()?,
                digits: Span::default(),
                item: elements.len() as u64,
            },
            Some(index) => read_indexed(scan, index, body)?,
        };
        elements.push(element);
        Ok::<(), Unsplit>(())
    })?;
    Ok(elements)
}

fn read_indexed(scan: &mut Scan<'_>, index: &Pointer, body: &[u8]) -> Result<Element, Unsplit> {
    let mut digits = None;
    let place = walk(scan, &[index], &mut |_, scan| {
        digits = Some(scan.value()?);
        Ok::<(), Unsplit>(())
    })?;
    let digits = digits.ok_or(Unsplit::Id("a result without an index"))?;
    let item = whole_number(digits.of(body)).ok_or(Unsplit::Id("an index that is not a whole number"))?;
    Ok(Element { place, digits, item })
}

/// A counter that is `null` has nothing to share out.
fn read_counter(scan: &mut Scan<'_>, body: &[u8]) -> Result<Option<Counter>, Unsplit> {
    let digits = scan.value()?;
    if digits.of(body) == b"null" {
        return Ok(None);
    }
    let total =
        whole_number(digits.of(body)).ok_or(Unsplit::Shape("a counter that is not a whole number"))?;
    Ok(Some(Counter { digits, total }))
}
