//! What a proxy does to a head: hop-by-hop fields go (RFC 9110 section 7.6.1), the target becomes
//! origin-form with its authority in `Host` (RFC 9112 section 3.2), everything else stays as it came.

mod received;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, Entry, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Uri, Version, response};
use smallvec::SmallVec;

use crate::error::{Error, ErrorKind};

pub use received::Received;
pub(crate) use received::{X_REQUEST_ID, treat_trailers};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// Between sidecars: what the call came as.
const VERSION: HeaderName = HeaderName::from_static("x-jitney-version");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");

/// What a `Connection` field may not remove, besides `content-*`, `x-forwarded-*` and `x-jitney-*`:
/// whoever reads these upstream trusts that the one in front sent them (CVE-2022-31813).
const PROTECTED: [&str; 17] = [
    "host",
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "www-authenticate",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-amz-security-token",
    "dpop",
    "forwarded",
    "via",
    "x-request-id",
];

/// Checks what hyper lets pass and a proxy must refuse (RFC 9112 sections 3.2 and 6.1).
///
/// # Errors
/// [`ErrorKind::BadRequest`] with the rule that is broken.
pub fn check<B>(request: &Request<B>) -> Result<(), Error> {
    let bad = |rule| Err(Error::new(ErrorKind::BadRequest(rule)));
    if request.method() == Method::CONNECT {
        return bad("CONNECT is not served");
    }
    if request.uri().path() == "*" && request.method() != Method::OPTIONS {
        return bad("a target of * without OPTIONS");
    }
    check_target(request.uri(), request.version())?;
    let mut seen: (Option<&HeaderValue>, Option<&HeaderValue>) = (None, None);
    // One pass, as looking a name up costs more than comparing it with the few that there are.
    for (name, value) in request.headers() {
        match *name {
            HOST if seen.0.replace(value).is_some() => return bad("more than one Host"),
            TRANSFER_ENCODING
                if seen.1.replace(value).is_some() || !value.as_bytes().eq_ignore_ascii_case(b"chunked") =>
            {
                return bad("a Transfer-Encoding other than chunked");
            }
            _ => {}
        }
    }
    match (seen.0, request.version()) {
        (Some(host), _) if !is_host(host.as_bytes()) => bad("invalid Host"),
        (Some(host), Version::HTTP_2) if differs(host, request.uri().authority()) => {
            bad("Host differs from :authority")
        }
        (None, Version::HTTP_11) => bad("no Host"),
        _ => Ok(()),
    }
}

fn differs(host: &HeaderValue, authority: Option<&Authority>) -> bool {
    let host = host.as_bytes();
    authority.is_some_and(|authority| !host.eq_ignore_ascii_case(authority.as_str().as_bytes()))
}

/// Origin-form, `*`, or absolute-form of http; the authority without user information.
fn check_target(uri: &Uri, version: Version) -> Result<(), Error> {
    let bad = |rule| Err(Error::new(ErrorKind::BadRequest(rule)));
    let Some(authority) = uri.authority() else {
        return Ok(());
    };
    if authority.as_str().contains('@') {
        return bad("user information in the target");
    }
    if !is_host(authority.as_str().as_bytes()) {
        return bad("an invalid host in the target");
    }
    match uri.scheme_str() {
        Some("http" | "https") => Ok(()),
        Some(_) if version == Version::HTTP_2 => Ok(()),
        Some(_) => bad("a target of a foreign scheme"),
        None => bad("a target in authority-form"),
    }
}

/// `uri-host [":" port]`, or empty (RFC 9110 section 7.2).
fn is_host(host: &[u8]) -> bool {
    // The common case: letters, digits and dots, then perhaps a port.
    let is_plain = |&byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let end = host.iter().position(|byte| !is_plain(byte)).unwrap_or(host.len());
    match &host[end..] {
        [] => true,
        [b':', port @ ..] if end > 0 && port.len() < 5 => port.iter().all(u8::is_ascii_digit),
        _ => {
            let is_valid =
                |authority: Authority| !authority.host().is_empty() && valid_port(authority.as_str());
            !host.contains(&b'@') && Authority::try_from(host).is_ok_and(is_valid)
        }
    }
}

fn valid_port(authority: &str) -> bool {
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    match after_host.split_once(':') {
        None => true,
        Some((_, port)) => port.is_empty() || port.parse::<u16>().is_ok(),
    }
}

/// Makes a received request one to be sent on: hop-by-hop fields removed, the target in origin-form,
/// `Host` preserved. Returns the protocol that the caller asks to switch to, if any.
pub fn outbound<B: http_body::Body>(request: &mut Request<B>) -> Option<HeaderValue> {
    let is_http1 = request.version() != Version::HTTP_2;
    let upgrade = strip(request.headers_mut(), is_http1);
    let length = request.body().size_hint().exact();
    if length.is_none() && !request.headers().contains_key(CONTENT_LENGTH) {
        // Without it hyper takes a GET of unknown length for one without a body.
        request.headers_mut().insert(TRANSFER_ENCODING, CHUNKED);
    }
    upgrade
}

