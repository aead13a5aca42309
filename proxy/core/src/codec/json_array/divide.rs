//! A call of more items than one batch may have: divided into calls that fit, whose replies are
//! put together again. Only where results come by position and nothing else depends on the count.

use bytes::Bytes;

use super::results::Results;
use super::{ArrayItem, JsonArray};
use crate::codec::bodies::Bodies;
use crate::codec::json::{Scan, Span};
use crate::codec::pointer::walk;
use crate::codec::{Chunks, Reply, Unsplit};

impl JsonArray {
    /// True when a reply is an array of as many results as items and nothing more: such a reply
    /// can be counted, and a call divided.
    pub(super) fn is_plain(&self) -> bool {
        self.index.is_none() && !self.scalar && self.reply.len() == 1
    }

    /// Bodies of calls with at most `most` items each, in order; `None` when there is none to be had.
    pub(super) fn parts(&self, item: &ArrayItem, most: usize) -> Option<Vec<Bytes>> {
        if !self.is_plain() || most == 0 {
            return None;
        }
        let items = self.spans(&item.body)?;
        let around = item.body.len() - item.content.len();
        let parts = items.chunks(most);
        let mut out = Bodies::with_capacity(parts.len(), item.body.len() + parts.len() * around);
        for part in parts {
            let (first, last) = (part.first()?, part.last()?);
            out.slice(&item.body, Span::new(0, item.content.start));
            out.slice(&item.body, Span::new(first.start, last.end));
            out.slice(&item.body, Span::new(item.content.end, item.body.len()));
            out.end();
        }
        Some(out.finish().map(flat).collect())
    }

    fn spans(&self, body: &Bytes) -> Option<Vec<Span>> {
        let mut spans = Vec::new();
        let mut scan = Scan::new(body).ok()?;
        walk(&mut scan, &[&self.items], &mut |_, scan| {
            scan.elements(|scan| {
                spans.push(scan.value()?);
                Ok::<(), Unsplit>(())
            })
            .map(drop)
        })
        .ok()?;
        (!spans.is_empty()).then_some(spans)
    }

    /// The reply to the whole call out of the replies to its parts; `None` unless they are alike
    /// in everything but their results.
    pub(super) fn whole(&self, replies: &[Reply<'_>]) -> Option<Chunks> {
        let content = |reply| Results::read(self, reply).ok()?.content();
        let contents: Vec<Span> = replies.iter().map(content).collect::<Option<_>>()?;
        let (first, place) = (replies.first()?.body, *contents.first()?);
        let (before, behind) = (Span::new(0, place.start), Span::new(place.end, first.len()));
        let mut out = Bodies::with_capacity(1, replies.iter().map(|reply| reply.body.len()).sum());
        out.slice(first, before);
        for (n, (reply, content)) in replies.iter().zip(contents).enumerate() {
            let around = (&reply.body[..content.start], &reply.body[content.end..]);
            if around != (before.of(first), behind.of(first)) {
                return None;
            }
            if n > 0 {
                out.copy(b",");
            }
            out.slice(reply.body, content);
        }
        out.slice(first, behind);
        out.end();
        out.finish().next()
    }
}

fn flat(chunks: Chunks) -> Bytes {
    match <[Bytes; 1]>::try_from(chunks.into_vec()) {
        Ok([one]) => one,
        Err(many) => many.concat().into(),
    }
}
