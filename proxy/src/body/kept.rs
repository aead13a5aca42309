//! A body that comes as a stream and may have to be sent again: what has passed of it is kept, up to a
//! bound. The first try gets each piece as it comes, whether or not there is another.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use super::{Body, Broken, total};

/// The body as one try sends it. Clones are the same body from its beginning.
#[derive(Debug)]
pub(super) struct Kept {
    source: Arc<Mutex<Source>>,
    /// `None` until it is asked for its first piece.
    turn: Option<u64>,
    /// Pieces of the past that it has given.
    given: usize,
    gave_trailers: bool,
}

#[derive(Debug)]
struct Source {
    rest: Body,
    /// Invariant: while `is_whole`, every piece that has come, in order; else none.
    past: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    has_ended: bool,
    is_whole: bool,
    /// What may be kept yet.
    room: usize,
    /// Of the try that sends it now: one that has begun later takes the body from the ones before.
    turn: u64,
    waker: Option<Waker>,
}

impl Kept {
    /// Keeps at most so many bytes of a body.
    pub(super) fn new(rest: Body, limit: usize) -> Self {
        Self::of(Arc::new(Mutex::new(Source {
            rest,
            past: Vec::new(),
            trailers: None,
            has_ended: false,
            is_whole: true,
            room: limit,
            turn: 0,
            waker: None,
        })))
    }

    const fn of(source: Arc<Mutex<Source>>) -> Self {
        Self {
            source,
            turn: None,
            given: 0,
            gave_trailers: false,
        }
    }

    /// The same body from its beginning; `None` when too much of it has passed.
    pub(super) fn try_clone(&self) -> Option<Self> {
        self.is_whole().then(|| Self::of(Arc::clone(&self.source)))
    }

    /// Whether all that has passed is kept.
    pub(super) fn is_whole(&self) -> bool {
        self.source.lock().is_whole
    }

    /// Takes the body from the tries before, which fail if they still send it. False when this is one of
    /// them, or too much has passed.
    pub(super) fn claim(&mut self) -> bool {
        self.source.lock().grant(&mut self.turn)
    }

    /// See [`Body::note_awaited`].
    pub(super) fn note_awaited(&self) {
        self.source.lock().rest.note_awaited();
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let may_be_sent_again = Arc::strong_count(&self.source) > 1;
        let mut source = self.source.lock();
        // Under the same lock as what follows: no other try gets the body in between.
        if !source.grant(&mut self.turn) {
            return Poll::Ready(Some(Err(Broken::Elsewhere)));
        }
        if let Some(piece) = source.past.get(self.given) {
            self.given += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if source.has_ended {
            let trailers = source.trailers.clone().filter(|_| !self.gave_trailers);
            self.gave_trailers = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let Poll::Ready(piece) = Pin::new(&mut source.rest).poll_frame(cx) else {
            source.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        source.note(piece.as_ref(), may_be_sent_again);
        self.given = source.past.len();
        self.gave_trailers = source.has_ended;
        Poll::Ready(piece)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        self.given == source.past.len()
            && if source.has_ended {
                self.gave_trailers || source.trailers.is_none()
            } else {
                source.rest.is_end_stream()
            }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let source = self.source.lock();
        if source.has_ended && source.trailers.is_some() {
            return SizeHint::default();
        }
        let past = total(source.past.get(self.given..).unwrap_or_default());
        let rest = source.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(past + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(past + upper);
        }
        hint
    }
}

impl Source {
    /// See [`Kept::claim`].
    fn grant(&mut self, to: &mut Option<u64>) -> bool {
        if let Some(turn) = *to {
            return turn == self.turn;
        }
        let may = self.is_whole || self.turn == 0;
        if may {
            self.turn += 1;
            *to = Some(self.turn);
            if let Some(before) = self.waker.take() {
                before.wake();
            }
        }
        may
    }

    /// Keeps what has just come, if it may be of use and there is room for it.
    fn note(&mut self, piece: Option<&Result<Frame<Bytes>, Broken>>, may_be_sent_again: bool) {
        self.waker = None;
        match piece {
            None => self.has_ended = true,
            Some(Err(_)) => self.forget(),
            Some(Ok(_)) if !may_be_sent_again => self.forget(),
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => self.keep(data),
                (None, trailers) => {
                    self.trailers = trailers.cloned();
                    self.has_ended = true;
                }
            },
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if data.is_empty() || !self.is_whole {
            return;
        }
        match self.room.checked_sub(data.len() + EACH) {
            Some(room) => {
                self.room = room;
                // A short piece would hold the whole buffer that it was read into.
                let is_short = data.len() < SHORT;
                self.past.push(if is_short {
                    Bytes::copy_from_slice(data)
                } else {
                    data.clone()
                });
            }
            None => self.forget(),
        }
    }

    fn forget(&mut self) {
        self.is_whole = false;
        self.past = Vec::new();
    }
}

/// What a piece counts beyond its bytes: tiny ones cost more to keep than they hold.
const EACH: usize = 32;
/// Less than this is copied.
const SHORT: usize = 4 << 10;

#[cfg(test)]
mod tests;
