//! Codecs: the rules by which members become one upstream request, and its reply becomes
//! member replies. Bytes are sliced, never decoded and re-encoded.
//!
//! A codec sees a call once ([`Codec::read`]), before the call is keyed; what it learns travels
//! with the call as an [`Codec::Item`], so that merging and splitting parse nothing twice.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use smallvec::SmallVec;

use crate::Bypass;

mod any;
mod bodies;
mod json;
mod json_array;
mod json_rpc;
mod keyed_get;
mod pointer;

#[cfg(test)]
mod tests;

pub use any::{AnyCodec, AnyItem};
pub use json_array::{ArrayItem, JsonArray, JsonArraySettings, PRESETS, Preset};
pub use json_rpc::{JsonRpc, RpcItem};
pub use keyed_get::{KeyedGet, KeyedGetSettings, KeyedItem, Missing};

/// This byte or a greater one stands in [`Read::invariants`] for the items; which one, is the codec's.
/// No text in UTF-8 has them, so what is before and behind cannot be mistaken for each other.
pub(crate) const ITEM: u8 = 0xf8;

/// A body as consecutive slices, most of them shared with what was received.
pub type Chunks = SmallVec<[Bytes; 4]>;

/// What a codec may look at in a call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The method as received.
    pub method: &'a Method,
    /// The target as received, never normalised.
    pub uri: &'a Uri,
    /// The end-to-end header fields.
    pub headers: &'a HeaderMap,
    /// The raw (still percent-encoded) values of the route template's variables, in template order.
    pub captures: &'a [(&'a str, &'a str)],
    /// The whole body.
    pub body: &'a Bytes,
}

/// One upstream request made from several members.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Path and query of the batch request; `None`: the members' own.
    pub path_and_query: Option<String>,
    /// The merged body; empty for a request without one.
    pub body: Chunks,
}

/// The upstream's whole reply to a batch.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Its whole body.
    pub body: &'a Bytes,
}

/// What one member gets out of a batch reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberReply {
    /// The member's own reply. Headers fan out by the proxy's allow-list.
    Ready {
        /// The status that a direct call would have had.
        status: StatusCode,
        /// Slices of the batch reply, and what had to be restored.
        body: Chunks,
    },
    /// The reply does not say; only the upstream knows. Send the member on its own.
    AskAlone,
}

