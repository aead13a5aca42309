//! How far a body has passed that still comes from its caller: as long as more of it is waited for, silence is the
//! caller's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use parking_lot::Mutex;

use super::{Body, Broken, Kind};
use crate::batching::alarm::now;

/// How far a body has passed.
#[derive(Debug)]
pub(crate) struct Passing(Mutex<State>);

#[derive(Clone, Copy, Debug)]
enum State {
    /// The try that sends it has not asked for any of it.
    Unasked,
    /// The next piece is waited for.
    Awaited,
    /// A piece came then, and no other was asked for since.
    Passed(Instant),
    /// The last one came then, or whoever sends it wants no more.
    Whole(Instant),
}

/// The body.
#[derive(Debug)]
pub(super) struct Watched {
    body: Body,
    passing: Arc<Passing>,
}

impl Passing {
    /// Another try sends it.
    pub(crate) fn begin(&self) {
        let mut state = self.0.lock();
        if !matches!(*state, State::Whole(_)) {
            *state = State::Unasked;
        }
    }

    /// Whether a request with this body is still under way; `None`: it was at hand.
    pub(crate) fn is_open(body: Option<&Arc<Self>>) -> bool {
        body.is_some_and(|body| !body.is_whole())
    }

    /// All of it has passed.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(*self.0.lock(), State::Whole(_))
    }

    /// Since when a try that began then has not waited for any of it.
    pub(crate) fn unawaited_since(&self, began: Instant) -> Instant {
        match *self.0.lock() {
            State::Unasked => began,
            State::Awaited => now(),
            State::Passed(at) | State::Whole(at) => at.max(began),
        }
    }

    fn note(&self, state: State) {
        *self.0.lock() = state;
    }
}

impl Body {
    /// It is waited for from now on, although nobody asks for it yet.
    pub(super) fn note_awaited(&self) {
        if let Kind::Watched(watched) = &self.0 {
            watched.passing.note(State::Awaited);
        } else if let Kind::Kept(kept) = &self.0 {
            kept.note_awaited();
        }
    }

    /// Has it be known from now on how far it has passed, if it is not at hand.
    pub(crate) fn watched(&mut self) -> Option<Arc<Passing>> {
        if self.pieces().is_some() {
            return None;
        }
        let passing = Arc::new(Passing(Mutex::new(State::Unasked)));
        let watched = Watched {
            body: std::mem::replace(self, Self::empty()),
            passing: Arc::clone(&passing),
        };
        *self = Self(Kind::Watched(Box::new(watched)));
        Some(passing)
    }
}

impl Watched {
    pub(super) const fn body(&self) -> &Body {
        &self.body
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let piece = Pin::new(&mut self.body).poll_frame(cx);
        self.passing.note(match &piece {
            Poll::Pending => State::Awaited,
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && !self.body.is_end_stream() => {
                State::Passed(now())
            }
            Poll::Ready(_) => State::Whole(now()),
        });
        piece
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = self.passing.0.lock();
        *state = match *state {
            // Whoever sent it has not asked for more since.
            State::Passed(at) | State::Whole(at) => State::Whole(at),
            State::Unasked | State::Awaited => State::Whole(now()),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::body::Room;

    const SECOND: Duration = Duration::from_secs(1);

    /// A body of two pieces, which come as they pass at the other end.
    fn coming() -> (Body, Body) {
        let read = [&b"ab"[..], b"cd"].map(Bytes::from_static).to_vec();
        let (original, copy, _) = Body::resumed(read, Body::empty(), None).copied(&Room::new(100));
        (original, copy)
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_a_body_is_waited_for_is_its_callers() {
        let began = now();
        let (mut caller, mut body) = coming();
        let passing = body.watched().unwrap();
        advance(SECOND).await;
        // Nobody has asked for it: there may be no connection yet.
        assert_eq!(passing.unawaited_since(began), began);
        for piece in ["ab", "cd"] {
            assert!(timeout(SECOND, body.frame()).await.is_err());
            assert_eq!(
                (passing.unawaited_since(began), passing.is_whole()),
                (now(), false)
            );
            caller.frame().await.unwrap().unwrap();
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.data_ref().unwrap(), piece);
            let came = now();
            advance(SECOND).await;
            assert_eq!(passing.unawaited_since(began), came);
        }
        assert!(passing.is_whole());
        passing.begin();
        assert_eq!(passing.unawaited_since(now()), now(), "another try has all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn another_try_and_one_that_wants_no_more_wait_for_nothing() {
        let (_caller, mut body) = coming();
        let passing = body.watched().unwrap();
        assert!(timeout(SECOND, body.frame()).await.is_err());
        passing.begin();
        let began = now();
        advance(SECOND).await;
        assert_eq!(passing.unawaited_since(began), began);
        drop(body);
        assert_eq!(
            (passing.unawaited_since(began), passing.is_whole()),
            (now(), true)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asked_for_no_more_for_long_has_been_silent_for_as_long() {
        let (mut caller, mut body) = coming();
        let passing = body.watched().unwrap();
        assert!(timeout(SECOND, body.frame()).await.is_err());
        caller.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        let came = now();
        advance(SECOND).await;
        drop(body);
        assert_eq!((passing.unawaited_since(came), passing.is_whole()), (came, true));
    }

    #[test]
    fn what_is_at_hand_is_not_watched() {
        assert!(Body::empty().watched().is_none() && Body::full("abc").watched().is_none());
    }
}
