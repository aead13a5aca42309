//! How many requests are in flight to a backend, and the bounds on them: one that the policy sets, and
//! one that is learned. Whatever is sent passes here, batches as well as calls that travel alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jitney_core::concurrency::{Answer, Limiter, Place, Who};
use jitney_core::policy::AdaptiveConcurrency;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::silence::Silence;
use crate::batching::alarm::now;
use crate::error::{Bound, Error, ErrorKind};

/// Requests in flight to a backend, from before they are sent until their replies were read.
#[derive(Debug)]
pub(crate) struct Gate {
    in_flight: AtomicUsize,
    most: AtomicUsize,
    /// `None`: nothing is learned.
    learned: ArcSwapOption<Mutex<Limiter>>,
    /// The dispatcher has batches for which there is no room.
    is_awaited: AtomicBool,
    freed: Notify,
    /// Connections on which nobody has spoken yet. Not among those in flight: whoever is silent keeps no call out.
    silent: AtomicUsize,
    heard: Notify,
}

/// A connection to the backend on which nobody has spoken yet. Counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Hearing(Arc<Gate>);

/// A request that the learned bound let in. Counted until this is dropped.
#[derive(Debug)]
pub(super) struct Stay {
    limiter: Arc<Mutex<Limiter>>,
    place: Place,
    gate: Arc<Gate>,
}

/// Tells what became of a request to what is learned, which is when the head of its reply has come: until then the
/// upstream works on it. What it streams for hours after that would keep everybody else out, and teach nothing. Dropped
/// before it was told, it tells nothing, unless the endpoint's silence does.
#[derive(Debug, Default)]
pub(super) struct Probe {
    stay: Option<Stay>,
    silence: Option<Silence>,
    is_told: bool,
}

impl Gate {
    /// Nothing in flight, no bound.
    pub(super) fn open() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            learned: ArcSwapOption::empty(),
            is_awaited: AtomicBool::new(false),
            freed: Notify::new(),
            silent: AtomicUsize::new(0),
            heard: Notify::new(),
        }
    }

    /// Lets at most so many in from now on; `None`: any number.
    pub(super) fn limit(&self, most: Option<u32>) {
        let most = most.and_then(|most| usize::try_from(most).ok());
        self.most.store(most.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.heard.notify_waiters();
    }

    /// Waits until one more connection may be made to hear whether the backend speaks first: at most as many at
    /// once as requests, and [`SILENT_MAX`].
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(crate) async fn hear(self: &Arc<Self>) -> Hearing {
        loop {
            let heard = self.heard.notified();
            let most = self.most.load(Ordering::Relaxed).min(SILENT_MAX);
            let counted = self
                .silent
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                    (now < most).then_some(now + 1)
                });
            if counted.is_ok() {
                return Hearing(Arc::clone(self));
            }
            heard.await;
        }
    }

    /// Has a bound be learned by these rules from now on; what was learned by them stays.
    pub(super) fn learn(&self, rules: Option<AdaptiveConcurrency>) {
        let known = self.learned.load();
        if known.as_ref().map(|limiter| limiter.lock().rules()) != rules {
            let limiter = rules.map(|rules| Arc::new(Mutex::new(Limiter::new(rules))));
            self.learned.store(limiter);
            self.freed.notify_one();
        }
    }

    /// The bound that is learned.
    pub(crate) fn learned(&self) -> Option<usize> {
        self.learned.load().as_ref().map(|limiter| limiter.lock().limit())
    }

    /// Lets one in, unless the bound is reached that the policy sets.
    pub(super) fn enter(&self) -> Result<(), Error> {
        let most = self.most.load(Ordering::Relaxed);
        let entered = self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < most).then_some(now + 1)
            });
        match entered {
            Ok(_) => Ok(()),
            Err(_) => Err(ErrorKind::Shed(Bound::Requests, RETRY_AFTER).into()),
        }
    }

    /// One has left.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Lets one in, unless the bound is reached that is learned.
    pub(super) fn admit(self: &Arc<Self>, who: Who, silence: &Silence) -> Result<Probe, Error> {
        let Some(limiter) = self.learned.load_full() else {
            return Ok(Probe::default());
        };
        let began = now();
        let Some(place) = limiter.lock().enter(who, began) else {
            return Err(ErrorKind::Shed(Bound::Concurrency, RETRY_AFTER).into());
        };
        let stay = Stay {
            limiter,
            place,
            gate: Arc::clone(self),
        };
        Ok(Probe {
            stay: Some(stay),
            silence: Some(silence.clone()),
            is_told: false,
        })
    }

    /// How many batches may be in flight now. From here on [`Gate::freed`] may wake whoever asked.
    pub(crate) fn room(&self) -> usize {
        let learned = self.learned.load();
        let Some(limiter) = &*learned else {
            return usize::MAX;
        };
        self.is_awaited.store(true, Ordering::SeqCst);
        limiter.lock().room()
    }

    /// Nobody waits for room.
    pub(crate) fn need_no_room(&self) {
        self.is_awaited.store(false, Ordering::SeqCst);
    }

    /// There may be more room than when it was last asked for.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Probe {
    /// What became of the request; `None`: nothing that speaks of the upstream.
    pub(super) fn tell(mut self, answer: Option<Answer>) {
        self.is_told = true;
        if let (Some(stay), Some(answer)) = (&self.stay, answer) {
            stay.limiter.lock().answered(&stay.place, answer, now());
        }
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.0.silent.fetch_sub(1, Ordering::Relaxed);
        self.0.heard.notify_one();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let Some(stay) = self.stay.as_ref().filter(|_| !self.is_told) else {
            return;
        };
        if self.silence.as_ref().is_some_and(Silence::speaks) {
            stay.limiter.lock().answered(&stay.place, Answer::Failed, now());
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.limiter.lock().leave(self.place);
        // A batch that has left is reported to the dispatcher anyway.
        if self.place.who() == Who::Alone && self.gate.is_awaited.swap(false, Ordering::SeqCst) {
            self.gate.freed.notify_one();
        }
    }
}

/// Connections on which nobody has spoken yet, where the policy sets no bound: as many as it sets by default.
const SILENT_MAX: usize = 1024;

/// The least that `Retry-After` can say: when a request will be done is not known.
const RETRY_AFTER: Duration = Duration::from_secs(1);
