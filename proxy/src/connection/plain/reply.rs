//! Writes the head of a reply whose body is at hand, byte for byte as hyper does.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRAILER, TRANSFER_ENCODING};
use http::{Response, StatusCode, Version};

use super::Reply;
use crate::body::Body;

/// Appends the head of a reply and returns what its body consists of. `None` for one whose body is not at hand, that
/// says something about its connection, or whose framing is more than a length; nothing counts that was appended.
pub(super) fn encode<'r>(reply: &'r Reply, out: &mut Vec<u8>) -> Option<&'r [Bytes]> {
    let (headers, body) = match reply {
        Reply::Share(_, headers, body) => (&**headers, std::slice::from_ref(body)),
        Reply::Whole(response) => (response.headers(), at_hand(response)?),
    };
    let status = reply.status();
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return None;
    }
    status_line(status, out);
    fields(headers, body.iter().map(Bytes::len).sum(), out).then_some(body)
}

fn at_hand(response: &Response<Body>) -> Option<&[Bytes]> {
    let is_usual = matches!(response.version(), Version::HTTP_11 | Version::HTTP_2)
        // A reason phrase, or a switched protocol.
        && response.extensions().is_empty();
    is_usual.then(|| response.body().pieces())?
}

fn status_line(status: StatusCode, out: &mut Vec<u8>) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn fields(headers: &HeaderMap, length: usize, out: &mut Vec<u8>) -> bool {
    let mut digits = itoa::Buffer::new();
    let length = digits.format(length).as_bytes();
    let mut has_length = false;
    for (name, value) in headers {
        match *name {
            CONNECTION | TRANSFER_ENCODING | TRAILER => return false,
            CONTENT_LENGTH if has_length || length == b"0" || value.as_bytes() != length => return false,
            CONTENT_LENGTH => has_length = true,
            _ => {}
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !has_length {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(length);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    true
}
