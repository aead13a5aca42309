//! The plain calls of an HTTP/1 connection: those that arrive whole, in one piece, and are answered from memory, as
//! the members of batches are. They need no more of a server than a parser, and get no more, as hyper's machinery
//! for bodies that stream costs more than all the rest of a batched call. hyper takes the connection over, for good,
//! at the first call or reply that is anything else, or when the connection is to end.
//!
//! Nothing is decided here that hyper decides otherwise: what could be refused is left to it, unread.

mod reply;
mod request;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::{Reply, Serve, Serving, Shared};
use crate::accept::Seat;
use crate::body::Body;
use request::Parsed;

/// A connection at the point at which hyper goes on with it.
pub(super) struct Left {
    /// What has been read, from the beginning of a call.
    pub(super) read: Bytes,
    /// That call, when it is being served already.
    pub(super) first: Option<Serving>,
}

impl Left {
    /// One of which no call was read.
    pub(super) const fn unread(read: Bytes) -> Self {
        Self { read, first: None }
    }
}

/// The most bytes of a plain call, and of a reply that is copied to be written in one piece.
const WHOLE: usize = 16 << 10;

/// The parts of a plain call come so close together: many clients write a head, and then its body.
const TOGETHER: Duration = Duration::from_millis(10);

thread_local! {
    /// What is read comes here first, and is kept in what it needs: connections without a call hold no buffer.
    static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; WHOLE].into());
    static OUTGOING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves calls while they are plain. `None`: the connection has ended.
///
/// # Errors
/// Those of the stream. The caller has left before it had its reply.
///
/// # Cancellation
/// Dropping the future ends the call that is being served.
pub(super) async fn serve<S: Serve>(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    read: Bytes,
    shared: &Shared<S>,
    max_head: usize,
) -> io::Result<Option<Left>> {
    poll_fn(|cx| {
        // A task's waker stays the same for all of its life.
        shared.seat.wakes(cx.waker());
        Poll::Ready(())
    })
    .await;
    let mut wire = Plain { stream, ahead: read };
    loop {
        let (call, mut serving) = match wire.next(shared, max_head).await? {
            Next::Call(call, serving) => (call, serving),
            Next::Part | Next::Other => return Ok(Some(Left::unread(wire.ahead))),
            Next::End => return Ok(None),
        };
        match wire.answer(&mut serving, &shared.seat).await? {
            Answered::Written => {}
            Answered::InPart(rest) => wire.finish(*rest).await?,
            Answered::Not => return Ok(Some(wire.after(&call, serving))),
        }
    }
}

/// What comes next on a connection.
enum Next {
    /// A call, as it was read, which is being served.
    Call(Bytes, Serving),
    /// The beginning of one.
    Part,
    /// Something for hyper, which is kept.
    Other,
    End,
}

/// What became of a call. Small, as it is passed on with every call.
enum Answered {
    Written,
    /// This is not written yet.
    InPart(Box<(Bytes, Body)>),
    /// The connection is to end first, or the reply is one for hyper.
    Not,
}

