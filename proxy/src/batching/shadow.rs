//! `mode: Shadow`: batches are formed and reported, and every call is sent alone. Nothing waits:
//! a trial stands in the queue in its call's place while the call is already on its way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use jitney_core::batch::{Batch, BatchId, Outcome, Queued, Refused};
use parking_lot::Mutex;

use super::dispatcher::Departure;
use crate::upstream::{RouteState, Upstream};

/// Stands for one call among those that would have been merged.
#[derive(Debug)]
pub(crate) struct Trial {
    state: Arc<RouteState>,
    place: Mutex<Place>,
}

#[derive(Debug)]
enum Place {
    Queued,
    Aboard(Arc<TrialBatch>),
    /// The call itself has been answered.
    Answered,
}

/// A batch that was not sent: over when all of its calls are answered.
#[derive(Debug)]
struct TrialBatch {
    id: BatchId,
    open: AtomicUsize,
}

/// Held while the call is on its way.
#[derive(Debug)]
pub(crate) struct Running {
    upstream: Arc<Upstream>,
    trial: Arc<Trial>,
}

impl Trial {
    pub(crate) fn new(state: Arc<RouteState>) -> Arc<Self> {
        Arc::new(Self {
            state,
            place: Mutex::new(Place::Queued),
        })
    }

    /// Queues the trial of a call that now goes out alone. `None` when there is no room for it.
    pub(crate) fn start(
        upstream: &Arc<Upstream>,
        key: &[u8],
        limits: &Arc<jitney_core::batch::Limits>,
        queued: Queued<Arc<Self>>,
        arrived: Instant,
    ) -> Option<Running> {
        let trial = Arc::clone(&queued.call);
        match upstream.trials.push(key, limits, queued, false, arrived) {
            Ok(_) => Some(Running {
                upstream: Arc::clone(upstream),
                trial,
            }),
            Err(Refused::QueueFull { .. } | Refused::TooManyKeys(_) | Refused::TooLate(_)) => None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.trial.place.lock(), Place::Answered);
        if let Place::Aboard(batch) = before {
            batch.close_one(&self.upstream);
        }
    }
}

impl TrialBatch {
    fn close_one(&self, upstream: &Upstream) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            upstream.trials.complete(self.id, Outcome::Ok);
        }
    }
}

/// A batch would have left now.
pub(crate) fn depart(upstream: &Weak<Upstream>, left: Departure<Arc<Trial>>) {
    let (Some(upstream), Departure::Batch(batch)) = (upstream.upgrade(), left) else {
        return;
    };
    report(&batch);
    // One more than the members, so that it cannot end before all of them are aboard.
    let flight = Arc::new(TrialBatch {
        id: batch.id,
        open: AtomicUsize::new(1),
    });
    for member in batch.members {
        let mut place = member.call.place.lock();
        if matches!(*place, Place::Queued) {
            flight.open.fetch_add(1, Ordering::Relaxed);
            *place = Place::Aboard(Arc::clone(&flight));
        }
    }
    flight.close_one(&upstream);
}

fn report(batch: &Batch<Arc<Trial>>) {
    let Some(first) = batch.members.first() else {
        return;
    };
    let metrics = &first.call.state.metrics;
    metrics.batch_size.observe(batch.items as u64);
    metrics.batch_bytes.observe(batch.bytes as u64);
    metrics.dispatch.inc(batch.reason);
    metrics.shadow_calls_saved.add(batch.members.len() as u64 - 1);
    for member in &batch.members {
        metrics.queue_wait.observe_time(member.waited);
    }
}
