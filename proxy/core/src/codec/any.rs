//! The codec of a route: one of those that exist, chosen by the policy.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    ArrayItem, Call, Chunks, Codec, Encoded, JsonArray, JsonRpc, KeyedGet, KeyedItem, MemberReply, Read,
    Reply, RpcItem, Unsplit,
};
use crate::Bypass;

/// Any of the codecs.
#[derive(Clone, Debug)]
pub enum AnyCodec {
    /// An array in a JSON body.
    JsonArray(JsonArray),
    /// JSON-RPC 2.0 batches.
    JsonRpc(JsonRpc),
    /// Many GETs of one thing into one GET of many.
    KeyedGet(KeyedGet),
}

/// What any of the codecs learned of a call.
#[derive(Clone, Debug)]
pub enum AnyItem {
    /// From [`JsonArray`].
    JsonArray(ArrayItem),
    /// From [`JsonRpc`].
    JsonRpc(RpcItem),
    /// From [`KeyedGet`].
    KeyedGet(KeyedItem),
}

impl AnyCodec {
    /// The codec's name, as in a policy.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::JsonArray(_) => "jsonArray",
            Self::JsonRpc(_) => "jsonRpc",
            Self::KeyedGet(_) => "keyedGet",
        }
    }

    /// The template variable whose value is the call's own and so no part of the key: the rest of
    /// the path is. `None`: the whole path and query are part of the key.
    pub fn item_variable(&self) -> Option<&str> {
        match self {
            Self::KeyedGet(codec) => Some(codec.item_variable()),
            Self::JsonArray(_) | Self::JsonRpc(_) => None,
        }
    }
}

impl Codec for AnyCodec {
    type Item = AnyItem;

    fn read(&self, call: &Call<'_>) -> Result<Read<AnyItem>, Bypass> {
        Ok(match self {
            Self::JsonArray(codec) => codec.read(call)?.map(AnyItem::JsonArray),
            Self::JsonRpc(codec) => codec.read(call)?.map(AnyItem::JsonRpc),
            Self::KeyedGet(codec) => codec.read(call)?.map(AnyItem::KeyedGet),
        })
    }

    fn encode(&self, items: &[&AnyItem], first_id: u64) -> Encoded {
        match self {
            Self::JsonArray(codec) => codec.encode(&narrow(items, AnyItem::json_array), first_id),
            Self::JsonRpc(codec) => codec.encode(&narrow(items, AnyItem::json_rpc), first_id),
            Self::KeyedGet(codec) => codec.encode(&narrow(items, AnyItem::keyed_get), first_id),
        }
    }

    fn split(
        &self,
        items: &[&AnyItem],
        first_id: u64,
        reply: &Reply<'_>,
    ) -> Result<Vec<MemberReply>, Unsplit> {
        let replies = match self {
            Self::JsonArray(codec) => codec.split(&narrow(items, AnyItem::json_array), first_id, reply)?,
            Self::JsonRpc(codec) => codec.split(&narrow(items, AnyItem::json_rpc), first_id, reply)?,
            Self::KeyedGet(codec) => codec.split(&narrow(items, AnyItem::keyed_get), first_id, reply)?,
        };
        // An item of another codec would have been left out above.
        if replies.len() == items.len() {
            Ok(replies)
        } else {
            Err(Unsplit::Shape("an item of another codec"))
        }
    }

    fn all_or_nothing(&self) -> bool {
        match self {
            Self::JsonArray(codec) => codec.all_or_nothing(),
            Self::JsonRpc(codec) => codec.all_or_nothing(),
            Self::KeyedGet(codec) => codec.all_or_nothing(),
        }
    }

    fn check(&self, item: &AnyItem, reply: &Reply<'_>) -> Result<(), Unsplit> {
        match (self, item) {
            (Self::JsonArray(codec), AnyItem::JsonArray(item)) => codec.check(item, reply),
            (Self::JsonRpc(codec), AnyItem::JsonRpc(item)) => codec.check(item, reply),
            (Self::KeyedGet(codec), AnyItem::KeyedGet(item)) => codec.check(item, reply),
            _ => Err(Unsplit::Shape("an item of another codec")),
        }
    }

    fn divide(&self, item: &AnyItem, most: usize) -> Option<Vec<Bytes>> {
        match (self, item) {
            (Self::JsonArray(codec), AnyItem::JsonArray(item)) => codec.divide(item, most),
            (Self::JsonRpc(codec), AnyItem::JsonRpc(item)) => codec.divide(item, most),
            (Self::KeyedGet(codec), AnyItem::KeyedGet(item)) => codec.divide(item, most),
            _ => None,
        }
    }

    fn rejoin(&self, replies: &[Reply<'_>]) -> Option<Chunks> {
        match self {
            Self::JsonArray(codec) => codec.rejoin(replies),
            Self::JsonRpc(codec) => codec.rejoin(replies),
            Self::KeyedGet(codec) => codec.rejoin(replies),
        }
    }

    fn max_bytes(&self) -> Option<usize> {
        match self {
            Self::JsonArray(codec) => codec.max_bytes(),
            Self::JsonRpc(codec) => codec.max_bytes(),
            Self::KeyedGet(codec) => codec.max_bytes(),
        }
    }
}

impl AnyItem {
    const fn json_array(&self) -> Option<&ArrayItem> {
        if let Self::JsonArray(item) = self {
            Some(item)
        } else {
            None
        }
    }

    const fn json_rpc(&self) -> Option<&RpcItem> {
        if let Self::JsonRpc(item) = self {
            Some(item)
        } else {
            None
        }
    }

    const fn keyed_get(&self) -> Option<&KeyedItem> {
        if let Self::KeyedGet(item) = self {
            Some(item)
        } else {
            None
        }
    }
}

/// The items of one codec. The key holds the route, so that all items of a batch are of its codec.
fn narrow<'i, I>(
    items: &[&'i AnyItem],
    pick: impl Fn(&'i AnyItem) -> Option<&'i I>,
) -> SmallVec<[&'i I; 64]> {
    items.iter().filter_map(|item| pick(item)).collect()
}
