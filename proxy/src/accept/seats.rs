//! The connections of a listener that are open, and how each is told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use foldhash::HashMap;
use parking_lot::Mutex;

/// A connection's place among those that are open.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    is_closing: AtomicBool,
    calls: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

/// The connections that are open.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: Mutex<HashMap<u64, Taken>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Taken {
    seat: Arc<Seat>,
    /// Calls counted by the last sweep; `None` before the first.
    calls: Option<u64>,
    /// Sweeps of the old ones that it outlives.
    sweeps_left: u32,
}

/// Leaves the seat when the connection ends, however it ends.
#[derive(Debug)]
pub(super) struct Sitting {
    seats: Arc<Seats>,
    number: u64,
}

impl Seat {
    /// True when the connection is to finish its calls and end.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    /// Counts a call, so that the connection does not pass for idle.
    pub(crate) fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Whom to wake when the connection is to end.
    pub(crate) fn wakes(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    /// Has the connection finish its calls and end.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }
}

impl Seats {
    pub(super) fn take(self: &Arc<Self>) -> (Arc<Seat>, Sitting) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat::default());
        self.taken.lock().insert(
            number,
            Taken {
                seat: Arc::clone(&seat),
                calls: None,
                sweeps_left: LIVES.start
                    + u32::try_from(number % u64::from(LIVES.end - LIVES.start)).unwrap_or(0),
            },
        );
        (
            seat,
            Sitting {
                seats: Arc::clone(self),
                number,
            },
        )
    }

    pub(super) fn close_all(&self) {
        for taken in self.taken.lock().values() {
            taken.seat.close();
        }
    }

    /// Closes, again and again, the connections that are old; never, when they may be as old as they like.
    pub(super) async fn retire(&self, max_age: Option<Duration>) {
        let Some(max_age) = max_age else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(max_age / AGES).await;
            for taken in self.taken.lock().values_mut() {
                taken.sweeps_left = taken.sweeps_left.saturating_sub(1);
                if taken.sweeps_left == 0 {
                    taken.seat.close();
                }
            }
        }
    }

    /// Closes, again and again, the connections without a call since the last time.
    pub(super) async fn sweep(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            for taken in self.taken.lock().values_mut() {
                let calls = taken.seat.calls.load(Ordering::Relaxed);
                if taken.calls.replace(calls) == Some(calls) {
                    taken.seat.close();
                }
            }
        }
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        drop(self.seats.taken.lock().remove(&self.number));
    }
}

/// Parts of the age that a connection may reach, each of which ends with a sweep: no connection has a timer.
const AGES: u32 = 20;

/// The sweep that ends a connection, by its number: those that came together do not go together. As it comes at
/// some time between two sweeps, that is 18 to 22 parts.
const LIVES: std::ops::Range<u32> = 19..23;
