//! The streams of an HTTP/2 connection, counted, so that one can be ended whose caller does not say that it has
//! heard of the end.
//!
//! A connection is told to end with a GOAWAY that lets every stream in, and once a PING behind it is answered, with
//! one that names the last (RFC 9113 section 6.8). Who answers no PING would be served for ever.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::Notify;

use super::overdue::in_time;
use crate::accept::Seat;

/// Runs the streams of a connection. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    open: AtomicUsize,
    is_refusing: AtomicBool,
    /// Told when the last one ends while others are refused.
    last_ended: Notify,
}

/// One that runs.
struct Open(Arc<Counted>);

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.0));
        tokio::spawn(async move {
            // One that is not is reset.
            drop(in_time(pin!(stream)).await);
            drop(open);
        });
    }
}

impl Streams {
    /// Whether a stream that comes now is not to be served. Its caller may send the call again elsewhere.
    pub(super) fn are_refused(&self) -> bool {
        self.0.is_refusing.load(Ordering::Relaxed)
    }

    /// Returns when a connection that was to leave its seat is of no use to anybody any more: `patience` later
    /// streams are refused, and it is over as long again after the last one that was not, as its reply has to
    /// arrive. To be polled by the task that serves the connection, which is woken when the seat is to be left.
    pub(super) async fn outstay(&self, seat: &Seat, patience: Duration) {
        poll_fn(|_| match seat.is_closing() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        tokio::time::sleep(patience).await;
        self.0.is_refusing.store(true, Ordering::SeqCst);
        while self.0.open.load(Ordering::SeqCst) > 0 {
            self.0.last_ended.notified().await;
        }
        tokio::time::sleep(patience).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Whoever refuses counts afterwards, so that one of both sees the other.
        let is_last = self.0.open.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && self.0.is_refusing.load(Ordering::SeqCst) {
            self.0.last_ended.notify_one();
        }
    }
}
