//! A request as text, to be explained: never sent anywhere.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use jitney_core::policy::{Explanation, Policy, explain};
use jitney_core::route::Head;

/// A request that somebody wants explained.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its version.
    pub version: Version,
    /// Its body.
    pub body: Bytes,
}

/// Why a text is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The first line is not `METHOD TARGET [VERSION]`.
    #[error("line 1: expected METHOD TARGET HTTP/1.1")]
    RequestLine,
    /// A line of the head is no header field.
    #[error("line {0}: expected NAME: VALUE")]
    Field(usize),
    /// The head has too many fields.
    #[error("more than {FIELDS_MAX} header fields")]
    TooMany,
}

impl RawRequest {
    /// Reads a request's head and, after an empty line, its body. Lines may end without a carriage
    /// return, and the version may be left out.
    ///
    /// # Errors
    /// The line that could not be read.
    pub fn parse(text: &[u8]) -> Result<Self, BadRequest> {
        let mut rest = text;
        let first = take_line(&mut rest).unwrap_or_default();
        let (method, uri, version) = request_line(first).ok_or(BadRequest::RequestLine)?;
        let mut headers = HeaderMap::new();
        let mut number = 1;
        while let Some(line) = take_line(&mut rest).filter(|line| !line.is_empty()) {
            number += 1;
            let (name, value) = field(line).ok_or(BadRequest::Field(number))?;
            if headers.len() == FIELDS_MAX {
                return Err(BadRequest::TooMany);
            }
            headers.append(name, value);
        }
        Ok(Self {
            method,
            uri,
            headers,
            version,
            body: Bytes::copy_from_slice(rest),
        })
    }

    /// What [`RawRequest::parse`] reads.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = format!("{} {} {:?}\r\n", self.method, self.uri, self.version).into_bytes();
        for (name, value) in &self.headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(&self.body);
        text
    }

    /// What `policy` makes of it, for the caller that [`jitney_core::key::CLIENT_ID`] names, if it does.
    pub fn explain(&self, policy: &Policy) -> Explanation {
        let head = Head {
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
        };
        explain(policy, &head, &self.body, self.version)
    }
}

fn take_line<'t>(text: &mut &'t [u8]) -> Option<&'t [u8]> {
    if text.is_empty() {
        return None;
    }
    let (line, rest) = match memchr::memchr(b'\n', text) {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (*text, &[][..]),
    };
    *text = rest;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn request_line(line: &[u8]) -> Option<(Method, Uri, Version)> {
    let mut words = line.split(|byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let uri = Uri::try_from(words.next()?).ok()?;
    let version = match words.next() {
        None | Some(b"HTTP/1.1") => Version::HTTP_11,
        Some(b"HTTP/1.0") => Version::HTTP_10,
        Some(b"HTTP/2" | b"HTTP/2.0") => Version::HTTP_2,
        Some(_) => return None,
    };
    words.next().is_none().then_some((method, uri, version))
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = memchr::memchr(b':', line)?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
    Some((name, value))
}

/// As many as the data path takes in one head.
const FIELDS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_body_are_read_as_they_are_sent() {
        let text = b"POST /v1/x?q=%20 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a:  2 \r\n\r\n{\"a\":\r\n1}\n";
        let request = RawRequest::parse(text).unwrap();
        assert_eq!(
            (request.method.as_str(), request.uri.to_string().as_str()),
            ("POST", "/v1/x?q=%20")
        );
        let values: Vec<_> = request.headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(request.body, "{\"a\":\r\n1}\n");
        let written = b"POST /v1/x?q=%20 HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nx-a: 2\r\n\r\n{\"a\":\r\n1}\n";
        assert_eq!(request.to_text(), written);
    }

    #[test]
    fn head_alone_without_version_or_carriage_returns_will_do() {
        let request = RawRequest::parse(b"GET /users/7\nhost: a").unwrap();
        assert_eq!(request.headers["host"], "a");
        assert!(request.body.is_empty());
    }

    #[test]
    fn what_is_no_request_is_named_by_line() {
        for (text, error) in [
            ("", BadRequest::RequestLine),
            ("GET", BadRequest::RequestLine),
            ("GET /a HTTP/9", BadRequest::RequestLine),
            ("GET /a b HTTP/1.1", BadRequest::RequestLine),
            ("\x16\x03\x01", BadRequest::RequestLine),
            ("GET /a\nhost: a\nbroken", BadRequest::Field(3)),
            ("GET /a\nna me: a", BadRequest::Field(2)),
        ] {
            assert_eq!(RawRequest::parse(text.as_bytes()).unwrap_err(), error, "{text:?}");
        }
        let many = format!("GET /a\n{}", "a: b\n".repeat(300));
        assert_eq!(
            RawRequest::parse(many.as_bytes()).unwrap_err(),
            BadRequest::TooMany
        );
    }
}
