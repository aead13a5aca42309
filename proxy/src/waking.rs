//! Spares a connection's task the wakes that it gives itself for nothing.
//!
//! Whoever takes a piece of a body wakes the connection that it came over, since there is room for
//! the next. hyper does so even for the last piece, when nothing is left to be read: the connection
//! then takes a whole turn in vain, with every call that has a body.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use http_body::Frame;
use hyper::body::{Body as _, Incoming};

/// A waker whose wakes [`poll_piece`] can hold back.
struct Holdable(Waker);

impl Wake for Holdable {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !HOLDING.get() {
            self.0.wake_by_ref();
        } else if let Some(other) = HELD.replace(Some(Arc::clone(self)))
            && !Arc::ptr_eq(&other, self)
        {
            other.0.wake_by_ref();
        }
    }
}

/// What an HTTP/1 connection is polled with, so that taking the last piece of one of its bodies does not
/// wake it. One of HTTP/2 has to be woken: it gives the peer room for as much as was taken.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// The task's waker and the one made of it.
    wakers: Option<(Waker, Waker)>,
}

impl Turns {
    /// Polls the connection.
    pub(crate) fn poll<C: Future + ?Sized>(
        &mut self,
        connection: Pin<&mut C>,
        cx: &Context<'_>,
    ) -> Poll<C::Output> {
        let known = self.wakers.take().filter(|(task, _)| task.will_wake(cx.waker()));
        let (_, holdable) = self.wakers.insert(known.unwrap_or_else(|| {
            let task = cx.waker().clone();
            (task.clone(), Waker::from(Arc::new(Holdable(task))))
        }));
        connection.poll(&mut Context::from_waker(holdable))
    }
}

/// Polls an HTTP/1 connection to its end.
pub(crate) async fn run<C: Future>(connection: C) -> C::Output {
    let (mut connection, mut turns) = (pin!(connection), Turns::default());
    poll_fn(|cx| turns.poll(connection.as_mut(), cx)).await
}

/// The next piece of a body. The last one does not wake the connection that it came over, which has
/// done all that it could: its sending half is gone with that piece.
pub(crate) fn poll_piece(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
    let holding = Hold::begin();
    let piece = Pin::new(&mut *body).poll_frame(cx);
    let is_last = piece.is_ready() && body.is_end_stream();
    let held = holding.end();
    if let (Some(held), false) = (held, is_last) {
        held.wake_by_ref();
    }
    piece
}

/// While it exists, wakes from this thread are held back. Only those of the body that is polled: nothing
/// else runs.
struct Hold;

impl Hold {
    fn begin() -> Self {
        HOLDING.set(true);
        Self
    }

    fn end(self) -> Option<Arc<Holdable>> {
        drop(self);
        HELD.take()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        HOLDING.set(false);
    }
}

thread_local! {
    static HOLDING: Cell<bool> = const { Cell::new(false) };
    static HELD: Cell<Option<Arc<Holdable>>> = const { Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// How often a connection is polled for one call with a body, which comes in these pieces.
    async fn polls(is_quiet: bool, pieces: &[&str]) -> usize {
        let (mut caller, server) = tokio::io::duplex(4096);
        let service = service_fn(async |call: Request<Incoming>| {
            let mut body = call.into_body();
            while let Some(piece) = poll_fn(|cx| poll_piece(&mut body, cx)).await {
                piece?;
            }
            Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let (mut connection, mut turns, mut polls) = (Box::pin(connection), Turns::default(), 0);
        let served = tokio::spawn(async move {
            let ended = poll_fn(|cx| {
                polls += 1;
                if is_quiet {
                    turns.poll(connection.as_mut(), cx)
                } else {
                    connection.as_mut().poll(cx)
                }
            });
            ended.await.unwrap();
            polls
        });
        for piece in pieces {
            caller.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut reply = [0; 12];
        caller.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"HTTP/1.1 200");
        // Whatever was woken in vain comes round before the end does.
        tokio::task::yield_now().await;
        drop(caller);
        served.await.unwrap()
    }

    const HEAD: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";

    #[tokio::test]
    async fn the_last_piece_of_a_body_wakes_nobody() {
        let whole = format!("{HEAD}body");
        assert_eq!(polls(true, &[&whole]).await + 1, polls(false, &[&whole]).await);
    }

    #[tokio::test]
    async fn what_is_still_to_come_is_not_missed() {
        assert!(polls(true, &[HEAD, "bo", "dy"]).await > 0);
        let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nbo\r\n";
        assert!(polls(true, &[chunked, "2\r\ndy\r\n", "0\r\n\r\n"]).await > 0);
    }
}
