//! What a caller gets; and the only place that turns an error into a status.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use jitney_core::codec::Chunks;
use jitney_core::grpc::{self, Code};

use crate::body::Body;
use crate::error::{Error, ErrorKind};

/// Says why this sidecar, and not the upstream, answered.
pub(crate) const X_JITNEY_ERROR: HeaderName = HeaderName::from_static("x-jitney-error");

/// A caller's reply.
#[derive(Debug)]
pub enum Reply {
    /// One of its own.
    Whole(Response<Body>),
    /// Its share of a batch's, with a head that all of them have.
    Share(StatusCode, Arc<HeaderMap>, Bytes),
}

impl Reply {
    /// The reply with a head of its own.
    pub fn into_response(self) -> Response<Body> {
        match self {
            Self::Whole(response) => response,
            Self::Share(status, headers, body) => {
                let mut response = Response::new(Body::full(body));
                *response.status_mut() = status;
                // The last of the members needs no copy.
                *response.headers_mut() = Arc::unwrap_or_clone(headers);
                response
            }
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Whole(response) => response.status(),
            Self::Share(status, ..) => *status,
        }
    }

    /// What its head says of the call: of one of gRPC whose reply is all head, what its code stands for.
    pub(crate) fn said(&self) -> StatusCode {
        match self {
            Self::Whole(response) => grpc::status(response.status(), response.headers()),
            Self::Share(status, headers, _) => grpc::status(*status, headers),
        }
    }

    /// The head, if it is its own.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Whole(response) => Some(response.headers()),
            Self::Share(..) => None,
        }
    }
}

impl From<Response<Body>> for Reply {
    fn from(response: Response<Body>) -> Self {
        Self::Whole(response)
    }
}

/// How a caller wants to be told of errors.
#[derive(Clone, Debug)]
pub(crate) enum Tongue {
    /// By status, and in words.
    Http,
    /// By `grpc-status` in a head that is all of the reply, with the content type of the call.
    Grpc(HeaderValue),
}

impl Tongue {
    /// That of a call with this head.
    pub(crate) fn of(call: &HeaderMap) -> Self {
        grpc::content_type(call).map_or(Self::Http, |found| Self::Grpc(found.clone()))
    }

    /// The reply to a call that failed on the way.
    pub(crate) fn tell(&self, error: &Error) -> Response<Body> {
        match self {
            Self::Http => of_error(error),
            Self::Grpc(content_type) => of_grpc_error(error, content_type.clone()),
        }
    }
}

/// The reply to a call of gRPC that failed on the way: "Trailers-Only" with 200, as its specification wants.
fn of_grpc_error(error: &Error, content_type: HeaderValue) -> Response<Body> {
    let mut response = of_error(error);
    *response.status_mut() = StatusCode::OK;
    *response.body_mut() = Body::empty();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(
        grpc::STATUS,
        HeaderValue::from(u16::from(code(error.kind()).number())),
    );
    // Printable ASCII without a percent sign, as every error of this sidecar is: nothing to encode.
    if let Ok(message) = HeaderValue::try_from(format!("jitney: {error}")) {
        headers.insert(grpc::MESSAGE, message);
    }
    response
}

/// Statuses whose replies end with the head (RFC 9110 section 6.4.1); faults may be injected with any.
const fn has_no_content(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    )
}

/// The reply to a call that failed on the way.
pub(crate) fn of_error(error: &Error) -> Response<Body> {
    let kind = error.kind();
    let mut response = Response::new(Body::full(Bytes::from(format!("jitney: {error}\n"))));
    let status = status(kind);
    *response.status_mut() = status;
    if has_no_content(status) {
        *response.body_mut() = Body::empty();
    } else {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
    }
    let headers = response.headers_mut();
    headers.insert(X_JITNEY_ERROR, HeaderValue::from_static(kind.as_str()));
    match kind {
        // What cannot be parsed cannot be followed by anything either.
        ErrorKind::BadRequest(_) | ErrorKind::BodyTooLarge => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        ErrorKind::Shed(_, after) | ErrorKind::RateLimited(after) => {
            headers.insert(header::RETRY_AFTER, retry_after(after));
        }
        ErrorKind::NoEndpoint => {
            headers.insert(header::RETRY_AFTER, retry_after(Duration::ZERO));
        }
        ErrorKind::Denied
        | ErrorKind::Loop
        | ErrorKind::CallerGone
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Connect
        | ErrorKind::ConnectTimeout
        | ErrorKind::TryTimeout
        | ErrorKind::UpstreamReset
        | ErrorKind::UpstreamProtocol(_)
        | ErrorKind::ReplyTooLarge
        | ErrorKind::Mismatch
        | ErrorKind::FaultInjected(_) => {}
    }
    response
}

/// The status of the reply to a call that failed so.
pub(crate) const fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::BadRequest(_) | ErrorKind::CallerGone => StatusCode::BAD_REQUEST,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::FaultInjected(injected) => injected.status(),
        ErrorKind::Loop => StatusCode::LOOP_DETECTED,
        ErrorKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Shed(..) | ErrorKind::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::DeadlineExceeded | ErrorKind::ConnectTimeout | ErrorKind::TryTimeout => {
            StatusCode::GATEWAY_TIMEOUT
        }
        ErrorKind::Connect
        | ErrorKind::UpstreamReset
        | ErrorKind::UpstreamProtocol(_)
        | ErrorKind::ReplyTooLarge
        | ErrorKind::Mismatch => StatusCode::BAD_GATEWAY,
    }
}

