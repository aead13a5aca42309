//! A request that failed on its connection: what that was, and whether it may be sent again.

use http::Request;
use hyper::client::conn::TrySendError;
use jitney_core::policy::Replay;

use crate::body::{Body, Broken};
use crate::error::{Error, ErrorKind};

/// The most of a streamed body that is kept for another try, as in linkerd.
pub(super) const KEPT: usize = 64 << 10;

/// A second request like this one, when its body is at hand.
pub(super) fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// True for a call that may be sent twice because a connection that idled was dead (RFC 9110 section 9.2.2).
pub(super) fn is_idempotent_and_bodiless(request: &Request<Body>) -> bool {
    request.method().is_idempotent() && request.body().is_empty()
}

/// True when a stream that failed may be sent again: it was never processed, or sending it twice does no harm.
pub(super) fn is_repeatable(error: &hyper::Error, request: &Request<Body>, replay: Replay) -> bool {
    let cause = http2_cause(error);
    cause.is_some_and(is_unprocessed)
        || (cause.is_none_or(|cause| cause.is_io() || cause.is_go_away())
            && replay != Replay::Never
            && is_idempotent_and_bodiless(request))
}

/// True for a stream that the endpoint refused, or that its GOAWAY leaves out: it was never processed
/// (RFC 9113 sections 6.8 and 8.7). The library fails no other stream with a GOAWAY of the peer; one with
/// an error in it may come from a peer that has lost count.
pub(super) fn is_unprocessed(error: &h2::Error) -> bool {
    let reason = error.reason();
    reason == Some(h2::Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote() && reason == Some(h2::Reason::NO_ERROR))
}

/// True for a call whose stream failed, and not the connection that it went over.
pub(super) fn is_of_stream(error: &hyper::Error) -> bool {
    http2_cause(error).is_some_and(h2::Error::is_reset)
}

fn http2_cause(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// True for the failure of a request's body: its sender is gone. Over HTTP/2 the library resets the stream then, which
/// nobody else on this side does while the reply is waited for. It says of the end of a connection, too, that it is
/// the user's fault, to calls that wait for their turn on it.
fn is_callers(cause: &(dyn std::error::Error + 'static)) -> bool {
    let is_own_reset = |cause: &h2::Error| cause.is_reset() && !cause.is_remote() && !cause.is_library();
    cause.is::<Broken>() || cause.downcast_ref().is_some_and(is_own_reset)
}

pub(super) fn broken(failure: TrySendError<Request<Body>>) -> Error {
    let error = failure.into_error();
    let kind = if error.is_parse() {
        ErrorKind::UpstreamProtocol("the reply does not parse")
    } else if std::error::Error::source(&error).is_some_and(is_callers) {
        ErrorKind::CallerGone
    } else {
        ErrorKind::UpstreamReset
    };
    Error::caused(kind, error)
}
