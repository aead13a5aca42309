//! What gRPC says in header fields: how long its caller waits, how a call ended, and what that is
//! in statuses of HTTP. Messages and trailers behind a body are none of its business.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// How a gRPC call ended: the codes that mean something to a proxy have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(u8);

impl Code {
    /// It went well.
    pub const OK: Self = Self(0);
    /// Its caller went away.
    pub const CANCELLED: Self = Self(1);
    /// Its time was up.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// Whoever calls may not.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// Somebody has no more to give: a rate, a size.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// Something that should not happen.
    pub const INTERNAL: Self = Self(13);
    /// Whoever should serve it cannot now.
    pub const UNAVAILABLE: Self = Self(14);

    /// The code of a reply that is all head ("Trailers-Only"). `None` for any other reply, and for one
    /// whose code is none.
    pub fn of(reply: &HeaderMap) -> Option<Self> {
        let code = reply.get(STATUS)?.to_str().ok()?.parse().ok()?;
        (code <= LAST).then_some(Self(code))
    }

    /// The code of this number; `None` for one that there is not.
    pub fn new(number: u8) -> Option<Self> {
        (number <= LAST).then_some(Self(number))
    }

    /// The code for a status of HTTP that comes without one: of those that this proxy gives itself its own, of
    /// others what clients take it for (grpc: doc/http-grpc-status-mapping.md).
    pub const fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            400 | 508 => Self::INTERNAL,
            401 => Self(16),
            403 => Self::PERMISSION_DENIED,
            404 => Self(12),
            413 | 429 => Self::RESOURCE_EXHAUSTED,
            502 | 503 => Self::UNAVAILABLE,
            504 => Self::DEADLINE_EXCEEDED,
            _ => Self(2),
        }
    }

    /// Its number, as `grpc-status` has it.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// What HTTP would say in its place, as Google's API errors and Envoy have it.
    pub const fn status(self) -> StatusCode {
        match self.0 {
            0 => StatusCode::OK,
            3 | 9 | 11 => StatusCode::BAD_REQUEST,
            4 => StatusCode::GATEWAY_TIMEOUT,
            5 => StatusCode::NOT_FOUND,
            6 | 10 => StatusCode::CONFLICT,
            7 => StatusCode::FORBIDDEN,
            8 => StatusCode::TOO_MANY_REQUESTS,
            12 => StatusCode::NOT_IMPLEMENTED,
            14 => StatusCode::SERVICE_UNAVAILABLE,
            16 => StatusCode::UNAUTHORIZED,
            // 1 is the caller's own doing, for which HTTP has no status.
            1 => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What a reply says of its call, in the words of HTTP: gRPC sends 200 with every head, and says in
/// `grpc-status` what it means.
pub fn status(head: StatusCode, reply: &HeaderMap) -> StatusCode {
    match head {
        StatusCode::OK => Code::of(reply).map_or(head, Code::status),
        other => other,
    }
}

/// The content type of a call of gRPC or gRPC-Web, which its replies have, too; `None` for any other.
pub fn content_type(call: &HeaderMap) -> Option<&HeaderValue> {
    let found = call.get(CONTENT_TYPE)?;
    let rest = found.as_bytes().strip_prefix(b"application/grpc")?;
    matches!(rest.first(), None | Some(b'+' | b'-' | b';')).then_some(found)
}

/// True for a call of gRPC, which HTTP/1.1 cannot carry: its replies end with trailers. gRPC-Web has them in the body.
pub fn needs_http2(call: &HeaderMap) -> bool {
    content_type(call).is_some_and(|found| !found.as_bytes().starts_with(b"application/grpc-web"))
}

/// How long the caller waits by its `grpc-timeout`: up to eight digits and a unit. `None` without the
/// field, and for one that nobody can read, which servers ignore as well.
pub fn timeout(call: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = call.get(TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout.min(LONGEST))
}

/// How long the caller waits.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// How a call ended.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Why, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The last code there is: UNAUTHENTICATED.
const LAST: u8 = 16;
/// A longer wait is none that a proxy needs to bound; eight digits of hours overflow some clocks.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0S", Some(Duration::ZERO)),
            ("99999999H", Some(LONGEST)),
            ("", None),
            ("S", None),
            ("5", None),
            ("-1S", None),
            ("1.5S", None),
            ("123456789S", None),
            ("5s", None),
        ] {
            assert_eq!(timeout(&field(TIMEOUT, text)), expected, "{text:?}");
        }
    }

    #[test]
    fn only_the_types_of_grpc_are_grpc() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web-text", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpcish", false),
            ("application/json", false),
        ] {
            assert_eq!(
                content_type(&field(CONTENT_TYPE, text)).is_some(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_reply_that_is_all_head_says_what_its_status_would_be() {
        for (head, code, expected) in [
            (200, "0", 200),
            (200, "8", 429),
            (200, "14", 503),
            (200, "4", 504),
            (200, "2", 500),
            (200, "17", 200),
            (200, "x", 200),
            (502, "0", 502),
        ] {
            let head = StatusCode::from_u16(head).unwrap();
            let found = status(head, &field(STATUS, code));
            assert_eq!(found.as_u16(), expected, "{head} {code}");
        }
        assert_eq!(status(StatusCode::OK, &HeaderMap::new()), StatusCode::OK);
    }
}
