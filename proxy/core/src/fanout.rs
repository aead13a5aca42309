//! Which header fields of a batch reply every member receives. An allow-list: what is not known
//! to describe the service or the representation in general could belong to one member alone.

use http::header::{self, HeaderMap, HeaderName};

/// Copies the fields that fan out to the members of a batch.
///
/// Never `Set-Cookie`, `ETag`, `Location`, `WWW-Authenticate` or a length: those belong to one reply.
pub fn fan_out(batch: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(batch.len());
    for (name, value) in batch {
        if fans_out(name) {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

fn fans_out(name: &HeaderName) -> bool {
    ALLOWED.contains(name) || PREFIXES.iter().any(|p| name.as_str().starts_with(p))
}

/// Fields of RFC 9110 and 9111 that describe a representation's type, its freshness or the
/// server, and `Retry-After`, which tells every member alike.
const ALLOWED: [HeaderName; 15] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::CACHE_CONTROL,
    header::EXPIRES,
    header::AGE,
    header::VARY,
    header::DATE,
    header::SERVER,
    header::VIA,
    header::RETRY_AFTER,
    header::ALLOW,
    header::STRICT_TRANSPORT_SECURITY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::CONTENT_SECURITY_POLICY,
    header::REFERRER_POLICY,
];

/// Families that answer the members' (byte-equal) requests alike.
const PREFIXES: [&str; 3] = ["access-control-", "x-ratelimit-", "ratelimit"];

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_what_describes_the_service_fans_out() {
        let mut batch = HeaderMap::new();
        for name in [
            "content-type",
            "retry-after",
            "access-control-allow-origin",
            "set-cookie",
            "etag",
            "location",
            "www-authenticate",
            "content-length",
            "content-range",
            "x-user",
        ] {
            batch.append(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        batch.append(header::VARY, HeaderValue::from_static("accept"));
        batch.append(header::VARY, HeaderValue::from_static("origin"));
        let out = fan_out(&batch);
        let mut names: Vec<_> = out.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "access-control-allow-origin",
                "content-type",
                "retry-after",
                "vary"
            ]
        );
        assert_eq!(out.get_all(header::VARY).iter().count(), 2);
    }
}
