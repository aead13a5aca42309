//! Whether a peer that is silent is there still. Whoever asks its peer so itself, as databases' clients do, asks
//! the sidecar only, which always answers.

mod diag;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep};

/// Has the system ask a silent peer of this connection, or of those that a listening socket will accept, whether
/// it is there: after 10 s, as linkerd does, and then every 10 s. After three questions without an answer, so
/// after 40 s, the connection is broken. One that owes an acknowledgement is not asked: see [`Attended`].
///
/// # Errors
/// The system's own.
pub(crate) fn ask(socket: &impl AsFd) -> io::Result<()> {
    let asking = TcpKeepalive::new()
        .with_time(EVERY)
        .with_interval(EVERY)
        .with_retries(QUESTIONS);
    SockRef::from(socket).set_tcp_keepalive(&asking)
}

/// A connection whose peer is noticed to be gone although it was sent something: the system does not ask it then,
/// but sends that again and again, for a quarter of an hour (tcp(7), `tcp_retries2`).
///
/// `TCP_USER_TIMEOUT` would have it give up sooner, and with a peer that is gone everybody who reads nothing for as
/// long, such as a pager: since Linux 5.11 it also ends a connection whose window stays shut, though its peer
/// answers each probe. So the system is asked what it waits for.
#[derive(Debug)]
pub(crate) struct Attended {
    stream: TcpStream,
    /// Something was sent since it was last known that nothing is owed.
    may_owe: bool,
    /// Something has come since that was last seen to.
    has_heard: bool,
    /// When it is seen to next.
    next: Option<Pin<Box<Sleep>>>,
    /// Whom that wakes: a timer that is polled with every read costs more than the read does beside the system.
    wakes: Option<Waker>,
}

impl Attended {
    pub(crate) const fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            may_owe: false,
            has_heard: false,
            next: None,
            wakes: None,
        }
    }

    /// Ready once the peer is gone. Polled while there is nothing to be read, or no room to write.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let is_known = |waker: &Waker| waker.will_wake(cx.waker());
        if self.wakes.as_ref().is_some_and(is_known)
            && self.next.as_ref().is_some_and(|next| !next.is_elapsed())
        {
            return Poll::Pending;
        }
        while self.may_owe {
            let next = self.next.get_or_insert_with(|| Box::pin(sleep(EVERY)));
            // A timer is not asked whose task has had its turn.
            let is_asked = has_budget_remaining();
            let polled = next.as_mut().poll(cx);
            self.wakes = is_asked.then(|| cx.waker().clone());
            ready!(polled);
            // Whoever talks is there, and the system need not be asked.
            if std::mem::take(&mut self.has_heard) {
                next.as_mut().reset(Instant::now() + EVERY);
                continue;
            }
            match ends(&self.stream).and_then(|(local, peer)| diag::owed(local, peer)) {
                Some(quiet) if quiet >= GONE => return Poll::Ready(io::ErrorKind::TimedOut.into()),
                Some(quiet) => next.as_mut().reset(Instant::now() + (GONE - quiet).min(EVERY)),
                None => (self.may_owe, self.next) = (false, None),
            }
        }
        Poll::Pending
    }

    #[inline]
    fn attend<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() || !self.may_owe {
            return polled;
        }
        self.poll_gone(cx).map(Err)
    }

    #[inline]
    fn wrote(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.may_owe = true;
        self.attend(cx, polled)
    }
}

fn ends(stream: &TcpStream) -> Option<(SocketAddr, SocketAddr)> {
    stream.local_addr().ok().zip(stream.peer_addr().ok())
}

impl AsFd for Attended {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Deref for Attended {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for Attended {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.has_heard |= polled.is_ready();
        self.attend(cx, polled)
    }
}

impl AsyncWrite for Attended {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

const EVERY: Duration = Duration::from_secs(10);
const QUESTIONS: u32 = 3;
/// When a peer is gone that owes an acknowledgement: as one that is asked.
const GONE: Duration = Duration::from_secs(40);
