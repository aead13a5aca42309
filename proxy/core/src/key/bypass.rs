//! The reasons to let a call travel alone that its head shows: checked before the body is read,
//! so that such a call streams.

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method};

use crate::Bypass;
use crate::codec::Codec;
use crate::policy::{Mode, Replay};
use crate::route::{Head, Route};

/// Why a call on `route` is not batched, as far as its head says. `None` also in mode `Shadow`,
/// where batches are formed to be counted.
pub fn head_bypass(route: &Route, head: &Head<'_>) -> Option<Bypass> {
    if route.mode == Mode::Disabled {
        return Some(Bypass::Disabled);
    }
    if *head.method == Method::CONNECT {
        return Some(Bypass::Upgrade);
    }
    let mut length = 0;
    for (name, value) in head.headers {
        if *name == CONTENT_LENGTH {
            length = declared(value);
        } else if let Some(reason) = of_field(name.as_str(), value) {
            return Some(reason);
        }
    }
    if head.uri.query().is_some_and(is_signed_query) {
        return Some(Bypass::Signed);
    }
    if length > route.limits.max_bytes {
        return Some(Bypass::TooLarge);
    }
    let replayable = head.method.is_idempotent() || route.on_failure.replay == Replay::Declared;
    if !replayable && route.codec.all_or_nothing() {
        return Some(Bypass::NotReplayable);
    }
    None
}

/// What one field demands. The first letter decides for most fields at the cost of one jump.
fn of_field(name: &str, value: &HeaderValue) -> Option<Bypass> {
    let bytes = value.as_bytes();
    let reason = match name.as_bytes().first()? {
        b'a' if name == "authorization" => return is_signing_scheme(bytes).then_some(Bypass::Signed),
        b'c' => match name {
            "cache-control" if has_token(bytes, b"no-transform") => Bypass::NoTransform,
            "content-encoding" if !bytes.eq_ignore_ascii_case(b"identity") => Bypass::Coded,
            "content-range" => Bypass::Conditional,
            "content-digest" | "content-md5" => Bypass::Signed,
            _ => return None,
        },
        b'd' if matches!(name, "dpop" | "digest") => Bypass::Signed,
        b'e' if name == "expect" => Bypass::Expect,
        b'i' if name == "idempotency-key" => Bypass::IdempotencyKey,
        b'i' if name.starts_with("if-") => Bypass::Conditional,
        b'p' if name == "proxy-authorization" => return is_signing_scheme(bytes).then_some(Bypass::Signed),
        b'r' if name == "range" => Bypass::Conditional,
        b'r' if name == "repr-digest" => Bypass::Signed,
        b't' => match name {
            "te" if has_token(bytes, b"trailers") => Bypass::Trailers,
            "trailer" => Bypass::Trailers,
            "transfer-encoding" if !bytes.eq_ignore_ascii_case(b"chunked") => Bypass::Coded,
            _ => return None,
        },
        b'u' if name == "upgrade" => Bypass::Upgrade,
        b'x' => match name {
            "x-jitney-batch" if bytes.eq_ignore_ascii_case(b"never") => Bypass::OptOut,
            "x-idempotency-key" => Bypass::IdempotencyKey,
            "x-amz-content-sha256" => Bypass::Signed,
            _ => return is_signature(name).then_some(Bypass::Signed),
        },
        _ => return is_signature(name).then_some(Bypass::Signed),
    };
    Some(reason)
}

/// `signature` and `signature-input` of RFC 9421, and `x-hub-signature-256` and its kin.
fn is_signature(name: &str) -> bool {
    name.len() >= SIGNATURE.len() && memchr::memmem::find(name.as_bytes(), SIGNATURE).is_some()
}

const SIGNATURE: &[u8] = b"signature";

/// Schemes whose credentials cover the request itself or the connection, or are good only once.
fn is_signing_scheme(value: &[u8]) -> bool {
    let scheme = value.split(|byte| *byte == b' ').next().unwrap_or_default();
    let begins = |prefix: &[u8]| {
        scheme
            .get(..prefix.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(prefix))
    };
    match scheme.first().map(u8::to_ascii_lowercase) {
        Some(b'a') => begins(b"aws"),
        Some(b'd') => scheme.eq_ignore_ascii_case(b"dpop") || scheme.eq_ignore_ascii_case(b"digest"),
        Some(b'h') => scheme.eq_ignore_ascii_case(b"hawk") || begins(b"hmac"),
        Some(b'n') => scheme.eq_ignore_ascii_case(b"negotiate") || scheme.eq_ignore_ascii_case(b"ntlm"),
        Some(b'o') => {
            scheme.eq_ignore_ascii_case(b"oauth") && memchr::memmem::find(value, b"oauth_signature").is_some()
        }
        Some(b's') => begins(b"sharedkey") || scheme.eq_ignore_ascii_case(b"signature"),
        _ => memchr::memmem::find(scheme, b"-HMAC-").is_some(),
    }
}

/// Pre-signed targets: AWS, Google, CloudFront and Azure.
fn is_signed_query(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        match name.len() {
            3 => name.eq_ignore_ascii_case("sig"),
            9 => name.eq_ignore_ascii_case("signature"),
            15 => name.eq_ignore_ascii_case("x-amz-signature"),
            16 => name.eq_ignore_ascii_case("x-goog-signature"),
            _ => false,
        }
    })
}

/// True when a comma-separated list names the token, parameters aside.
fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|member| {
        let name = member.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(token)
    })
}

fn declared(length: &HeaderValue) -> usize {
    let digits = length.to_str().ok();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
