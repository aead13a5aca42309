//! A call that waits for its reply: as one of a batch, or alone.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use jitney_core::batch::FlushReason;
use jitney_core::codec::AnyItem;
use jitney_core::concurrency::Who;

use super::slot::{Flight, Slot};
use super::submission::Submission;
use crate::body::Body;
use crate::error::Error;
use crate::metrics::{ItemOutcome, UpstreamCall};
use crate::reply::Reply;
use crate::send::Sending;
use crate::upstream::Culprit;

/// What a waiting caller gets.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Result<Reply, Error>,
    /// `None` when the call never left the queue.
    pub(crate) journey: Option<Journey>,
}

impl Answer {
    /// To a call that never left the queue.
    pub(super) const fn error(error: Error) -> Self {
        Self {
            reply: Err(error),
            journey: None,
        }
    }
}

/// How a call travelled; for its access log line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Journey {
    /// The batch's number, unique in this process.
    pub(crate) batch: u64,
    /// Calls that the batch was formed of.
    pub(crate) size: usize,
    /// The member's place, which never changes.
    pub(crate) position: usize,
    pub(crate) waited: Duration,
    pub(crate) reason: FlushReason,
    /// How long a batch of its size usually takes.
    pub(crate) expected: Option<Duration>,
}

/// Calls that are sent together. Boxed, since they move from group to group and are large.
pub(super) type Group = Vec<Box<Pending>>;

/// A queued or travelling call.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) slot: Arc<Slot<Answer>>,
    pub(crate) call: Box<Submission>,
    /// The call as the codec understands it.
    pub(crate) item: AnyItem,
    /// Items that it carries.
    pub(crate) count: usize,
    /// How often it has been sent.
    pub(crate) sends: u32,
    /// True when it was last sent by itself.
    pub(crate) alone: bool,
    pub(crate) journey: Option<Journey>,
}

impl Pending {
    /// Takes the call aboard a flight; `None` when its caller has left.
    pub(super) fn board(mut self: Box<Self>, flight: &Arc<Flight>, journey: Journey) -> Option<Box<Self>> {
        if !self.slot.board(flight) {
            return None;
        }
        self.journey = Some(journey);
        Some(self)
    }

    pub(super) fn has_left(&self) -> bool {
        self.slot.is_closed()
    }

    /// Answers the caller; an answer for one that left is dropped.
    pub(crate) fn answer(self, reply: Result<Reply, Error>) {
        let outcome = match &reply {
            Err(error) => ItemOutcome::from(error.kind()),
            Ok(_) if self.alone => ItemOutcome::Alone,
            Ok(reply) if reply.status().as_u16() < 400 => ItemOutcome::Ok,
            Ok(_) => ItemOutcome::Failed,
        };
        let answer = Answer {
            reply,
            journey: self.journey,
        };
        if self.slot.answer(answer).is_ok() {
            self.call.state.metrics.items.add(outcome, self.count as u64);
        }
    }

    /// The original request, byte for byte; leaves an empty one behind.
    pub(super) fn take_request(&mut self) -> Request<Body> {
        let head = std::mem::replace(&mut self.call.head, Request::new(()).into_parts().0);
        Request::from_parts(head, Body::full(std::mem::take(&mut self.call.body)))
    }

    /// Whom to blame should it make a batch fail.
    pub(super) fn culprit(&self) -> Culprit {
        let Submission {
            state, head, body, ..
        } = &*self.call;
        state.culprit(&head.headers, body, head.uri.path())
    }

    /// The bounds of a request that carries this call, which as a first try is made for `first`.
    pub(super) fn sending(&self, first: UpstreamCall) -> Sending {
        Sending {
            deadline: self.call.deadline,
            blames: self.call.blames,
            per_try: self.call.route.timeouts.per_try,
            replay: self.call.route.on_failure.replay,
            why: if self.sends > 1 {
                UpstreamCall::Replay
            } else {
                first
            },
            who: self.journey.map_or(Who::Alone, |journey| Who::Dispatched {
                expected: journey.expected.filter(|_| self.sends <= 1),
            }),
            // Whoever asks for that is in no batch.
            switches: false,
        }
    }
}
