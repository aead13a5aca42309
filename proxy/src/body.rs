//! The one body type, both ways: nothing, bytes at hand, or a stream with its trailers.
//! A stream that came over a pooled connection carries the lease that gives the connection back.

mod copied;
mod held;
mod kept;
mod leased;
mod passing;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use jitney_core::codec::Chunks;
use tokio::time::{Sleep, sleep};

use crate::headers::treat_trailers;
use crate::memory::{Gathering, Memory};
use crate::send::Lease;
use crate::waking;
use crate::wire::Budget;

pub(crate) use copied::{Progress, Room};
pub(crate) use held::{await_leave, note_expectation};
pub(crate) use passing::Passing;

use kept::Kept;
use leased::Rest;

/// A request or reply body.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Full(Bytes),
    Chunks(Box<smallvec::IntoIter<[Bytes; 4]>>),
    /// A caller's stream; the budget of its connection, if it shares that with others.
    Incoming(Incoming, Option<Budget>),
    /// A stream from upstream; the lease knows when it was read to its end.
    Leased(Incoming, Lease),
    /// The same once all bytes that were announced have come, but not its end.
    Rest(Box<Rest>),
    /// A stream from upstream that broke, which is not told yet.
    Cut(Box<Cut>),
    /// A stream, which may be sent again.
    Kept(Kept),
    /// Bytes already read, then what is still to come.
    Resumed(Box<Resumed>),
    /// A stream of which is known how far it has passed.
    Watched(Box<passing::Watched>),
    /// A stream that waits for leave.
    Held(Box<held::Held>),
    /// A stream that is copied as it passes.
    Original(Box<copied::Original>),
    Copied(Box<copied::Copied>),
}

#[derive(Debug)]
struct Cut {
    error: Option<Broken>,
    until: Pin<Box<Sleep>>,
}