/// Why a batch reply gave no member replies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsplit {
    /// The batch failed as a whole; its status says how.
    #[error("the batch failed as a whole with status {0}")]
    Failed(StatusCode),
    /// The upstream refused the batch in the convention's own words.
    #[error("the upstream refused the batch")]
    Refused {
        /// True when the refusal proves that no member was executed.
        nothing_ran: bool,
        /// What each member is told when it may not be replayed.
        replies: Vec<MemberReply>,
    },
    /// The reply holds another number of results than there are items.
    #[error("{found} results for {expected} items")]
    Count {
        /// Items sent.
        expected: usize,
        /// Results found.
        found: usize,
    },
    /// A result for an item that was not asked for, one twice, or one without an identifier.
    #[error("a result does not belong to any item: {0}")]
    Id(&'static str),
    /// A result that was not asked for, while these members have none.
    #[error("a result that nobody asked for, and none for {} members", suspects.len())]
    Stranger {
        /// Positions of those who have none: one of them is likely to be known by another name.
        suspects: Vec<usize>,
    },
    /// The reply is not of the convention's shape.
    #[error("the reply is not of the expected shape: {0}")]
    Shape(&'static str),
}

/// A setting that no codec can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} is not {expected}")]
pub struct CodecError {
    /// The setting's name as in a policy, such as `batchPath`.
    pub field: &'static str,
    /// What was found there.
    pub value: String,
    /// What has to be there, to be read behind "is not" or "expected".
    pub expected: &'static str,
}

/// The rules of one batch convention.
///
/// Implementations are pure: the same call gives the same item, the same items the same request.
pub trait Codec: std::fmt::Debug + Send + Sync {
    /// What [`Codec::read`] learned of one call, kept until its reply is split.
    type Item: std::fmt::Debug + Send + Sync + 'static;

    /// Reads a call.
    ///
    /// # Errors
    /// The reason why the call must travel alone, untouched.
    fn read(&self, call: &Call<'_>) -> Result<Read<Self::Item>, Bypass>;

    /// Merges members of one key into one request. Called with at least two members: a lone call
    /// goes out as it came.
    ///
    /// `first_id` starts a run of as many process-unique numbers as there are items
    /// ([`Read::count`], summed); [`Codec::split`] gets the same number.
    fn encode(&self, items: &[&Self::Item], first_id: u64) -> Encoded;

    /// Splits a reply: exactly one entry per member, in the members' order.
    ///
    /// # Errors
    /// Why there is no entry for anyone; there is never a guess.
    fn split(
        &self,
        items: &[&Self::Item],
        first_id: u64,
        reply: &Reply<'_>,
    ) -> Result<Vec<MemberReply>, Unsplit>;

    /// True when one bad item fails the whole batch, so that a method which is not idempotent
    /// may only be merged with leave to replay.
    fn all_or_nothing(&self) -> bool;

    /// The most bytes a batch may have by the convention itself, whatever the policy allows;
    /// counted as [`Read::shared_bytes`] and [`Read::bytes`].
    fn max_bytes(&self) -> Option<usize> {
        None
    }

    /// Whether the successful reply to a lone call is one that the convention allows.
    ///
    /// # Errors
    /// Why it is not. A convention that says nothing of lone replies finds none.
    fn check(&self, _item: &Self::Item, _reply: &Reply<'_>) -> Result<(), Unsplit> {
        Ok(())
    }

    /// Bodies of calls with at most `most` items each that together ask what this one asks;
    /// `None` when the convention has no such thing.
    fn divide(&self, _item: &Self::Item, _most: usize) -> Option<Vec<Bytes>> {
        None
    }

    /// The reply to a call out of the replies to what [`Codec::divide`] made of it, in that order;
    /// `None` when they do not go together.
    fn rejoin(&self, _replies: &[Reply<'_>]) -> Option<Chunks> {
        None
    }
}

/// A call as its codec understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<I> {
    /// The codec's own part.
    pub item: I,
    /// How many items the upstream will count.
    pub count: usize,
    /// Bytes this call adds to a merged body, its separator included.
    pub bytes: usize,
    /// Bytes that a merged body has once, whoever is in it. Equal for equal `invariants`.
    pub shared_bytes: usize,
    /// What must be byte-equal besides the head: becomes part of the batch key.
    pub invariants: SmallVec<[u8; 64]>,
}

impl<I> Read<I> {
    /// The same call with its item wrapped.
    pub fn map<J>(self, wrap: impl FnOnce(I) -> J) -> Read<J> {
        let Self {
            item,
            count,
            bytes,
            shared_bytes,
            invariants,
        } = self;
        Read {
            item: wrap(item),
            count,
            bytes,
            shared_bytes,
            invariants,
        }
    }
}

impl From<json::Fault> for Bypass {
    fn from(fault: json::Fault) -> Self {
        match fault {
            json::Fault::Syntax | json::Fault::Bound => Self::Unparsable,
            json::Fault::Duplicate => Self::DuplicateMember,
        }
    }
}

impl From<json::Fault> for Unsplit {
    fn from(fault: json::Fault) -> Self {
        Self::Shape(match fault {
            json::Fault::Syntax => "not JSON",
            json::Fault::Bound => "JSON that nests too deep or has too many members",
            json::Fault::Duplicate => "a member appears twice",
        })
    }
}

/// A cursor over the body of a reply that says the batch was served.
fn open_reply<'a>(reply: &Reply<'a>) -> Result<json::Scan<'a>, Unsplit> {
    if !reply.status.is_success() {
        return Err(Unsplit::Failed(reply.status));
    }
    let plain = |coding: &http::HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !reply
        .headers
        .get_all(http::header::CONTENT_ENCODING)
        .iter()
        .all(plain)
    {
        return Err(Unsplit::Shape("a content-coded body"));
    }
    Ok(json::Scan::new(reply.body)?)
}
