//! A call on a batching route, from its head to its reply: body, codec, key, queue, answer.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, request};
use hyper::body::Incoming;
use jitney_core::Bypass;
use jitney_core::batch::{Queued, Refused, Ticket};
use jitney_core::codec::{AnyItem, Call, Codec};
use jitney_core::key::{self, Caller, KeyBuf, write_key};
use jitney_core::policy::Mode;
use jitney_core::quarantine::Fingerprint;
use jitney_core::route::{Head, Route};

use super::divide;
use super::pending::{Answer, Journey, Pending};
use super::shadow::{Running, Trial};
use super::slot::Slot;
use crate::body::{self, Body, Taken};
use crate::error::{Bound, Error, ErrorKind};
use crate::metrics::{CancelStage, ItemOutcome};
use crate::upstream::{RouteState, Upstream};

/// What becomes of a call on a batching route.
pub(crate) enum Submitted {
    /// It was answered: as one of a batch, alone, or by a bound.
    Answered(Result<Response<Body>, Error>, Option<Journey>),
    /// It travels alone, as it came; in `mode: Shadow` a trial runs for as long as it does.
    Alone(Request<Body>, Bypass, Option<Running>),
}

/// Submits a call to its route. Dropping the future takes the call out of the queue, or leaves its
/// seat in the batch empty.
pub(crate) async fn submit(
    upstream: &Arc<Upstream>,
    route: Arc<Route>,
    state: Arc<RouteState>,
    request: Request<Incoming>,
    deadline: Option<Instant>,
) -> Submitted {
    let (head, body) = request.into_parts();
    let mut announced = Announced {
        upstream,
        class: state.class,
        live: false,
    };
    // Nothing ever waits for a call in shadow, so its coming is not announced.
    let wanted = route.mode == Mode::Active;
    let announce = || {
        if wanted {
            announced.announce()
        }
    };
    let body = match read_body(body, route.limits.max_bytes, announce).await {
        Ok(body) => body,
        Err(ReadError::Bypass(body, why)) => {
            return Submitted::Alone(Request::from_parts(head, body), why, None);
        }
        Err(ReadError::Broken(error)) => {
            return Submitted::Answered(Err(Error::caused(ErrorKind::CallerGone, error)), None);
        }
    };
    let arrived = Arrived {
        upstream,
        route,
        state,
        head,
        body,
        deadline,
    };
    match arrived.enqueue(announced) {
        Ok(seat) => {
            let answer = seat.answer().await;
            Submitted::Answered(answer.reply, answer.journey)
        }
        Err(declined) => match *declined {
            Declined::TooLarge(call) => divide::submit(call).await,
            Declined::Submitted(submitted) => submitted,
        },
    }
}

/// A call that got no seat.
pub(super) enum Declined<'a> {
    /// It carries more than one batch may have.
    TooLarge(Arrived<'a>),
    Submitted(Submitted),
}

/// Why a body was not read to its end.
enum ReadError {
    /// It goes on as the stream that it is.
    Bypass(Body, Bypass),
    /// The caller's connection broke.
    Broken(hyper::Error),
}

/// Reads a body up to the cap. While it is waited for, the call is announced: its companions may
/// then wait for it.
async fn read_body(body: Incoming, cap: usize, mut pending: impl FnMut()) -> Result<Bytes, ReadError> {
    let mut taking = std::pin::pin!(body::take(body, cap));
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
        Ok(Taken::WithTrailers(body)) => Err(ReadError::Bypass(body, Bypass::Trailers)),
        Err(error) => Err(ReadError::Broken(error)),
    }
}

/// A call whose body has arrived.
pub(super) struct Arrived<'a> {
    pub(super) upstream: &'a Arc<Upstream>,
    pub(super) route: Arc<Route>,
    pub(super) state: Arc<RouteState>,
    pub(super) head: request::Parts,
    pub(super) body: Bytes,
    pub(super) deadline: Option<Instant>,
}

impl<'a> Arrived<'a> {
    /// Reads, keys and queues the call; or says why it travels alone, or is refused.
    pub(super) fn enqueue(self, announced: Announced<'_>) -> Result<Seat<'a>, Box<Declined<'a>>> {
        match self.read() {
            Err(Bypass::TooLarge) => Err(Box::new(Declined::TooLarge(self))),
            Err(why) => Err(Box::new(Declined::Submitted(self.alone(why, None)))),
            Ok((item, queued, print)) => {
                KEY.with_borrow(|key| self.push(key.as_bytes(), print, item, &queued, announced))
            }
        }
    }

