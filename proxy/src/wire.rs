//! The byte stream under a connection: what was read ahead comes first, and what is short is written in
//! one piece.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};

mod budget;
mod fields;
mod frames;
mod linger;
mod places;

pub(crate) use budget::{Budget, CALLERS_WINDOW, CONNECTION_WINDOW, STREAM_WINDOW};

pub(crate) use linger::Linger;
pub(crate) use places::Queue;

use frames::Frames;

/// A stream whose first bytes may have been read already, for detection.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    ahead: Bytes,
    io: S,
    /// The most bytes that are read in one turn of the task; `None`: any number.
    turn: Option<usize>,
    /// How many were.
    read: usize,
    /// What is told of the frames that are read, on a connection of HTTP/2.
    frames: Option<Box<Frames>>,
    /// Until when nothing is read.
    pause: Option<Pin<Box<Sleep>>>,
    /// The peer reads nothing at the moment.
    is_stalled: bool,
    /// Whether it ends in stages, as HTTP/1 sees to itself.
    lingers: bool,
    linger: Option<Linger>,
}

/// Reading so much may take a hundred microseconds, if all of it is fields.
const TURN: usize = 16 << 10;

/// Up to here, copying a message together costs less than having the kernel gather its pieces: `send`
/// takes a shorter way through it than `writev` does, also for one piece.
const SHORT: usize = 2048;

impl<S> Wire<S> {
    /// A stream of which these bytes have been read.
    pub(crate) const fn resuming(ahead: Bytes, io: S) -> Self {
        Self {
            ahead,
            io,
            turn: None,
            read: 0,
            frames: None,
            pause: None,
            is_stalled: false,
            lingers: false,
            linger: None,
        }
    }

    /// The server's end of an HTTP/2 connection, of which nothing has been read but what is `ahead`.
    pub(crate) fn of_client(self, budget: &Budget) -> Self {
        Self {
            frames: Some(Box::new(Frames::of_client(budget.clone()))),
            lingers: true,
            ..self
        }
    }

    /// Has the client wait that sends many fields in one head: not a sidecar, which has had its own callers do so, and
    /// sends what many of them ask for over one connection.
    pub(crate) fn counting_fields(mut self) -> Self {
        if let Some(frames) = &mut self.frames {
            frames.count_fields();
        }
        self
    }

    /// The client's end of one.
    pub(crate) fn of_server(self, budget: &Budget) -> Self {
        Self {
            frames: Some(Box::new(Frames::of_server(budget.clone()))),
            ..self
        }
    }

    /// The same for a reader that goes on as long as there is something to read: every few frames all other
    /// connections have their turn, whatever the peer floods this one with.
    pub(crate) fn paced(self) -> Self {
        Self {
            turn: Some(TURN),
            ..self
        }
    }

    /// The stream itself.
    pub(crate) const fn inner(&self) -> &S {
        &self.io
    }