struct Plain<'s, S> {
    stream: &'s mut S,
    /// What was read and is not served yet.
    ahead: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Plain<'_, S> {
    /// What comes next. Its parts are waited for, if that is not for long.
    async fn next(&mut self, shared: &Shared<impl Serve>, max_head: usize) -> io::Result<Next> {
        let mut until = None;
        loop {
            let next = poll_fn(|cx| self.poll_next(cx, shared, max_head)).await?;
            let Next::Part = next else { return Ok(next) };
            let until = *until.get_or_insert_with(|| Instant::now() + TOGETHER);
            match timeout_at(until, poll_fn(|cx| self.poll_read(cx))).await {
                Ok(Ok(true)) if self.ahead.len() <= WHOLE => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) | Err(_) => return Ok(Next::Other),
            }
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared<impl Serve>,
        max_head: usize,
    ) -> Poll<io::Result<Next>> {
        if shared.seat.is_closing() {
            return Poll::Ready(Ok(Next::Other));
        }
        if self.ahead.is_empty() && !ready!(self.poll_read(cx))? {
            return Poll::Ready(Ok(Next::End));
        }
        Poll::Ready(Ok(
            match request::parse(&self.ahead, max_head, |call| shared.call(call)) {
                Parsed::Plain(length, serving) => {
                    // What is read at once is one call, mostly.
                    let after = self.ahead.split_off(length);
                    Next::Call(std::mem::replace(&mut self.ahead, after), serving)
                }
                Parsed::Part => Next::Part,
                Parsed::Other => Next::Other,
            },
        ))
    }

    /// Reads once; false at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        INCOMING.with_borrow_mut(|incoming| {
            let mut incoming = ReadBuf::new(incoming);
            ready!(Pin::new(&mut *self.stream).poll_read(cx, &mut incoming))?;
            let read = incoming.filled();
            self.ahead = match self.ahead.is_empty() {
                true => Bytes::copy_from_slice(read),
                false => [&self.ahead, read].concat().into(),
            };
            Poll::Ready(Ok(!read.is_empty()))
        })
    }

    /// Waits for the reply to a call, and writes it. One for hyper is what is served from then on.
    async fn answer(&mut self, serving: &mut Serving, seat: &Seat) -> io::Result<Answered> {
        poll_fn(|cx| {
            if let Poll::Ready(reply) = serving.as_mut().poll(cx) {
                return Poll::Ready(self.write(cx, reply, serving));
            }
            if seat.is_closing() {
                return Poll::Ready(Ok(Answered::Not));
            }
            // As hyper does: one who has said more already is not heard while it has to wait.
            if self.ahead.is_empty() && !ready!(self.poll_read(cx))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            Poll::Pending
        })
        .await
    }

    /// Writes as much of a reply as can be written now.
    fn write(&mut self, cx: &mut Context<'_>, reply: Reply, serving: &mut Serving) -> io::Result<Answered> {
        OUTGOING.with_borrow_mut(|out| {
            out.clear();
            let Some(pieces) = reply::encode(&reply, out) else {
                *serving = Box::pin(std::future::ready(reply));
                return Ok(Answered::Not);
            };
            if out.len() + pieces.iter().map(Bytes::len).sum::<usize>() > WHOLE {
                let head = Bytes::copy_from_slice(out);
                let body = reply.into_response().into_body();
                return Ok(Answered::InPart(Box::new((head, body))));
            }
            pieces.iter().for_each(|piece| out.extend_from_slice(piece));
            let written = match Pin::new(&mut *self.stream).poll_write(cx, out) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            let is_flushed = Pin::new(&mut *self.stream).poll_flush(cx)?.is_ready();
            if written == out.len() && is_flushed {
                return Ok(Answered::Written);
            }
            let rest = Bytes::copy_from_slice(&out[written..]);
            Ok(Answered::InPart(Box::new((rest, Body::empty()))))
        })
    }

    /// Writes what is not written yet.
    async fn finish(&mut self, (rest, body): (Bytes, Body)) -> io::Result<()> {
        let (first, more) = match body.pieces() {
            None | Some([]) => (Bytes::new(), &[][..]),
            Some([first, more @ ..]) => (first.clone(), more),
        };
        self.stream.write_all_buf(&mut rest.chain(first)).await?;
        for piece in more {
            self.stream.write_all(piece).await?;
        }
        self.stream.flush().await
    }

    /// The connection from the beginning of a call that is being served.
    fn after(self, call: &Bytes, first: Serving) -> Left {
        let read = match self.ahead.is_empty() {
            true => call.clone(),
            false => [call.as_ref(), self.ahead.as_ref()].concat().into(),
        };
        Left {
            read,
            first: Some(first),
        }
    }
}

#[cfg(test)]
mod tests;
