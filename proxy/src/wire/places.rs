//! The streams that this side has open on a connection of HTTP/2, and who waits for a place among them.
//!
//! The library keeps the head of a call until it is written, also of a call that was taken back meanwhile. Where the
//! peer reads nothing, whoever makes calls and takes them back would fill the memory with them: so their places are
//! free only once something is written again. And whoever finds no place waits here, where nothing is left of who
//! goes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Who waits for a place on one of several connections.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    freed: Notify,
}

/// Those of one connection. All that is written here is written before what is read next is: a place that is freed
/// while somebody begins to wait is seen by one of the two.
#[derive(Debug, Default)]
pub(crate) struct Places {
    taken: AtomicUsize,
    /// How many of these are of calls that were taken back, and may not have been written yet.
    stuck: AtomicUsize,
    /// The peer reads nothing at the moment.
    is_stalled: AtomicBool,
    queue: Arc<Queue>,
}

/// Heads that nobody waits for any more, of 64 KiB each and more in memory.
const CLOGGED: usize = 8;

impl Queue {
    /// What is found, once it is. Whoever has waited longest is asked first for each place, but one that comes just
    /// then may be before it.
    ///
    /// # Cancellation
    /// Safe: another one is asked instead.
    pub(crate) async fn wait<T>(&self, mut find: impl FnMut() -> Option<T>) -> T {
        let _counted = Waiting::begin(self);
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(found) = find() {
                return found;
            }
            freed.await;
        }
    }

    fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn one_is_free(&self) {
        if self.is_waited_in() {
            self.freed.notify_one();
        }
    }

    /// There may be room for all, or another connection.
    pub(crate) fn look_again(&self) {
        if self.is_waited_in() {
            self.freed.notify_waiters();
        }
    }
}

/// One that is counted until it is dropped.
struct Waiting<'q>(&'q Queue);

impl<'q> Waiting<'q> {
    fn begin(queue: &'q Queue) -> Self {
        queue.waiting.fetch_add(1, Ordering::SeqCst);
        Self(queue)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Places {
    pub(super) fn of(queue: &Arc<Queue>) -> Self {
        Self {
            queue: Arc::clone(queue),
            ..Self::default()
        }
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Whether what is put in stays for now.
    pub(crate) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::SeqCst)
    }

    /// Whether so much stays that nothing should be added.
    pub(crate) fn is_clogged(&self) -> bool {
        self.stuck.load(Ordering::SeqCst) >= CLOGGED
    }

    pub(crate) fn take(&self) {
        self.taken.fetch_add(1, Ordering::SeqCst);
    }

    /// The call is over; one that was not answered was taken back.
    pub(crate) fn leave(&self, is_answered: bool) {
        if !is_answered && self.is_stalled() {
            self.stuck.fetch_add(1, Ordering::SeqCst);
            if !self.is_stalled() {
                self.free_stuck();
            }
            return;
        }
        self.taken.fetch_sub(1, Ordering::SeqCst);
        self.queue.one_is_free();
    }

    /// The peer reads, or not.
    pub(super) fn stalls(&self, is_stalled: bool) {
        self.is_stalled.store(is_stalled, Ordering::SeqCst);
        if !is_stalled {
            self.free_stuck();
        }
    }

    fn free_stuck(&self) {
        let stuck = self.stuck.swap(0, Ordering::SeqCst);
        if stuck > 0 {
            self.taken.fetch_sub(stuck, Ordering::SeqCst);
        }
        self.look_again();
    }

    /// What is known of the connection has changed.
    pub(super) fn look_again(&self) {
        self.queue.look_again();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;
    use std::task::Poll;

    #[test]
    fn a_call_that_is_taken_back_gives_its_place_back_when_the_peer_reads_on() {
        let places = Places::default();
        (0..9).for_each(|_| places.take());
        places.leave(false);
        assert_eq!((places.taken(), places.is_stalled()), (8, false));
        places.stalls(true);
        // One that was answered was written.
        places.leave(true);
        assert_eq!(places.taken(), 7);
        (0..7).for_each(|_| places.leave(false));
        assert!(places.is_stalled() && !places.is_clogged());
        places.take();
        places.leave(false);
        assert_eq!((places.taken(), places.is_clogged()), (8, true));
        places.stalls(false);
        assert_eq!((places.taken(), places.is_clogged()), (0, false));
    }

    #[tokio::test]
    async fn who_waits_has_the_place_that_becomes_free_and_leaves_it_to_another_when_he_goes() {
        let queue = Arc::new(Queue::default());
        let places = Places::of(&queue);
        places.take();
        let find = || (places.taken() == 0).then(|| places.take());
        let (mut first, mut second) = (Box::pin(queue.wait(find)), Box::pin(queue.wait(find)));
        poll_fn(|cx| {
            assert!(first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        places.leave(true);
        // It was the first one's turn.
        drop(first);
        second.await;
        assert_eq!((places.taken(), queue.is_waited_in()), (1, false));
        let (mut third, mut fourth) = (Box::pin(queue.wait(find)), Box::pin(queue.wait(|| Some(()))));
        poll_fn(|cx| {
            assert!(third.as_mut().poll(cx).is_pending() && fourth.as_mut().poll(cx).is_ready());
            Poll::Ready(())
        })
        .await;
        places.stalls(true);
        places.leave(false);
        places.stalls(false);
        third.await;
    }
}