/// What came before a stream broke is on its way by then: whoever passes it on throws away what is not sent yet
/// once it hears of the error, and the caller would see less than a direct call shows.
const TOLD_AFTER: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct Resumed {
    read: std::vec::IntoIter<Bytes>,
    rest: Body,
    trailers: Option<HeaderMap>,
    /// What `read` takes of the memory for bodies, until it has gone.
    gathering: Option<Gathering>,
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The stream that it comes over broke.
    #[error(transparent)]
    Stream(#[from] hyper::Error),
    /// The call's time was up.
    #[error("the call's time is up")]
    Late,
    /// Another try sends it now.
    #[error("the body is sent elsewhere")]
    Elsewhere,
    /// It is a copy that was given up.
    #[error("the copy of a call was given up")]
    GivenUp,
}

/// What [`take`] found.
#[derive(Debug)]
pub enum Taken {
    /// The whole body, without trailers.
    Whole(Bytes),
    /// The body exceeds the limit: what was read, and the rest, as one stream.
    Over(Body),
    /// The same, as others take all the memory that there is for bodies that are waited for.
    Crowded(Body),
    /// The body ended in trailers: the whole of it, to be passed on as it came.
    WithTrailers(Body),
}

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        })
    }

    /// These slices, one after the other.
    pub fn chunks(mut chunks: Chunks) -> Self {
        chunks.retain(|chunk| !chunk.is_empty());
        match chunks.len() {
            0 => Self::empty(),
            1 => Self::full(chunks.swap_remove(0)),
            _ => Self(Kind::Chunks(Box::new(chunks.into_iter()))),
        }
    }

    /// A caller's stream that shares its connection with others.
    pub(crate) fn sharing(stream: Incoming, budget: &Budget) -> Self {
        let mut body = Self::from(stream);
        if let Kind::Incoming(_, of) = &mut body.0 {
            *of = Some(budget.clone());
        }
        body
    }

    /// Who has to know how it ends, if it is a reply that is still to come.
    pub(crate) fn lease(&mut self) -> Option<&mut Lease> {
        match &mut self.0 {
            Kind::Leased(_, lease) => Some(lease),
            Kind::Rest(rest) => Some(rest.lease()),
            Kind::Resumed(resumed) => resumed.rest.lease(),
            Kind::Empty
            | Kind::Full(_)
            | Kind::Chunks(_)
            | Kind::Incoming(..)
            | Kind::Cut(_)
            | Kind::Kept(_)
            | Kind::Watched(_)
            | Kind::Held(_)
            | Kind::Original(_)
            | Kind::Copied(_) => None,
        }
    }

    fn resumed(read: Vec<Bytes>, rest: Self, trailers: Option<HeaderMap>) -> Self {
        Self(Kind::Resumed(Box::new(Resumed {
            read: read.into_iter(),
            rest,
            trailers,
            gathering: None,
        })))
    }

    /// What was read of a body that is gathered no longer, and its rest.
    fn released(read: BytesMut, rest: Self, gathering: Option<Gathering>) -> Self {
        Self(Kind::Resumed(Box::new(Resumed {
            read: vec![read.freeze()].into_iter(),
            rest,
            trailers: None,
            gathering,
        })))
    }

    /// True when there is nothing to send, so that a retry needs no copy of it.
    pub const fn is_empty(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }

    /// All of it, when its bytes are at hand.
    pub(crate) fn pieces(&self) -> Option<&[Bytes]> {
        match &self.0 {
            Kind::Empty => Some(&[]),
            Kind::Full(bytes) => Some(std::slice::from_ref(bytes)),
            Kind::Chunks(chunks) => Some(chunks.as_slice()),
            Kind::Incoming(..)
            | Kind::Leased(..)
            | Kind::Rest(_)
            | Kind::Cut(_)
            | Kind::Kept(_)
            | Kind::Resumed(_)
            | Kind::Watched(_)
            | Kind::Held(_)
            | Kind::Original(_)
            | Kind::Copied(_) => None,
        }
    }

    /// Its bytes, when they are at hand in one piece and no more than `limit`.
    ///
    /// # Errors
    /// The body, as it is.
    pub(crate) fn into_whole(self, limit: usize) -> Result<Bytes, Self> {
        let Self(Kind::Full(bytes)) = self else {
            return if self.is_empty() {
                Ok(Bytes::new())
            } else {
                Err(self)
            };
        };
        if bytes.len() <= limit {
            Ok(bytes)
        } else {
            Err(Self::full(bytes))
        }
    }

    /// The same body once more, when its bytes are at hand.
    pub fn try_clone(&self) -> Option<Self> {
        match &self.0 {
            Kind::Empty => Some(Self::empty()),
            Kind::Full(bytes) => Some(Self(Kind::Full(bytes.clone()))),
            Kind::Chunks(chunks) => Some(Self(Kind::Chunks(chunks.clone()))),
            Kind::Kept(kept) => kept.try_clone().map(|kept| Self(Kind::Kept(kept))),
            Kind::Incoming(..)
            | Kind::Leased(..)
            | Kind::Rest(_)
            | Kind::Cut(_)
            | Kind::Resumed(_)
            | Kind::Watched(_)
            | Kind::Held(_)
            | Kind::Original(_)
            | Kind::Copied(_) => None,
        }
    }

    /// From now on keeps what passes of a stream, at most so many bytes and as long as there are clones of it. They
    /// are empty-handed once it was more.
    pub(crate) fn keep(&mut self, limit: usize) {
        if matches!(
            self.0,
            Kind::Incoming(..) | Kind::Resumed(_) | Kind::Watched(_) | Kind::Original(_)
        ) {
            let rest = std::mem::replace(self, Self::empty());
            self.0 = Kind::Kept(Kept::new(rest, limit));
        }
    }

    /// Whether it can be sent from its beginning.
    pub(crate) fn is_whole(&self) -> bool {
        let Kind::Kept(kept) = &self.0 else { return true };
        kept.is_whole()
    }

    /// Has it be sent from its beginning, and what sends it now fail; false if too much has passed.
    pub(crate) fn claim(&mut self) -> bool {
        let Kind::Kept(kept) = &mut self.0 else {
            return true;
        };
        kept.claim()
    }
}

