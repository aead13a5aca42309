//! Replies whose time is up while their callers do not read: nobody asks a body then that knows its time, so who
//! serves it is told, and ends the stream, or the connection.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use tokio::time::{Sleep, sleep_until};

use crate::body::Body;
use crate::send::Due;

thread_local! {
    /// The last reply that was handed out in this turn of a task.
    static HANDED_OUT: Cell<Option<Due>> = const { Cell::new(None) };
}

/// The reply that is passed on.
#[derive(Debug, Default)]
struct Passing {
    due: Option<Due>,
    /// Made once it has not ended in its first turn.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Remembers when the reply has to have been read, for the task that is polled.
pub(super) fn hand_out(reply: &mut Response<Body>) {
    if let Some(due) = reply.body_mut().due() {
        HANDED_OUT.set(Some(due));
    }
}

/// Serves a connection or a stream; `None` if the time of a reply is up that it has handed out, and that has not ended.
/// Pinned by whoever calls, so that there is one copy of it.
pub(super) async fn in_time<S: Future>(mut serving: Pin<&mut S>) -> Option<S::Output> {
    let mut passing = Passing::default();
    poll_fn(|cx| {
        let served = serving.as_mut().poll(cx);
        // Taken in any case, lest the next task of this thread takes it for its own.
        let handed_out = HANDED_OUT.take();
        if let Poll::Ready(served) = served {
            return Poll::Ready(Some(served));
        }
        if let Some(due) = handed_out {
            (passing.due, passing.sleep) = (Some(due), None);
        }
        passing.poll(cx).map(|()| None)
    })
    .await
}

impl Passing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = &self.due else {
            return Poll::Pending;
        };
        if due.is_pending() {
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(sleep_until(due.at.into())));
            std::task::ready!(sleep.as_mut().poll(cx));
            if due.is_pending() {
                return Poll::Ready(());
            }
        }
        (self.due, self.sleep) = (None, None);
        Poll::Pending
    }
}
