//! The suite that every codec passes, and what the codecs' own tests share.

use std::fmt::Debug;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};

mod models;
mod shared;

use super::{Call, Codec, Encoded, MemberReply, Read, Reply, Unsplit};
use crate::Bypass;

/// The first id of every batch in these tests.
pub(super) const FIRST_ID: u64 = 100;

/// A call that owns its parts.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) captures: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

pub(super) fn post(body: impl AsRef<[u8]>) -> Sent {
    let body = Bytes::copy_from_slice(body.as_ref());
    Sent {
        method: Method::POST,
        uri: Uri::from_static("/batch"),
        captures: Vec::new(),
        body,
    }
}

/// A GET of the template `/{shop}/users/{id}`.
pub(super) fn get(uri: &str) -> Sent {
    let uri: Uri = uri.parse().unwrap();
    let segments: Vec<String> = uri.path().split('/').map(str::to_owned).collect();
    let captures = vec![("shop", segments[1].clone()), ("id", segments[3].clone())];
    Sent {
        method: Method::GET,
        uri,
        captures,
        body: Bytes::new(),
    }
}

pub(super) fn read<C: Codec>(codec: &C, sent: &Sent) -> Result<Read<C::Item>, Bypass> {
    let captures: Vec<(&str, &str)> = sent
        .captures
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let headers = HeaderMap::new();
    codec.read(&Call {
        method: &sent.method,
        uri: &sent.uri,
        headers: &headers,
        captures: &captures,
        body: &sent.body,
    })
}

/// Calls of one batch, read and merged.
pub(super) struct Merged<'c, C: Codec> {
    codec: &'c C,
    reads: Vec<Read<C::Item>>,
}

/// Reads calls that have to be batchable and of one key.
#[track_caller]
pub(super) fn merge<'c, C: Codec>(codec: &'c C, sent: &[Sent]) -> Merged<'c, C> {
    let reads: Vec<_> = sent
        .iter()
        .map(|sent| read(codec, sent).unwrap_or_else(|b| panic!("{sent:?}: {b}")))
        .collect();
    for read in &reads {
        assert_eq!(read.invariants, reads[0].invariants, "not of one key");
        assert_eq!(
            read.shared_bytes, reads[0].shared_bytes,
            "equal invariants, other shared bytes"
        );
    }
    Merged { codec, reads }
}

impl<C: Codec> Merged<'_, C> {
    pub(super) fn items(&self) -> Vec<&C::Item> {
        self.reads.iter().map(|read| &read.item).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.reads.iter().map(|read| read.count).sum()
    }

    /// The batch request, whose size has to be what was announced.
    #[track_caller]
    pub(super) fn request(&self) -> (String, Vec<u8>) {
        let Encoded { path_and_query, body } = self.codec.encode(&self.items(), FIRST_ID);
        let (target, body) = (
            path_and_query.unwrap_or_else(|| "/batch".to_owned()),
            body.concat(),
        );
        let announced = self.reads[0].shared_bytes + self.reads.iter().map(|read| read.bytes).sum::<usize>();
        let size = if body.is_empty() { target.len() } else { body.len() };
        assert!(
            size <= announced,
            "{size} bytes in a batch that was taken for {announced}"
        );
        (target, body)
    }

    pub(super) fn split(&self, status: u16, body: &[u8]) -> Result<Vec<MemberReply>, Unsplit> {
        let (headers, body) = (HeaderMap::new(), Bytes::copy_from_slice(body));
        let reply = Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            body: &body,
        };
        let replies = self.codec.split(&self.items(), FIRST_ID, &reply)?;
        assert_eq!(replies.len(), self.reads.len(), "one reply for each member");
        Ok(replies)
    }

    /// What each member is told, as `status body`.
    pub(super) fn told(&self, body: impl AsRef<[u8]>) -> Result<Vec<String>, Unsplit> {
        Ok(self.split(200, body.as_ref())?.iter().map(text).collect())
    }
}

pub(super) fn text(reply: &MemberReply) -> String {
    match reply {
        MemberReply::Ready { status, body } => {
            format!("{} {}", status.as_u16(), String::from_utf8_lossy(&body.concat()))
        }
        MemberReply::AskAlone => "alone".to_owned(),
    }
}

#[track_caller]
pub(super) fn check_bypass<C: Codec<Item: Debug>>(codec: &C, bodies: &[(&str, Bypass)]) {
    for (body, reason) in bodies {
        assert_eq!(read(codec, &post(body)).err(), Some(*reason), "{body}");
    }
}
