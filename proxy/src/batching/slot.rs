//! Where a caller waits for its reply, and how a batch learns that all of its callers left.
//!
//! A slot is shared by one waiting caller and whoever answers it. A caller that leaves marks the
//! slot; if its batch is in flight, the flight counts it out and ends when nobody is left.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where one caller waits for a `T`.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
enum State<T> {
    Waiting {
        waker: Option<Waker>,
        flight: Option<Arc<Flight>>,
    },
    Answered(T),
    /// The caller has its answer, or left.
    Closed,
}

/// One batch under way: how many callers still wait for it.
#[derive(Debug)]
pub(crate) struct Flight {
    waiting: AtomicUsize,
    empty: Notify,
}

impl<T> Slot<T> {
    pub(crate) const fn new() -> Self {
        Self {
            state: Mutex::new(State::Waiting {
                waker: None,
                flight: None,
            }),
        }
    }

    /// Puts the caller aboard a flight; false when it has left.
    pub(crate) fn board(&self, flight: &Arc<Flight>) -> bool {
        match &mut *self.state.lock() {
            State::Waiting { flight: aboard, .. } => {
                if aboard.is_none() {
                    flight.waiting.fetch_add(1, Ordering::Relaxed);
                }
                *aboard = Some(Arc::clone(flight));
                true
            }
            State::Answered(_) | State::Closed => false,
        }
    }

    /// True when nobody waits for an answer any more.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(&*self.state.lock(), State::Closed)
    }

    /// Answers the caller. An answer for a caller that left is handed back.
    pub(crate) fn answer(&self, answer: T) -> Result<(), T> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Waiting { waker, .. } => {
                let waker = waker.take();
                *state = State::Answered(answer);
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(())
            }
            State::Answered(_) | State::Closed => Err(answer),
        }
    }

    /// Waits for the answer. Cancel safe: dropping the future changes nothing; call
    /// [`Slot::leave`] to give up the place.
    pub(crate) fn wait(&self) -> impl Future<Output = T> {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            match &mut *state {
                State::Waiting { waker, .. } => {
                    match waker {
                        Some(known) => known.clone_from(cx.waker()),
                        None => *waker = Some(cx.waker().clone()),
                    }
                    Poll::Pending
                }
                State::Answered(_) => match std::mem::replace(&mut *state, State::Closed) {
                    State::Answered(answer) => Poll::Ready(answer),
                    State::Waiting { .. } | State::Closed => Poll::Pending,
                },
                State::Closed => Poll::Pending,
            }
        })
    }

    /// The caller leaves; true when it had not been answered.
    pub(crate) fn leave(&self) -> bool {
        let left = std::mem::replace(&mut *self.state.lock(), State::Closed);
        match left {
            State::Waiting { flight, .. } => {
                if let Some(flight) = flight {
                    flight.left();
                }
                true
            }
            State::Answered(_) | State::Closed => false,
        }
    }
}

impl Flight {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            empty: Notify::new(),
        })
    }

    fn left(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.empty.notify_one();
        }
    }

    /// Ends when the last caller aboard has left.
    pub(crate) async fn abandoned(&self) {
        self.empty.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_reaches_the_waiting_caller() {
        let slot = Arc::new(Slot::new());
        let answerer = Arc::clone(&slot);
        let task = tokio::spawn(async move { answerer.answer(7) });
        assert_eq!(slot.wait().await, 7);
        assert_eq!(task.await.unwrap(), Ok(()));
    }

    #[test]
    fn an_answer_for_a_caller_that_left_comes_back() {
        let slot = Slot::new();
        assert!(slot.leave());
        assert!(slot.is_closed());
        assert_eq!(slot.answer(7), Err(7));
        assert!(!slot.leave());
    }

    #[test]
    fn nobody_is_answered_twice() {
        let slot = Slot::new();
        assert_eq!(slot.answer(1), Ok(()));
        assert_eq!(slot.answer(2), Err(2));
    }

    #[test]
    fn a_caller_that_left_is_not_taken_aboard() {
        let slot = Slot::<()>::new();
        slot.leave();
        assert!(!slot.board(&Flight::new()));
    }

    #[tokio::test]
    async fn a_flight_is_abandoned_when_the_last_caller_left() {
        let flight = Flight::new();
        let slots = [Slot::<()>::new(), Slot::new()];
        assert!(slots.iter().all(|s| s.board(&flight)));
        slots[0].leave();
        let mut abandoned = std::pin::pin!(flight.abandoned());
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, &mut abandoned)
                .await
                .is_err()
        );
        slots[1].leave();
        abandoned.await;
    }
}
