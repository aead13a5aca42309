//! The IO under an HTTP/1 server: follows the framing of what is read and remembers the first head that
//! must be refused, because hyper hides the evidence (it drops a `Content-Length` beside a
//! `Transfer-Encoding`, and the URI type drops a fragment). Also ends a head that takes too long, and a connection
//! whose caller still sends by stages.

mod framing;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::wire::{Linger, Wire};
pub(crate) use framing::decimal;
use framing::{Follower, Rule};

/// What the reading side knows and the serving side asks, call by call.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// Calls that the server was given; touched by the connection's task only.
    calls: AtomicU64,
    /// Which head, counted from 1, is the first to be refused; 0: none.
    refused: AtomicU64,
    rule: AtomicU8,
    /// Set when the connection has switched protocols: what follows is not HTTP.
    switched: AtomicBool,
    /// Set while the bytes read so far end inside a head.
    inside_head: AtomicBool,
    /// Set while they end with a head, and a body is to follow.
    before_body: AtomicBool,
}

impl Verdicts {
    /// The rule that the next call in the order of arrival breaks, if any.
    pub(crate) fn next_call(&self) -> Option<&'static str> {
        // One task owns the connection, so these need no stronger ordering.
        let call = self.calls.load(Ordering::Relaxed) + 1;
        self.calls.store(call, Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        (refused != 0 && call >= refused).then(|| Rule::text(self.rule.load(Ordering::Relaxed)))
    }

    /// Tells the reading side that what follows is not HTTP.
    pub(crate) fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// True while a head has begun to come in and is not complete.
    pub(crate) fn is_inside_head(&self) -> bool {
        self.inside_head.load(Ordering::Relaxed)
    }

    /// True while nothing has come behind a head although it announces a body.
    pub(crate) fn is_before_body(&self) -> bool {
        self.before_body.load(Ordering::Relaxed)
    }

    fn refuse(&self, head: u64, rule: Rule) {
        if self.refused.load(Ordering::Relaxed) == 0 {
            self.rule.store(rule as u8, Ordering::Relaxed);
            self.refused.store(head, Ordering::Relaxed);
        }
    }
}

/// A stream that carries HTTP/1 requests.
#[derive(Debug)]
pub(crate) struct Inspected<S, V> {
    io: Wire<S>,
    follower: Follower,
    verdicts: V,
    head_timeout: Duration,
    /// Runs only while a head is incomplete, so that a whole one costs no timer.
    head_timer: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

impl<S, V: AsRef<Verdicts>> Inspected<S, V> {
    pub(crate) fn new(io: Wire<S>, verdicts: V, head_timeout: Duration) -> Self {
        Self {
            io,
            follower: Follower::default(),
            verdicts,
            head_timeout,
            head_timer: None,
            linger: None,
        }
    }

    fn inspect(&mut self, bytes: &[u8]) {
        let verdicts = self.verdicts.as_ref();
        if verdicts.switched.load(Ordering::Relaxed) {
            self.head_timer = None;
            verdicts.inside_head.store(false, Ordering::Relaxed);
            return;
        }
        if let Some((head, rule)) = self.follower.follow(bytes) {
            verdicts.refuse(head, rule);
        }
        let before_body = self.follower.inside_body() && bytes.ends_with(b"\r\n\r\n");
        verdicts.before_body.store(before_body, Ordering::Relaxed);
        let inside_head = self.follower.inside_head();
        verdicts.inside_head.store(inside_head, Ordering::Relaxed);
        if self.head_timer.is_some() && !inside_head {
            self.head_timer = None;
        }
    }

    fn poll_head_timer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.verdicts.as_ref().switched.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let timeout = self.head_timeout;
        let timer = self
            .head_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the head took too long")))
    }
}

impl<S: AsyncRead + Unpin, V: AsRef<Verdicts> + Unpin> AsyncRead for Inspected<S, V> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                self.inspect(&buf.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if self.follower.inside_head() => self.poll_head_timer(cx),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, V: AsRef<Verdicts> + Unpin> AsyncWrite for Inspected<S, V> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            let is_switched = self.verdicts.as_ref().switched.load(Ordering::Relaxed);
            if is_switched || !self.follower.inside_body() {
                return Poll::Ready(Ok(()));
            }
        }
        let Self {
            io, follower, linger, ..
        } = &mut *self;
        linger
            .get_or_insert_with(Linger::for_upload)
            .poll(io, cx, |read| {
                follower.follow(read);
                follower.inside_body()
            })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
