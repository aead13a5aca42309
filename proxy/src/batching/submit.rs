//! A call on a batching route, from its head to its reply: body, codec, key, queue, answer.

use std::future::{Future as _, poll_fn};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use jitney_core::Bypass;
use jitney_core::batch::{Queued, Refused, Ticket};
use jitney_core::policy::Mode;
use tokio::time::timeout_at;

use super::alarm::now;
use super::divide;
use super::pending::{Answer, Pending};
use super::shadow::{Running, Trial};
use super::slot::Slot;
use super::submission::{Submission, Understood};
use crate::body::{self, Body, Taken};
use crate::error::{Bound, Error, ErrorKind};
use crate::memory::Memory;
use crate::metrics::{CancelStage, ItemOutcome};
use crate::upstream::{RouteState, Upstream};

/// A call of a batching route that travels alone, as it came.
pub(crate) struct GoesAlone {
    pub(crate) request: Request<Body>,
    pub(crate) why: Bypass,
    /// In `mode: Shadow`, a trial that runs for as long as the call does.
    pub(crate) running: Option<Running>,
}

/// Submits a call to its route. The answer is that of a batch, or of the upstream to the call alone,
/// or of a bound. Dropping the future takes the call out of the queue, or leaves its seat in the
/// batch empty.
///
/// # Errors
/// The call itself, when it is not for a batch.
pub(crate) async fn submit(mut call: Box<Submission>, body: Body) -> Result<Answer, GoesAlone> {
    let mut announced = Announced::not(Arc::clone(&call.upstream), call.state.class);
    // Nothing ever waits for a call in shadow, so its coming is not announced.
    let wanted = call.route.mode == Mode::Active;
    let mut had_to_wait = false;
    let announce = || {
        had_to_wait = true;
        if wanted {
            announced.announce();
        }
    };
    let memory = &call.upstream.backend.memory;
    match read_body(body, call.route.limits.max_bytes, memory, announce).await {
        Ok(body) => call.body = body,
        Err(ReadError::Bypass(body, why)) => {
            return Err(GoesAlone {
                request: Request::from_parts(call.head, body),
                why,
                running: None,
            });
        }
        Err(ReadError::Broken(error)) => {
            return Ok(Answer::error(Error::caused(ErrorKind::CallerGone, error)));
        }
    }
    if had_to_wait {
        call.arrived = now();
    }
    match enqueue(call, announced) {
        Ok(seat) => Ok(seat.answer().await),
        Err(declined) => declined.settle().await,
    }
}

/// Submits a call whose body is at hand, at once. Dropping the seat gives it up, as dropping [`submit`] does.
///
/// # Errors
/// What is to be done with the call, when it has no seat.
pub(crate) fn submit_whole(mut call: Box<Submission>, body: Bytes) -> Result<Seat, Declined> {
    call.body = body;
    let announced = Announced::not(Arc::clone(&call.upstream), call.state.class);
    enqueue(call, announced)
}

/// A call that got no seat.
pub(crate) enum Declined {
    /// It carries more than one batch may have.
    TooLarge(Box<Submission>),
    /// It travels alone.
    Alone(Box<Submission>, Bypass, Option<Running>),
    /// A bound was reached.
    Refused(ErrorKind),
}

impl Declined {
    /// The answer to the call.
    ///
    /// # Errors
    /// The call itself, when it is not for a batch.
    pub(crate) async fn settle(self) -> Result<Answer, GoesAlone> {
        match self {
            // Boxed as it is rare, and large.
            Self::TooLarge(call) => Box::pin(divide::submit(call)).await,
            Self::Alone(call, why, running) => Err(GoesAlone {
                request: call.into_request(),
                why,
                running,
            }),
            Self::Refused(kind) => Ok(Answer::error(kind.into())),
        }
    }
}

/// Why a body was not read to its end.
enum ReadError {
    /// It goes on as the stream that it is.
    Bypass(Body, Bypass),
    /// The caller's connection broke.
    Broken(body::Broken),
}

/// Reads a body up to the cap. While it is waited for, the call is announced: its companions may
/// then wait for it.
async fn read_body(
    body: Body,
    cap: usize,
    memory: &Memory,
    mut pending: impl FnMut(),
) -> Result<Bytes, ReadError> {
    let mut taking = std::pin::pin!(body::take_within(body, cap, Some(memory)));
    let taken = poll_fn(|cx| {
        let polled = taking.as_mut().poll(cx);
        if polled.is_pending() {
            pending();
        }
        polled
    });
    match taken.await {
        Ok(Taken::Whole(body)) => Ok(body),
        Ok(Taken::Over(body)) => Err(ReadError::Bypass(body, Bypass::TooLarge)),
        Ok(Taken::Crowded(body)) => Err(ReadError::Bypass(body, Bypass::Memory)),
        Ok(Taken::WithTrailers(body)) => Err(ReadError::Bypass(body, Bypass::Trailers)),
        Err(error) => Err(ReadError::Broken(error)),
    }
}