impl From<Incoming> for Body {
    fn from(stream: Incoming) -> Self {
        Self(if stream.is_end_stream() {
            Kind::Empty
        } else {
            Kind::Incoming(stream, None)
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Chunks(chunks) => Poll::Ready(chunks.next().map(|chunk| Ok(Frame::data(chunk)))),
            Kind::Incoming(stream, budget) => {
                let mut frame = ready!(waking::poll_piece(stream, cx));
                if let Some(Ok(frame)) = &mut frame {
                    if let Some(trailers) = frame.trailers_mut() {
                        treat_trailers(trailers);
                    } else if let (Some(data), Some(budget)) = (frame.data_ref(), budget)
                        && !stream.is_end_stream()
                    {
                        budget.was_read(data.len());
                    }
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Broken::Stream)))
            }
            Kind::Kept(kept) => kept.poll(cx),
            Kind::Leased(..) => self.poll_leased(cx),
            Kind::Rest(_) => self.poll_rest(cx),
            Kind::Cut(cut) => cut.poll(cx),
            Kind::Resumed(resumed) => resumed.poll(cx),
            Kind::Watched(watched) => watched.poll(cx),
            Kind::Held(held) => held.poll(cx),
            Kind::Original(original) => original.poll(cx),
            Kind::Copied(copied) => copied.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) | Kind::Cut(_) => false,
            Kind::Chunks(chunks) => chunks.len() == 0,
            Kind::Incoming(stream, _) | Kind::Leased(stream, _) => stream.is_end_stream(),
            Kind::Rest(_) => false,
            Kind::Kept(kept) => kept.is_end_stream(),
            Kind::Resumed(resumed) => {
                resumed.read.len() == 0 && resumed.trailers.is_none() && resumed.rest.is_end_stream()
            }
            Kind::Watched(watched) => watched.body().is_end_stream(),
            Kind::Held(held) => held.body().is_end_stream(),
            Kind::Original(original) => original.body().is_end_stream(),
            Kind::Copied(copied) => copied.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty | Kind::Rest(_) => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Chunks(chunks) => SizeHint::with_exact(total(chunks.as_slice())),
            Kind::Incoming(stream, _) | Kind::Leased(stream, _) => stream.size_hint(),
            Kind::Cut(_) => SizeHint::default(),
            Kind::Kept(kept) => kept.size_hint(),
            Kind::Watched(watched) => watched.body().size_hint(),
            Kind::Held(held) => held.body().size_hint(),
            Kind::Original(original) => original.body().size_hint(),
            Kind::Copied(copied) => copied.size_hint(),
            Kind::Resumed(resumed) if resumed.trailers.is_some() => SizeHint::default(),
            Kind::Resumed(resumed) => {
                let read = total(resumed.read.as_slice());
                let rest = resumed.rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(read + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(read + upper);
                }
                hint
            }
        }
    }
}

impl Cut {
    fn new(error: Broken) -> Box<Self> {
        Box::new(Self {
            error: Some(error),
            until: Box::pin(sleep(TOLD_AFTER)),
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.error.is_some() {
            ready!(self.until.as_mut().poll(cx));
        }
        Poll::Ready(self.error.take().map(Err))
    }
}

impl Resumed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(bytes) = self.read.next() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        // Whoever asks for more has sent it.
        self.gathering = None;
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }
}

fn total(chunks: &[Bytes]) -> u64 {
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}

/// Reads a body of at most `limit` bytes whole. One that came in one piece is not copied.
///
/// # Errors
/// The stream broke before its end.
///
/// # Cancellation
/// Dropping the future drops the body: its connection is closed, or its stream reset.
pub async fn take(body: impl Into<Body>, limit: usize) -> Result<Taken, Broken> {
    take_within(body.into(), limit, None).await
}

/// The same, while there is memory for all that is taken so. Nothing is counted of a body that came in one piece.
pub(crate) async fn take_within(body: Body, limit: usize, memory: Option<&Memory>) -> Result<Taken, Broken> {
    let mut body = match body.into_whole(limit) {
        Ok(bytes) => return Ok(Taken::Whole(bytes)),
        Err(body) => body,
    };
    if body.size_hint().lower() > limit as u64 {
        return Ok(Taken::Over(body));
    }
    // What is announced is at most the limit, and memory that nothing is written to costs nothing.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
    let (mut read, mut gathering) = (BytesMut::new(), None);
    while let Some(frame) = next_frame(&mut body).await {
        match frame?.into_data() {
            Ok(data) => {
                let (length, is_last) = (data.len(), body.is_end_stream());
                if is_last && read.is_empty() && length <= limit {
                    return Ok(Taken::Whole(data));
                }
                if read.is_empty() {
                    read.reserve(announced.max(length));
                }
                // A piece that is waited with holds all that was read with it: a buffer for a byte.
                read.extend_from_slice(&data);
                drop(data);
                if read.len() > limit {
                    return Ok(Taken::Over(Body::released(read, body, gathering)));
                }
                if is_last {
                    break;
                }
                if let Some(memory) = memory
                    && !gathering.get_or_insert_with(|| memory.gather()).add(length)
                {
                    return Ok(Taken::Crowded(Body::released(read, body, gathering)));
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                return Ok(Taken::WithTrailers(Body::resumed(
                    (!read.is_empty()).then(|| read.freeze()).into_iter().collect(),
                    Body::empty(),
                    trailers,
                )));
            }
        }
    }
    Ok(Taken::Whole(read.freeze()))
}

async fn next_frame(body: &mut Body) -> Option<Result<Frame<Bytes>, Broken>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

#[cfg(test)]
mod tests;
