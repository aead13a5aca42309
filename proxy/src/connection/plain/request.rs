//! Reads a plain call: a request that is there whole and says nothing about its connection.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Uri, Version};
use memchr::memchr;

use super::WHOLE;
use crate::body::Body;
use crate::inspect::decimal;

/// More than these are hyper's to take or to refuse.
const FIELDS: usize = 32;

/// What some bytes begin with.
pub(super) enum Parsed<T> {
    /// A plain call, of so many bytes, and what was made of it.
    Plain(usize, T),
    /// The beginning of a call that may be plain.
    Part,
    /// Something else.
    Other,
}

/// Reads the first call, and has `then` make something of it.
pub(super) fn parse<T>(read: &Bytes, max_head: usize, then: impl FnOnce(Request<Body>) -> T) -> Parsed<T> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Request::new(&mut []);
    let length = match head.parse_with_uninit_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= max_head => length,
        Ok(httparse::Status::Partial) => return Parsed::Part,
        Ok(httparse::Status::Complete(_)) | Err(_) => return Parsed::Other,
    };
    let Some((mut request, body)) = plain(read, &head) else {
        return Parsed::Other;
    };
    let end = length + body;
    let Some(body) = read.get(length..end) else {
        return Parsed::Part;
    };
    *request.body_mut() = Body::full(read.slice_ref(body));
    Parsed::Plain(end, then(request))
}

/// A request whose body, of so many bytes, is still to be read; `None` if it is not plain.
fn plain(read: &Bytes, head: &httparse::Request<'_, '_>) -> Option<(Request<Body>, usize)> {
    if head.version != Some(1) {
        return None;
    }
    let method = Method::from_bytes(head.method?.as_bytes()).ok()?;
    // The replies to these are framed in ways of their own.
    if matches!(method, Method::HEAD | Method::CONNECT) {
        return None;
    }
    let uri = target(read, head.path?)?;
    let (headers, length) = fields_of(read, head.headers)?;
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Some((request, length))
}

/// A target in origin-form. The URI type drops a fragment, which is to be refused.
fn target(read: &Bytes, path: &str) -> Option<Uri> {
    let path = path.as_bytes();
    if path.first() != Some(&b'/') || memchr(b'#', path).is_some() {
        return None;
    }
    Uri::from_maybe_shared(read.slice_ref(path)).ok()
}

/// The fields and the length of the body, if none says anything about the connection or the framing but that.
fn fields_of(read: &Bytes, fields: &[httparse::Header<'_>]) -> Option<(HeaderMap, usize)> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    let mut length = None;
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        match name {
            CONTENT_LENGTH if length.replace(content_length(field.value)?).is_some() => return None,
            CONNECTION if !field.value.eq_ignore_ascii_case(b"keep-alive") => return None,
            TRANSFER_ENCODING | EXPECT | UPGRADE | TE | TRAILER => return None,
            HOST if headers.contains_key(HOST) => return None,
            _ => {}
        }
        let value = HeaderValue::from_maybe_shared(read.slice_ref(field.value)).ok()?;
        headers.append(name, value);
    }
    Some((headers, length.unwrap_or(0)))
}

/// The length of a body that can be there whole.
fn content_length(digits: &[u8]) -> Option<usize> {
    usize::try_from(decimal(digits)?)
        .ok()
        .filter(|length| *length <= WHOLE)
}
