//! Callers that take their calls back.
//!
//! A caller may open an HTTP/2 stream and reset it at once, as often as it likes (CVE-2023-44487). By the
//! time a call is looked at, its reset has often been read, but hyper asks for that only after it has asked
//! for a reply. Whoever began to send by then would open a connection to the service for each of them, and
//! close it again, which costs the service more than its caller. So on a connection whose last caller
//! left, a call waits until hyper has asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// What the callers of a connection did of late.
#[derive(Debug, Default)]
pub(crate) struct Retreats {
    /// The last of them that ended left before its reply.
    last: AtomicBool,
}

/// A call of whose caller it is not known yet.
#[derive(Debug)]
pub(crate) struct Retreat {
    of: Arc<Retreats>,
    has_waited: bool,
    has_stayed: bool,
}

impl Retreat {
    pub(crate) fn of(retreats: &Arc<Retreats>) -> Self {
        Self {
            of: Arc::clone(retreats),
            has_waited: false,
            has_stayed: false,
        }
    }

    /// Pending once, if the connection's last caller left: whoever has left already is dropped then.
    pub(crate) fn poll_stays(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.has_waited && self.of.last.load(Ordering::Relaxed) {
            self.has_waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.has_waited = true;
        Poll::Ready(())
    }

    /// The caller gets its reply.
    pub(crate) fn stayed(&mut self) {
        self.has_stayed = true;
    }
}

impl Drop for Retreat {
    fn drop(&mut self) {
        // Written only when it changes: other threads may read it.
        if self.of.last.load(Ordering::Relaxed) == self.has_stayed {
            self.of.last.store(!self.has_stayed, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(retreat: &mut Retreat) -> Poll<()> {
        retreat.poll_stays(&Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn a_call_waits_once_if_the_last_caller_left() {
        let retreats = Arc::default();
        let (mut first, mut second) = (Retreat::of(&retreats), Retreat::of(&retreats));
        assert!(poll(&mut first).is_ready(), "nobody has left");
        drop(first);
        assert!(poll(&mut second).is_pending());
        assert!(poll(&mut second).is_ready());
        assert!(poll(&mut second).is_ready());
        second.stayed();
        drop(second);
        assert!(poll(&mut Retreat::of(&retreats)).is_ready(), "it stayed");
    }
}
