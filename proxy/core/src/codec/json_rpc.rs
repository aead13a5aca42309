//! `jsonRpc`: JSON-RPC 2.0 calls become one batch under ids of our own, which are unique in the
//! process; every reply gets the caller's id back, byte for byte.

use bytes::Bytes;
use smallvec::SmallVec;

use super::bodies::{Bodies, SHARED_FROM};
use super::json::{Name, Names, Scan, Span, decoded_string};
use super::{Call, Codec, Encoded, MemberReply, Read, Reply, Unsplit, open_reply};
use crate::Bypass;

mod replies;

#[cfg(test)]
mod tests;

/// The codec; it has no settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonRpc;

/// One call: a request object, or a batch that the client made itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcItem {
    body: Bytes,
    /// The request object, or the objects of the client's batch with what separates them.
    content: Span,
    /// True for a batch, which is answered with an array.
    batch: bool,
    /// The ids that wait for a reply, in order.
    ids: SmallVec<[Span; 1]>,
}

/// Digits of the longest id of ours.
const MAX_ID_DIGITS: usize = 20;

impl Codec for JsonRpc {
    type Item = RpcItem;

    fn read(&self, call: &Call<'_>) -> Result<Read<RpcItem>, Bypass> {
        let body = call.body;
        let mut scan = Scan::new(body)?;
        let mut item = RpcItem {
            body: body.clone(),
            content: Span::default(),
            batch: false,
            ids: SmallVec::new(),
        };
        let mut count = 1;
        if scan.peek() == Some(b'[') {
            count = read_batch(&mut scan, body, &mut item)?;
        } else {
            item.content = read_request(&mut scan, body, &mut item.ids)?;
        }
        scan.end()?;
        if count == 0 {
            return Err(Bypass::Empty);
        }
        if item.ids.is_empty() {
            return Err(Bypass::Notification);
        }
        if has_equal_ids(&item) {
            return Err(Bypass::AmbiguousId);
        }
        let replaced: usize = item.ids.iter().map(|id| id.len()).sum();
        let bytes = item.content.len() - replaced + item.ids.len() * MAX_ID_DIGITS + ",".len();
        Ok(Read {
            item,
            count,
            bytes,
            shared_bytes: "[]".len(),
            invariants: SmallVec::new(),
        })
    }

    fn encode(&self, items: &[&RpcItem], first_id: u64) -> Encoded {
        let room = |item: &&RpcItem| item.content.len().min(SHARED_FROM) + item.ids.len() * MAX_ID_DIGITS + 1;
        let mut out = Bodies::with_capacity(1, items.iter().map(room).sum::<usize>() + 1);
        let mut next_id = first_id;
        for (n, item) in items.iter().enumerate() {
            out.copy(if n == 0 { b"[" } else { b"," });
            let mut from = item.content.start;
            for id in &item.ids {
                out.slice(&item.body, Span::new(from, id.start));
                out.number(next_id);
                next_id = next_id.wrapping_add(1);
                from = id.end;
            }
            out.slice(&item.body, Span::new(from, item.content.end));
        }
        out.copy(b"]");
        Encoded {
            path_and_query: None,
            body: out.single(),
        }
    }

    fn split(
        &self,
        items: &[&RpcItem],
        first_id: u64,
        reply: &Reply<'_>,
    ) -> Result<Vec<MemberReply>, Unsplit> {
        let mut scan = open_reply(reply)?;
        if scan.peek() == Some(b'{') {
            return Err(replies::refusal(&mut scan, items, reply));
        }
        let bodies = replies::share_out(&mut scan, items, first_id, reply.body)?;
        let ready = |body| MemberReply::Ready {
            status: reply.status,
            body,
        };
        Ok(bodies.finish().map(ready).collect())
    }

    fn all_or_nothing(&self) -> bool {
        false
    }
}

/// Reads a batch that the client made; gives the number of requests and notifications in it.
fn read_batch(scan: &mut Scan<'_>, body: &[u8], item: &mut RpcItem) -> Result<usize, Bypass> {
    let mut count = 0;
    item.batch = true;
    scan.elements(|scan| {
        let request = read_request(scan, body, &mut item.ids)?;
        if count == 0 {
            item.content.start = request.start;
        }
        item.content.end = request.end;
        count += 1;
        Ok::<(), Bypass>(())
    })?;
    Ok(count)
}

/// Reads a request object and notes its id; gives its place.
fn read_request(scan: &mut Scan<'_>, body: &[u8], ids: &mut SmallVec<[Span; 1]>) -> Result<Span, Bypass> {
    if scan.peek() != Some(b'{') {
        return Err(Bypass::Unparsable);
    }
    let mut names = Names::default();
    let (mut version, mut method, mut id) = (false, false, None);
    let request = scan.members(|scan, name: Name<'_>| {
        let is_id = name.is("id");
        if is_id && id.is_some() {
            return Err(Bypass::AmbiguousId);
        }
        names.insert(name)?;
        let kind = scan.peek();
        let value = scan.value()?;
        if is_id {
            id = Some((value, kind));
        } else if name.is("jsonrpc") {
            version = kind == Some(b'"') && *decoded_string(value.of(body)) == *b"2.0";
        } else if name.is("method") {
            method = kind == Some(b'"');
        }
        Ok(())
    })?;
    if !version || !method {
        return Err(Bypass::Unparsable);
    }
    match id {
        None => {}
        Some((value, Some(b'"' | b'-' | b'0'..=b'9'))) => ids.push(value),
        Some(_) => return Err(Bypass::AmbiguousId),
    }
    Ok(request)
}

/// True when two requests of one client's batch have the same id: the replies could not be told
/// apart without the proxy either, and some upstreams refuse such a batch.
fn has_equal_ids(item: &RpcItem) -> bool {
    if item.ids.len() < 2 {
        return false;
    }
    let id = |place: &Span| {
        let text = place.of(&item.body);
        let quoted = text.first() == Some(&b'"');
        (quoted, if quoted { decoded_string(text) } else { text.into() })
    };
    let mut ids: Vec<_> = item.ids.iter().map(id).collect();
    ids.sort_unstable();
    ids.windows(2).any(|pair| pair[0] == pair[1])
}