/// Reads, keys and queues a call whose body has arrived; or says why it travels alone, or is refused.
pub(super) fn enqueue(call: Box<Submission>, announced: Announced) -> Result<Seat, Declined> {
    match call.understand(|call, key, understood| push(call, key, understood, announced)) {
        Ok(pushed) => pushed,
        Err((call, Bypass::TooLarge)) => Err(Declined::TooLarge(call)),
        Err((call, why)) => Err(Declined::Alone(call, why, None)),
    }
}

fn push(
    call: Box<Submission>,
    key: &[u8],
    understood: Understood,
    announced: Announced,
) -> Result<Seat, Declined> {
    let Understood { item, queued } = understood;
    let limits = Arc::clone(&call.route.limits);
    let (upstream, live) = announced.redeem();
    if call.route.mode == Mode::Shadow {
        let trial = carrying(&queued, Trial::new(Arc::clone(&call.state)));
        let running = Trial::start(&upstream, key, &limits, trial, call.arrived);
        return Err(Declined::Alone(call, Bypass::Shadow, running));
    }
    let (state, arrived, deadline) = (Arc::clone(&call.state), call.arrived, call.deadline);
    let slot = Arc::new(Slot::new());
    let pending = Box::new(Pending {
        slot: Arc::clone(&slot),
        call,
        item,
        count: queued.items,
        sends: 0,
        alone: false,
        journey: None,
    });
    match upstream
        .batches
        .push(key, &limits, carrying(&queued, pending), live, arrived)
    {
        Ok(ticket) => Ok(Seat {
            upstream,
            state,
            ticket,
            slot,
            items: queued.items,
            deadline,
            waiting: true,
        }),
        Err(refused) => Err(match refused {
            Refused::TooManyKeys(pending) => Declined::Alone(pending.call, Bypass::TooManyKeys, None),
            Refused::TooLate(pending) => pending.refused(ErrorKind::DeadlineExceeded),
            Refused::QueueFull { call, retry_after } => {
                call.refused(ErrorKind::Shed(Bound::Queue, retry_after))
            }
        }),
    }
}

/// A place in the queue or in a batch, for as long as the caller waits. Dropped before the answer
/// came, it gives the place up.
pub(crate) struct Seat {
    upstream: Arc<Upstream>,
    state: Arc<RouteState>,
    ticket: Ticket,
    slot: Arc<Slot<Answer>>,
    items: usize,
    deadline: Option<Instant>,
    waiting: bool,
}

impl Seat {
    /// Waits for the answer, no longer than the caller does.
    pub(crate) async fn answer(mut self) -> Answer {
        let answer = match self.deadline {
            None => self.slot.wait().await,
            Some(deadline) => {
                let waiting = timeout_at(deadline.into(), self.slot.wait());
                // Boxed as a timer is large, and has its place in lines of its own.
                match Box::pin(waiting).await {
                    Ok(answer) => answer,
                    Err(_) => return Answer::error(ErrorKind::DeadlineExceeded.into()),
                }
            }
        };
        self.waiting = false;
        answer
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.waiting && self.slot.leave() {
            let stage = match self.upstream.batches.cancel(self.ticket) {
                Some(_) => CancelStage::Queued,
                None => CancelStage::InFlight,
            };
            self.state.metrics.cancelled.inc(stage);
            self.state
                .metrics
                .items
                .add(ItemOutcome::Cancelled, self.items as u64);
        }
    }
}

/// Tells the dispatcher of a call that is on its way, until it arrives or its caller leaves.
pub(super) struct Announced {
    upstream: Arc<Upstream>,
    class: u32,
    live: bool,
}

impl Announced {
    /// A call that has not been announced.
    pub(super) const fn not(upstream: Arc<Upstream>, class: u32) -> Self {
        Self {
            upstream,
            class,
            live: false,
        }
    }

    fn announce(&mut self) {
        if !self.live {
            self.live = true;
            self.upstream.batches.announce(self.class);
        }
    }

    /// True when the call was announced; who pushes it takes the announcement back.
    fn redeem(mut self) -> (Arc<Upstream>, bool) {
        let live = std::mem::take(&mut self.live);
        (Arc::clone(&self.upstream), live)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if self.live {
            self.upstream.batches.retract(self.class);
        }
    }
}

impl Pending {
    /// What becomes of a call that was not queued.
    fn refused(&self, kind: ErrorKind) -> Declined {
        let outcome = ItemOutcome::from(kind);
        self.call.state.metrics.items.add(outcome, self.count as u64);
        Declined::Refused(kind)
    }
}

pub(super) fn carrying<T>(queued: &Queued<()>, call: T) -> Queued<T> {
    Queued {
        call,
        items: queued.items,
        bytes: queued.bytes,
        shared_bytes: queued.shared_bytes,
        deadline: queued.deadline,
        priority: queued.priority,
        tenant: queued.tenant,
        class: queued.class,
    }
}
