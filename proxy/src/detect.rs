//! What a connection speaks, told by its first bytes: HTTP/2 (prior knowledge), HTTP/1, or something
//! opaque. Whatever begins like HTTP is HTTP, so that a malformed request is never passed on as bytes.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1, or what pretends to be.
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113 section 3.3).
    Http2,
    /// TLS, beginning with a hello (RFC 8446 section 5.1).
    Tls,
    /// Anything else, such as a database's protocol.
    Opaque,
}

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A record of the handshake, of the version that all versions write there.
const HELLO: &[u8] = &[0x16, 0x03];

/// What an SSH client says first (RFC 4253 section 4.2), in a line that is not longer than the second.
const SSH: &[u8] = b"SSH-2.0-";
const LONGEST_GREETING: usize = 255;

/// Methods that begin HTTP whatever follows them.
const METHODS: [&[u8]; 10] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI",
];

/// A first word longer than this is no word of an opaque protocol that we know of.
const LONGEST_WORD: usize = 64;

/// Bytes read at once while detecting.
const FIRST_READ: usize = 4096;

/// Reads into `read` until the protocol is clear. Returns `None` when the peer ended before its first byte.
///
/// # Errors
/// The stream's own.
///
/// # Cancellation
/// Safe: bytes that were read are in `read`.
pub(crate) async fn detect<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
) -> io::Result<Option<Protocol>> {
    loop {
        if let Some(protocol) = classify(read) {
            return Ok(Some(protocol));
        }
        if poll_fn(|cx| poll_some(stream, read, cx)).await? == 0 {
            return Ok((!read.is_empty()).then(|| settle(read)));
        }
    }
}

/// Reads what there is, and holds no memory for it while there is nothing: who has connected may be silent for long.
fn poll_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut space = [MaybeUninit::uninit(); FIRST_READ];
    let mut some = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut some))?;
    read.extend_from_slice(some.filled());
    Poll::Ready(Ok(some.filled().len()))
}

/// What bytes that may yet become several things are taken for when no more come.
pub(crate) fn settle(read: &[u8]) -> Protocol {
    let begun = match HELLO.starts_with(read) {
        true => Protocol::Tls,
        false => Protocol::Http1,
    };
    classify(read).unwrap_or(begun)
}

/// The protocol that begins with these bytes; `None` while more must be seen.
pub(crate) fn classify(read: &[u8]) -> Option<Protocol> {
    let first = *read.first()?;
    if let Some(matched) = common(read, PREFACE) {
        return (matched == PREFACE.len()).then_some(Protocol::Http2);
    }
    if let Some(matched) = common(read, HELLO) {
        return (matched == HELLO.len()).then_some(Protocol::Tls);
    }
    if let Some(matched) = common(read, SSH) {
        // Some servers of HTTP take any word for a method, so the whole of the line is looked at.
        let is_whole = read.contains(&b'\n') || read.len() > LONGEST_GREETING;
        return match matched == SSH.len() && is_whole {
            true if names_http(read) => Some(Protocol::Http1),
            true => Some(Protocol::Opaque),
            false => None,
        };
    }
    // Blank lines before a request line are skipped, white space there is refused: by the HTTP parser.
    if matches!(first, b' ' | b'\t' | b'\r' | b'\n') || METHODS.iter().any(|method| read.starts_with(method))
    {
        return Some(Protocol::Http1);
    }
    let skipped = read.iter().take_while(|byte| is_skipped(**byte)).count();
    if skipped > 0 {
        let rest = &read[skipped..];
        if METHODS.iter().any(|method| rest.starts_with(method)) {
            return Some(Protocol::Http1);
        }
        if read.len() < LONGEST_WORD && METHODS.iter().any(|method| method.starts_with(rest)) {
            return None;
        }
    }
    match read.iter().position(|&byte| !is_token(byte)) {
        None if read.len() < LONGEST_WORD => None,
        None => Some(Protocol::Http1),
        Some(end) if end > 0 && read[end] == b' ' => Some(Protocol::Http1),
        Some(_) if names_http(read) => Some(Protocol::Http1),
        Some(_) => Some(Protocol::Opaque),
    }
}

/// Bytes that some servers of HTTP skip before a method, so that what they hear is a request all the same.
const fn is_skipped(byte: u8) -> bool {
    byte < b' ' || matches!(byte, 0x85 | 0xa0)
}

/// How many bytes agree, when one is a prefix of the other.
fn common(read: &[u8], whole: &[u8]) -> Option<usize> {
    let length = read.len().min(whole.len());
    (read[..length] == whole[..length]).then_some(length)
}

/// True when the first line ends like a request line.
fn names_http(read: &[u8]) -> bool {
    let line = read.split(|&byte| byte == b'\n').next().unwrap_or(read);
    line.windows(b" HTTP/".len()).any(|window| window == b" HTTP/")
}

/// `tchar` of RFC 9110 section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests;
