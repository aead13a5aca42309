//! A stream from upstream, whose lease learns how it ends.
//!
//! One of HTTP/2 may have come whole and not have ended: its end is in a frame of its own. Whoever passes it on over
//! HTTP/1 has no use for that, and drops it; then it is waited for here, as a stream that is reset, however late, is
//! counted by the service as one whose caller has left.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

use super::{Body, Broken, Cut, Kind};
use crate::headers;
use crate::send::Lease;
use crate::waking;

/// The end of a stream of which all bytes have come that were announced.
#[derive(Debug)]
pub(super) struct Rest {
    /// `None` once it has ended.
    stream: Option<Incoming>,
    lease: Lease,
}

impl Body {
    pub(crate) const fn leased(stream: Incoming, lease: Lease) -> Self {
        Self(Kind::Leased(stream, lease))
    }

    pub(super) fn poll_leased(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Kind::Leased(stream, lease) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let mut frame = match waking::poll_piece(stream, cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(lease.poll_late(cx));
                return self.cut(Broken::Late, cx);
            }
        };
        if !ends(&mut frame, stream, lease) && stream.size_hint().exact() == Some(0) {
            self.only_ends();
        }
        self.told(frame, cx)
    }

    /// The same of one that has come whole.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Kind::Rest(rest) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let Some(stream) = &mut rest.stream else {
            return Poll::Ready(None);
        };
        let mut frame = match waking::poll_piece(stream, cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(rest.lease.poll_late(cx));
                rest.stream = None;
                return self.cut(Broken::Late, cx);
            }
        };
        if ends(&mut frame, stream, &mut rest.lease) {
            rest.stream = None;
        }
        self.told(frame, cx)
    }

    fn told(
        &mut self,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match frame {
            Some(Err(error)) => self.cut(Broken::Stream(error), cx),
            frame => Poll::Ready(frame.map(|frame| frame.map_err(Broken::Stream))),
        }
    }

    /// To be called on a leased one.
    fn only_ends(&mut self) {
        if let Kind::Leased(stream, lease) = std::mem::replace(&mut self.0, Kind::Empty) {
            let stream = Some(stream);
            self.0 = Kind::Rest(Box::new(Rest { stream, lease }));
        }
    }

    /// Ends it.
    fn cut(&mut self, why: Broken, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut cut = Cut::new(why);
        let told = cut.poll(cx);
        self.0 = Kind::Cut(cut);
        told
    }
}

/// Whether a stream ends with this frame, or without one; then its lease is told how.
fn ends(
    frame: &mut Option<Result<Frame<Bytes>, hyper::Error>>,
    stream: &Incoming,
    lease: &mut Lease,
) -> bool {
    match frame {
        Some(Ok(frame)) => {
            if let Some(trailers) = frame.trailers_mut() {
                headers::strip_trailers(trailers);
            }
            let trailers = frame.trailers_ref();
            if trailers.is_none() && !stream.is_end_stream() {
                lease.was_read(frame.data_ref().map_or(0, Bytes::len));
                return false;
            }
            lease.give_back(trailers);
        }
        Some(Err(_)) => lease.broke(),
        None => lease.give_back(None),
    }
    true
}

impl Rest {
    pub(super) fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.lease.only_ends(stream);
        }
    }
}