/// Makes the head fit for an HTTP/1.1 upstream: origin-form, `Host`, one `Cookie` line.
pub(crate) fn to_http1<B>(request: &mut Request<B>, fallback_host: &HeaderValue) {
    let from_h2 = request.version() == Version::HTTP_2;
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_some() {
        let uri = std::mem::take(request.uri_mut()).into_parts();
        if let Some(authority) = uri.authority
            && let Ok(host) =
                HeaderValue::from_maybe_shared(bytes::Bytes::copy_from_slice(authority.as_str().as_bytes()))
        {
            request.headers_mut().insert(HOST, host);
        }
        *request.uri_mut() = origin_form(uri.path_and_query);
    }
    if let Entry::Vacant(host) = request.headers_mut().entry(HOST) {
        host.insert(fallback_host.clone());
    }
    if from_h2 {
        join_cookies(request.headers_mut());
    }
    let headers = request.headers_mut();
    if headers.contains_key(TE) && !headers.contains_key(CONNECTION) {
        // It is for the next hop alone, which has to be said (RFC 9110 section 10.1.4).
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Makes the head fit for an HTTP/2 upstream: `:authority` from `Host`, no connection fields.
pub(crate) fn to_http2<B>(request: &mut Request<B>, fallback_host: &HeaderValue) {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(TRANSFER_ENCODING);
    request.headers_mut().remove(CONNECTION);
    let host = request.headers_mut().remove(HOST);
    if request.uri().authority().is_some() {
        return;
    }
    let host = host
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| fallback_host.clone());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Authority::try_from(host.as_bytes()).ok();
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Says what version of HTTP a request came as, to the sidecar at the other end of a connection that is HTTP/2
/// whatever the call was.
pub(crate) fn tell_version<B>(request: &mut Request<B>) {
    let version = match request.version() {
        Version::HTTP_10 => Some("HTTP/1.0"),
        Version::HTTP_11 => Some("HTTP/1.1"),
        _ => None,
    };
    // One that is HTTP/2 by now says already what it was, if it was anything else: callers cannot say it.
    if let Some(version) = version {
        let version = HeaderValue::from_static(version);
        request.headers_mut().insert(VERSION, version);
    }
}

/// Makes a request that another sidecar sent what it was when it came there.
pub(crate) fn take_version<B>(request: &mut Request<B>) {
    let Some(version) = request.headers_mut().remove(VERSION) else {
        return;
    };
    *request.version_mut() = match version.as_bytes() {
        b"HTTP/1.0" => Version::HTTP_10,
        b"HTTP/1.1" => Version::HTTP_11,
        _ => return,
    };
}

fn origin_form(path_and_query: Option<PathAndQuery>) -> Uri {
    path_and_query.map_or_else(Uri::default, Uri::from)
}

/// HTTP/2 may send `Cookie` in crumbs; HTTP/1.1 has one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut line = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        line.extend_from_slice(b"; ");
        line.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(line) = HeaderValue::from_maybe_shared(bytes::Bytes::from(line)) {
        headers.insert(COOKIE, line);
    }
}

/// Makes the head of an upstream's reply one to be sent back.
///
/// # Errors
/// [`ErrorKind::UpstreamProtocol`] for a reply that cannot be passed on without changing its meaning.
pub fn inbound(reply: &mut response::Parts) -> Result<(), Error> {
    let headers = &mut reply.headers;
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(ErrorKind::UpstreamProtocol("a Transfer-Encoding other than chunked").into());
        }
        // Transfer-Encoding overrides; the length must not go on (RFC 9112 section 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    strip(headers, true);
    Ok(())
}

/// Removes from trailers what is about one connection: to HTTP/2 they would be malformed (RFC 9113 section 8.2.2).
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers, true);
    trailers.remove(TE);
}

/// Puts back the two fields that ask for, or grant, another protocol.
pub(crate) fn switch(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Removes hop-by-hop fields and those that `Connection` names, as far as it may.
/// Keeps `te: trailers`. Returns the value of an `Upgrade` that `Connection` named.
fn strip(headers: &mut HeaderMap, is_http1: bool) -> Option<HeaderValue> {
    // One pass over the names: a head without any of these is the common one.
    let mut found: SmallVec<[HeaderName; 4]> = SmallVec::new();
    for name in headers.keys() {
        if is_hop_by_hop(name) {
            found.push(name.clone());
        }
    }
    if found.is_empty() {
        return None;
    }
    let mut upgrade = None;
    let wants_trailers = headers
        .get_all(TE)
        .iter()
        .any(|te| list(te).any(|coding| coding.eq_ignore_ascii_case(b"trailers")));
    let named: SmallVec<[HeaderName; 4]> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(list)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .collect();
    if is_http1 && named.contains(&UPGRADE) {
        upgrade = headers
            .get(UPGRADE)
            .filter(|protocol| !names_h2c(protocol))
            .cloned();
    }
    for name in found
        .iter()
        .chain(named.iter().filter(|name| !is_protected(name.as_str())))
    {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, TRAILERS);
    }
    upgrade
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    match *name {
        CONNECTION | TE | TRANSFER_ENCODING | UPGRADE | PROXY_AUTHENTICATE | PROXY_AUTHORIZATION => true,
        _ => *name == KEEP_ALIVE || *name == PROXY_CONNECTION || *name == HTTP2_SETTINGS,
    }
}

fn names_h2c(protocol: &HeaderValue) -> bool {
    list(protocol).any(|token| token.eq_ignore_ascii_case(b"h2c") || token.eq_ignore_ascii_case(b"h2"))
}

fn is_protected(name: &str) -> bool {
    let plain = plain(name);
    PROTECTED
        .iter()
        .any(|protected| protected.as_bytes() == plain.as_slice())
        || [&b"content-"[..], b"x-forwarded-", b"x-jitney-"]
            .iter()
            .any(|prefix| plain.starts_with(prefix))
}

/// A name as some upstreams read it, to whom `x_forwarded_for` and `x.forwarded.for` are the same field
/// (CVE-2026-88011): of all that is neither letter nor digit, any may stand for any.
fn plain(name: &str) -> SmallVec<[u8; 64]> {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    name.bytes().map(plain).collect()
}

/// The elements of a comma-separated field, trimmed, empty ones left out.
fn list(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests;