    /// A stream from its beginning.
    pub(crate) const fn new(io: S) -> Self {
        Self::resuming(Bytes::new(), io)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let before = buf.filled().len();
        let polled = self.poll_some(cx, buf);
        if let Some(frames) = &mut self.frames
            && let Err((passed, wait)) = frames.saw(&mut buf.filled_mut()[before..])
        {
            self.hold(buf, before + passed);
            self.pause = Some(Box::pin(sleep(wait)));
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// What was read beyond so much comes with the next read.
    #[cold]
    fn hold(&mut self, buf: &mut ReadBuf<'_>, passed: usize) {
        let held = &buf.filled()[passed..];
        self.ahead = [held, &self.ahead].concat().into();
        buf.set_filled(passed);
    }

    #[inline]
    fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let Some(turn) = self.turn else {
                return Pin::new(&mut self.io).poll_read(cx, buf);
            };
            if self.read >= turn {
                self.read = 0;
                // Not only who waits for a thread already goes first, but also who has bytes to read by now:
                // the runtime looks for these before it takes up what yields.
                if std::pin::pin!(yield_now()).poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            let before = buf.filled().len();
            let polled = Pin::new(&mut self.io).poll_read(cx, buf);
            self.read = match polled {
                Poll::Ready(_) => self.read + (buf.filled().len() - before),
                // The next turn is another one.
                Poll::Pending => 0,
            };
            return polled;
        }
        let length = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> Wire<S> {
    #[inline]
    fn wrote<T>(&mut self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() != self.is_stalled {
            self.is_stalled = written.is_pending();
            if let Some(frames) = &self.frames {
                frames.stalls(self.is_stalled);
            }
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            std::task::ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        if !self.lingers {
            return Poll::Ready(Ok(()));
        }
        let Self { io, linger, .. } = &mut *self;
        linger.get_or_insert_with(Linger::briefly).poll(io, cx, |_| true)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [one] = bufs {
            return self.poll_write(cx, one);
        }
        if bufs.iter().map(|piece| piece.len()).sum::<usize>() > SHORT {
            let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
            return self.wrote(written);
        }
        let mut whole: SmallVec<[u8; SHORT]> = SmallVec::new();
        for piece in bufs {
            whole.extend_from_slice(piece);
        }
        self.poll_write(cx, &whole)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    /// Notes how long each write was, and takes at most `most` bytes of it.
    #[derive(Debug)]
    struct Noting {
        writes: Vec<(usize, bool)>,
        read: &'static [u8],
        most: usize,
    }

    impl AsyncRead for Noting {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(std::mem::take(&mut self.read));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Noting {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let length = buf.len().min(self.most);
            self.writes.push((length, false));
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let length = bufs.iter().map(|piece| piece.len()).sum();
            self.writes.push((length, true));
            Poll::Ready(Ok(length))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }
    }

    fn wire(ahead: &'static [u8], most: usize) -> Wire<Noting> {
        let io = Noting {
            writes: Vec::new(),
            read: b"-and-rest",
            most,
        };
        Wire::resuming(Bytes::from_static(ahead), io)
    }

    async fn write(wire: &mut Wire<Noting>, pieces: &[&[u8]]) -> usize {
        let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        poll_fn(|cx| Pin::new(&mut *wire).poll_write_vectored(cx, &pieces))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first() {
        let mut wire = wire(b"ahead", 0);
        let mut text = [0; 14];
        wire.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"ahead-and-rest");
    }

    #[tokio::test]
    async fn others_have_their_turn_while_much_is_read() {
        let flood = io::Cursor::new(vec![0; 4 * TURN]);
        let mut wire = Wire::resuming(Bytes::new(), flood).paced();
        let mut reading = std::pin::pin!(async move {
            let mut read = vec![0; 4 * TURN];
            for piece in read.chunks_mut(1024) {
                wire.read_exact(piece).await.unwrap();
            }
        });
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            reading.as_mut().poll(cx)
        })
        .await;
        assert_eq!(turns, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_many_fields_at_once_is_read_later_and_whole() {
        const FRAMES: u8 = 7;
        let preface = vec![0; 24];
        let head = |stream| [&[0, 4, 0, 1, 4, 0, 0, 0, stream][..], &[0xbe; 1024]].concat();
        let sent = [preface, (1..=FRAMES).flat_map(head).collect()].concat();
        let (read, rest) = sent.split_at(1_500);
        let wire = Wire::resuming(Bytes::copy_from_slice(read), io::Cursor::new(rest.to_vec()));
        let began = tokio::time::Instant::now();
        let mut came = Vec::new();
        let mut wire = wire.of_client(&Budget::default()).counting_fields();
        wire.read_to_end(&mut came).await.unwrap();
        assert!(came == sent, "as it was sent");
        let least = std::time::Duration::from_micros(924 * 2) * u32::from(FRAMES);
        assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    }

    #[test]
    fn who_has_bytes_by_now_does_not_wait_for_a_flood() {
        // The runtime looks for bytes when nobody else wants its thread, or after this many turns.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_io().event_interval(1_000_000).build().unwrap();
        let turns = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let (mut polite, mut other) = UnixStream::pair().unwrap();
            let counted = Arc::clone(&turns);
            tokio::spawn(async move {
                other.write_u8(1).await.unwrap();
                let mut wire = Wire::new(tokio::io::repeat(0)).paced();
                for _ in 0..100 {
                    wire.read_exact(&mut vec![0; TURN]).await.unwrap();
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
            polite.read_u8().await.unwrap();
        });
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns < 5, "after {turns} turns");
    }

    #[tokio::test]
    async fn short_pieces_are_written_together_and_long_ones_are_not_copied() {
        let mut wire = wire(b"", usize::MAX);
        let long = [0; SHORT];
        assert_eq!(write(&mut wire, &[b"head", b"body"]).await, 8);
        assert_eq!(write(&mut wire, &[b"head", &long]).await, 4 + SHORT);
        assert_eq!(write(&mut wire, &[&long]).await, SHORT);
        wire.flush().await.unwrap();
        assert_eq!(wire.io.writes, [(8, false), (4 + SHORT, true), (SHORT, false)]);
    }

    #[tokio::test]
    async fn a_short_write_says_how_much_was_taken() {
        assert_eq!(write(&mut wire(b"", 5), &[b"head", b"body"]).await, 5);
    }
}
