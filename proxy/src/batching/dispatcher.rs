//! Joins the core's `Batcher` to a clock: calls are queued inline under a short lock, and one task
//! forms the batches.
//!
//! That task is woken by the first call queued and runs after every task that the same turn of
//! the reactor woke, so calls that arrived together travel together and nobody waited for it.

use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use jitney_core::batch::{
    Batch, BatchId, Batcher, Expired, Limits, Outcome, Queued, Refused, Settings, Snapshot, Ticket,
};
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::alarm::{Alarm, now};
use crate::send::Gate;

/// What the dispatching task hands on.
#[derive(Debug)]
pub(crate) enum Departure<T> {
    /// A batch that leaves now.
    Batch(Batch<T>),
    /// A call that waited longer than it may.
    Expired(T, Expired),
}

/// The queue of one backend and the task that empties it. Ends with its last handle.
#[derive(Debug)]
pub(crate) struct Dispatcher<T> {
    shared: Arc<Shared<T>>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared<T> {
    batcher: Mutex<Batcher<T>>,
    /// Set whenever there may be something to send or a timer to move.
    work: Notify,
}

impl<T: Send + 'static> Dispatcher<T> {
    /// Starts the task; it hands everything that leaves to `depart`, which must not block. `gate` says how
    /// many batches may be in flight; `None`: as many as are known to be of use.
    pub(crate) fn start(
        settings: Settings,
        gate: Option<Arc<Gate>>,
        depart: impl FnMut(Departure<T>) + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            batcher: Mutex::new(Batcher::new(settings)),
            work: Notify::new(),
        });
        let task = tokio::spawn(drive(Arc::clone(&shared), gate, depart)).abort_handle();
        Self { shared, task }
    }

    /// Divides what may be queued by this from now on. What is queued stays.
    pub(crate) fn squeeze(&self, by: usize) {
        self.shared.batcher.lock().squeeze(by);
    }

    /// Queues a call that arrived at that time, which saves reading the clock again; see [`Batcher::push`].
    /// `announced` when [`Dispatcher::announce`] was called for it.
    pub(crate) fn push(
        &self,
        key: &[u8],
        limits: &Arc<Limits>,
        call: Queued<T>,
        announced: bool,
        arrived: Instant,
    ) -> Result<Ticket, Refused<T>> {
        let mut batcher = self.shared.batcher.lock();
        if announced {
            batcher.retract(call.class, arrived);
        }
        let pushed = batcher.push(key, limits, call, arrived);
        drop(batcher);
        if pushed.is_ok() || announced {
            self.shared.work.notify_one();
        }
        pushed
    }

    /// A call of this class has been seen, its body is still coming in.
    pub(crate) fn announce(&self, class: u32) {
        self.shared.batcher.lock().announce(class, now());
    }

    /// The announced call will not be queued.
    pub(crate) fn retract(&self, class: u32) {
        self.shared.batcher.lock().retract(class, now());
        self.shared.work.notify_one();
    }

    /// Takes a call out of the queue, if it is still there.
    pub(crate) fn cancel(&self, ticket: Ticket) -> Option<T> {
        let cancelled = self.shared.batcher.lock().cancel(ticket);
        if cancelled.is_some() {
            self.shared.work.notify_one();
        }
        cancelled
    }

    /// A batch came back.
    pub(crate) fn complete(&self, batch: BatchId, outcome: Outcome) {
        self.shared.batcher.lock().complete(batch, outcome, now());
        self.shared.work.notify_one();
    }

    /// From now on nothing is held back.
    pub(crate) fn drain(&self) {
        self.shared.batcher.lock().drain();
        self.shared.work.notify_one();
    }

    /// What is queued and what was learned.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.shared.batcher.lock().snapshot(now())
    }
}

impl<T> Drop for Dispatcher<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive<T: Send>(
    shared: Arc<Shared<T>>,
    gate: Option<Arc<Gate>>,
    mut depart: impl FnMut(Departure<T>),
) {
    let mut alarm = Alarm::default();
    // A worker of the threaded runtime runs what it just woke next; there, stepping back lets the
    // callers that are already on their way in arrive. One thread alone queues us behind them anyway.
    let step_back = Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread;
    let mut leaving = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = shared.work.notified() => {}
            () = freed(gate.as_deref()) => {}
            fired = alarm.fired() => {
                if let Err(error) = fired {
                    tracing::error!(%error, "the batching timer failed");
                }
            }
        }
        if step_back {
            tokio::task::yield_now().await;
        }
        let room = gate.as_ref().map_or(usize::MAX, |gate| gate.room());
        let next = pump(&mut shared.batcher.lock(), room, now(), &mut leaving);
        if let (None, Some(gate)) = (next, &gate) {
            // Nothing is queued.
            gate.need_no_room();
        }
        leaving.drain(..).for_each(&mut depart);
        if let Err(error) = alarm.set(next) {
            tracing::error!(%error, "the batching timer cannot be set");
        }
    }
}

/// Ends when there may be more room; never without a gate.
async fn freed(gate: Option<&Gate>) {
    match gate {
        Some(gate) if gate.learned().is_some() => gate.freed().await,
        _ => pending().await,
    }
}

fn pump<T>(
    batcher: &mut Batcher<T>,
    room: usize,
    now: Instant,
    leaving: &mut Vec<Departure<T>>,
) -> Option<Instant> {
    batcher.bound(room);
    while let Some(batch) = batcher.poll_batch(now) {
        leaving.push(Departure::Batch(batch));
    }
    // Last, since forming batches finds calls that are too late for them.
    while let Some((call, why)) = batcher.poll_expired(now) {
        leaving.push(Departure::Expired(call, why));
    }
    batcher.poll_timeout()
}
