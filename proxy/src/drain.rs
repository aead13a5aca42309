//! Going away without losing a call: who is told, and who is waited for.
//!
//! Listeners and connections hold a [`Guard`] and watch [`Drain::draining`]; the process ends when
//! the last guard is gone. What a connection does about it is the connection's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// A handle on the drain of this process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Read by every call, so it is apart from the channel and its lock.
    is_draining: AtomicBool,
    started: watch::Sender<bool>,
    guards: watch::Sender<usize>,
}

/// Keeps the process alive while it drains. Held by whoever may still have a call to serve.
#[derive(Debug)]
pub struct Guard {
    drain: Drain,
}

/// Set once the process ends with calls under way.
static IS_CUT_OFF: AtomicBool = AtomicBool::new(false);

/// The process ends now, whatever is under way.
pub(crate) fn cut_off() {
    IS_CUT_OFF.store(true, Ordering::Release);
}

/// Whether a call that is dropped now is so because the process ends.
pub(crate) fn is_cut_off() -> bool {
    IS_CUT_OFF.load(Ordering::Acquire)
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                is_draining: AtomicBool::new(false),
                started: watch::Sender::new(false),
                guards: watch::Sender::new(0),
            }),
        }
    }

    /// Begins the drain. Again is the same as once.
    pub fn signal(&self) {
        self.inner.is_draining.store(true, Ordering::Release);
        self.inner.started.send_replace(true);
    }

    /// True once the drain has begun: one atomic load.
    pub fn is_draining(&self) -> bool {
        self.inner.is_draining.load(Ordering::Acquire)
    }

    /// Returns when the drain begins, or at once when it has.
    ///
    /// # Cancellation
    /// Safe: nothing is lost when the future is dropped.
    pub async fn draining(&self) {
        let mut started = self.inner.started.subscribe();
        // An error would mean that the sender is gone, and `self` holds it.
        drop(started.wait_for(|started| *started).await);
    }

    /// Keeps the process alive until the guard is dropped.
    ///
    /// Take a connection's guard before the listener's own is dropped, so that the count does not
    /// touch zero between the two.
    #[must_use]
    pub fn guard(&self) -> Guard {
        self.inner.guards.send_modify(|guards| *guards += 1);
        Guard { drain: self.clone() }
    }

    /// True when `a` and `b` are handles on the same drain.
    pub fn is_same(a: &Self, b: &Self) -> bool {
        Arc::ptr_eq(&a.inner, &b.inner)
    }

    /// How many guards there are.
    pub fn guards(&self) -> usize {
        *self.inner.guards.borrow()
    }

    /// Returns when the drain has begun and no guard is left.
    pub async fn drained(&self) {
        self.draining().await;
        let mut guards = self.inner.guards.subscribe();
        drop(guards.wait_for(|guards| *guards == 0).await);
    }
}

impl Guard {
    /// The drain that this guard belongs to.
    pub const fn drain(&self) -> &Drain {
        &self.drain
    }
}

impl Clone for Guard {
    fn clone(&self) -> Self {
        self.drain.guard()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.drain.inner.guards.send_modify(|guards| *guards -= 1);
    }
}

#[cfg(test)]
mod tests;