    /// Has the codec read the call and writes its key into [`KEY`].
    fn read(&self) -> Result<(AnyItem, Queued<()>, Fingerprint), Bypass> {
        let head = Head {
            method: &self.head.method,
            uri: &self.head.uri,
            headers: &self.head.headers,
        };
        let captures = self.route.captures(&head).unwrap_or_default();
        let call = Call {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            captures: &captures,
            body: &self.body,
        };
        let read = self.route.codec.read(&call)?;
        if !self.route.fits(read.count, read.shared_bytes + read.bytes) {
            return Err(Bypass::TooLarge);
        }
        let caller = Caller {
            version: self.head.version,
            identity: None,
        };
        let queued = Queued {
            call: (),
            items: read.count,
            bytes: read.bytes,
            shared_bytes: read.shared_bytes,
            deadline: self.deadline,
            priority: key::priority(&self.route, head.headers),
            tenant: key::tenant(head.headers, caller),
            class: self.state.class,
        };
        let print = KEY.with_borrow_mut(|key| {
            write_key(
                key,
                &self.route,
                &head,
                &captures,
                caller,
                &read.invariants,
                queued.priority,
            );
            self.state.key(key.as_bytes())
        });
        match self.state.held(head.headers, &self.body, head.uri.path(), print) {
            Some(why) => Err(why),
            None => Ok((read.item, queued, print)),
        }
    }

    fn push(
        self,
        key: &[u8],
        print: Fingerprint,
        item: AnyItem,
        queued: &Queued<()>,
        announced: Announced<'_>,
    ) -> Result<Seat<'a>, Box<Declined<'a>>> {
        let (upstream, limits, state) = (
            self.upstream,
            Arc::clone(&self.route.limits),
            Arc::clone(&self.state),
        );
        let live = announced.redeem();
        if self.route.mode == Mode::Shadow {
            let trial = carrying(queued, Trial::new(state));
            let running = Trial::start(upstream, key, &limits, trial);
            return Err(Box::new(Declined::Submitted(self.alone(Bypass::Shadow, running))));
        }
        let slot = Arc::new(Slot::new());
        let pending = Box::new(Pending {
            slot: Arc::clone(&slot),
            route: self.route,
            state: self.state,
            head: self.head,
            body: self.body,
            item,
            count: queued.items,
            key: print,
            deadline: self.deadline,
            sends: 0,
            alone: false,
            journey: None,
        });
        match upstream
            .batches
            .push(key, &limits, carrying(queued, pending), live)
        {
            Ok(ticket) => Ok(Seat {
                upstream,
                state,
                ticket,
                slot,
                items: queued.items,
                deadline: self.deadline,
                waiting: true,
            }),
            Err(refused) => Err(Box::new(Declined::Submitted(match refused {
                Refused::TooManyKeys(call) => {
                    Submitted::Alone(call.into_request(), Bypass::TooManyKeys, None)
                }
                Refused::TooLate(call) => call.refused(ErrorKind::DeadlineExceeded),
                Refused::QueueFull { call, retry_after } => {
                    call.refused(ErrorKind::Shed(Bound::Queue, retry_after))
                }
            }))),
        }
    }

    pub(super) fn alone(self, why: Bypass, running: Option<Running>) -> Submitted {
        Submitted::Alone(
            Request::from_parts(self.head, Body::full(self.body)),
            why,
            running,
        )
    }
}

/// A place in the queue or in a batch, for as long as the caller waits. Dropped before the answer
/// came, it gives the place up.
pub(super) struct Seat<'a> {
    upstream: &'a Upstream,
    state: Arc<RouteState>,
    ticket: Ticket,
    slot: Arc<Slot<Answer>>,
    items: usize,
    deadline: Option<Instant>,
    waiting: bool,
}

impl Seat<'_> {
    /// Waits for the answer, no longer than the caller does.
    pub(super) async fn answer(mut self) -> Answer {
        let answer = match self.deadline {
            None => self.slot.wait().await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), self.slot.wait()).await {
                Ok(answer) => answer,
                Err(_) => {
                    let reply = Err(Error::new(ErrorKind::DeadlineExceeded));
                    return Answer { reply, journey: None };
                }
            },
        };
        self.waiting = false;
        answer
    }
}

impl Drop for Seat<'_> {
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
pub(super) struct Announced<'a> {
    upstream: &'a Upstream,
    class: u32,
    live: bool,
}

impl<'a> Announced<'a> {
    /// A call that was never announced.
    pub(super) const fn not(upstream: &'a Upstream) -> Self {
        Self {
            upstream,
            class: 0,
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
    fn redeem(mut self) -> bool {
        std::mem::take(&mut self.live)
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if self.live {
            self.upstream.batches.retract(self.class);
        }
    }
}

impl Pending {
    /// What becomes of a call that was not queued.
    fn refused(&self, kind: ErrorKind) -> Submitted {
        self.state
            .metrics
            .items
            .add(ItemOutcome::from(kind), self.count as u64);
        Submitted::Answered(Err(Error::new(kind)), None)
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

thread_local! {
    /// Keys are written here and copied only when they are new.
    static KEY: RefCell<KeyBuf> = const { RefCell::new(KeyBuf::new()) };
}