/// The same in the words of gRPC, as linkerd has them: what is worth another try is UNAVAILABLE.
pub(crate) const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::DeadlineExceeded | ErrorKind::TryTimeout => Code::DEADLINE_EXCEEDED,
        ErrorKind::RateLimited(_) | ErrorKind::BodyTooLarge => Code::RESOURCE_EXHAUSTED,
        ErrorKind::CallerGone => Code::CANCELLED,
        ErrorKind::Denied => Code::PERMISSION_DENIED,
        ErrorKind::FaultInjected(injected) => injected.code(),
        ErrorKind::Shed(..)
        | ErrorKind::NoEndpoint
        | ErrorKind::Connect
        | ErrorKind::ConnectTimeout
        | ErrorKind::UpstreamReset => Code::UNAVAILABLE,
        ErrorKind::BadRequest(_)
        | ErrorKind::Loop
        | ErrorKind::UpstreamProtocol(_)
        | ErrorKind::ReplyTooLarge
        | ErrorKind::Mismatch => Code::INTERNAL,
    }
}

/// Whole seconds, at least one: `Retry-After: 0` invites the caller back at once.
fn retry_after(after: Duration) -> HeaderValue {
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    HeaderValue::from(seconds.max(1))
}

/// One buffer, so that head and body leave in one write; copying is cheaper than more frames.
pub(crate) fn joined(chunks: Chunks) -> Bytes {
    let mut chunks = chunks.into_iter().filter(|c| !c.is_empty());
    let Some(first) = chunks.next() else {
        return Bytes::new();
    };
    let Some(second) = chunks.next() else { return first };
    let mut all = BytesMut::with_capacity(first.len() + second.len() + 256);
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    for chunk in chunks {
        all.extend_from_slice(&chunk);
    }
    all.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Bound;

    #[test]
    fn every_error_has_its_status_and_says_who_answered() {
        let second = Duration::from_millis(1500);
        for (kind, status, reason, retry) in [
            (ErrorKind::BadRequest("two Host fields"), 400, "bad_request", None),
            (ErrorKind::Loop, 508, "loop", None),
            (ErrorKind::BodyTooLarge, 413, "body_too_large", None),
            (
                ErrorKind::Shed(Bound::Queue, second),
                503,
                "queue_full",
                Some("2"),
            ),
            (
                ErrorKind::RateLimited(Duration::ZERO),
                429,
                "rate_limited",
                Some("1"),
            ),
            (ErrorKind::NoEndpoint, 503, "no_endpoint", Some("1")),
            (ErrorKind::DeadlineExceeded, 504, "deadline_exceeded", None),
            (ErrorKind::Connect, 502, "connect", None),
            (ErrorKind::Mismatch, 502, "reply_mismatch", None),
        ] {
            let response = of_error(&Error::new(kind));
            assert_eq!(response.status().as_u16(), status, "{kind:?}");
            assert_eq!(response.headers()[X_JITNEY_ERROR], reason);
            let found = response
                .headers()
                .get(header::RETRY_AFTER)
                .map(|v| v.to_str().unwrap());
            assert_eq!(found, retry, "{kind:?}");
        }
    }

    #[test]
    fn a_caller_of_grpc_is_told_in_its_own_tongue() {
        let content_type = HeaderValue::from_static("application/grpc+proto");
        let call = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
        for (kind, code) in [
            (ErrorKind::DeadlineExceeded, "4"),
            (ErrorKind::RateLimited(Duration::ZERO), "8"),
            (ErrorKind::Shed(Bound::Queue, Duration::ZERO), "14"),
            (ErrorKind::UpstreamReset, "14"),
            (ErrorKind::Loop, "13"),
        ] {
            let reply = Tongue::of(&call).tell(&Error::new(kind));
            assert_eq!(reply.status(), StatusCode::OK, "{kind:?}");
            assert!(http_body::Body::is_end_stream(reply.body()), "{kind:?}");
            let headers = reply.headers();
            assert_eq!(headers[grpc::STATUS], code, "{kind:?}");
            assert_eq!(headers[header::CONTENT_TYPE], "application/grpc+proto");
            assert_eq!(headers[X_JITNEY_ERROR], kind.as_str());
            assert_eq!(headers[grpc::MESSAGE], format!("jitney: {}", kind.as_str()));
        }
        let plain = Tongue::of(&HeaderMap::new()).tell(&Error::new(ErrorKind::Loop));
        assert_eq!(plain.status(), StatusCode::LOOP_DETECTED);
    }

    #[test]
    fn a_single_slice_is_not_copied() {
        let whole = Bytes::from_static(b"0123456789");
        let slice = joined(smallvec::smallvec![Bytes::new(), whole.slice(2..5)]);
        assert_eq!(slice.as_ptr(), whole[2..].as_ptr());
        let two = joined(smallvec::smallvec![whole.slice(..2), whole.slice(8..)]);
        assert_eq!(two, "0189");
    }
}
