//! A call that is being served, as hyper wants it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Response, header};

use super::{Serving, Shared, overdue};
use crate::body::Body;
use crate::retreat::Retreat;

/// The call.
pub(crate) struct Answering<S> {
    pub(super) serving: Serving,
    pub(super) version: Version<S>,
}

/// What the end of a call means to its connection.
pub(super) enum Version<S> {
    /// The connection's end has to be told in a reply.
    Http1(Arc<Shared<S>>),
    /// Whether its caller stayed is remembered.
    Http2(Retreat),
    /// It came too late.
    Refused,
}

impl<S> Future for Answering<S> {
    type Output = Result<Response<Body>, h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.version {
            Version::Http2(retreat) => std::task::ready!(retreat.poll_stays(cx)),
            Version::Refused => return Poll::Ready(Err(h2::Reason::REFUSED_STREAM.into())),
            Version::Http1(_) => {}
        }
        let mut reply = std::task::ready!(self.serving.as_mut().poll(cx)).into_response();
        overdue::hand_out(&mut reply);
        match &mut self.version {
            Version::Http2(retreat) => retreat.stayed(),
            Version::Refused => {}
            Version::Http1(connection) => {
                if reply.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                    connection.verdicts.switch();
                } else if connection.seat.is_closing() {
                    let close = HeaderValue::from_static("close");
                    reply.headers_mut().insert(header::CONNECTION, close);
                }
            }
        }
        Poll::Ready(Ok(reply))
    }
}

impl<S> fmt::Debug for Answering<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}
