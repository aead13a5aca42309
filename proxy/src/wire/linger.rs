//! The end of a connection in stages: this side has ended, and throws away what its caller still sends. Closed at once
//! it would be reset by that, and what the caller has not read yet would be lost: a reply (RFC 9112 section 9.6), or of
//! HTTP/2 which of its calls were left out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How much longer the connection stays.
#[derive(Debug)]
pub(crate) struct Linger {
    until: Pin<Box<Sleep>>,
    /// Bytes that are yet thrown away.
    left: usize,
    /// Bytes that are thrown away between two pauses, how many of them still are, and how long the next pause is.
    at_once: usize,
    turn: usize,
    wait: Duration,
    /// How many times longer the one after that is.
    growth: u32,
    pause: Pin<Box<Sleep>>,
}

impl Linger {
    /// For a caller that may read its reply only when it has sent all of its upload.
    pub(crate) fn for_upload() -> Self {
        Self::growing(1, TURN, TIME)
    }

    /// For a caller that reads while it sends, and has reason to go on for a round trip only.
    pub(super) fn briefly() -> Self {
        Self::growing(4, TURN / 4, TIME / 2)
    }

    fn growing(growth: u32, at_once: usize, time: Duration) -> Self {
        Self {
            until: Box::pin(sleep(time)),
            left: BYTES,
            at_once,
            turn: at_once,
            wait: PAUSE,
            growth,
            pause: Box::pin(sleep(PAUSE)),
        }
    }

    /// Ready once the caller has ended, too, or has sent all that it had to, as `has_more` says of each piece; or has
    /// had enough time or bytes for it.
    pub(crate) fn poll(
        &mut self,
        mut io: impl AsyncRead + Unpin,
        cx: &mut Context<'_>,
        mut has_more: impl FnMut(&[u8]) -> bool,
    ) -> Poll<io::Result<()>> {
        let mut thrown = [0; 4096];
        while self.left > 0 && self.until.as_mut().poll(cx).is_pending() {
            if self.turn == 0 {
                ready!(self.pause.as_mut().poll(cx));
                self.turn = self.at_once;
            }
            let mut buf = ReadBuf::new(&mut thrown);
            ready!(Pin::new(&mut io).poll_read(cx, &mut buf))?;
            let read = buf.filled();
            if read.is_empty() || !has_more(read) {
                break;
            }
            self.left = self.left.saturating_sub(read.len());
            self.turn = self.turn.saturating_sub(read.len());
            if self.turn == 0 {
                self.pause.as_mut().reset(Instant::now() + self.wait);
                self.wait *= self.growth;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// How long a caller may go on sending once it was answered and this side has ended. Envoy closes after a second, and
/// nginx waits for 5 s at a time.
const TIME: Duration = Duration::from_secs(2);
/// The most that is thrown away of what it sends meanwhile.
const BYTES: usize = 64 << 20;
/// Whoever floods a connection that has ended is not to keep a thread busy: so much is thrown away at once, and more
/// after a while. With pauses that do not grow this still is tens of megabytes within the time.
const TURN: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(1);
