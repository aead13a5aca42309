//! The dispatcher: which queued calls leave together, and when.
//!
//! A [`Batcher`] serves one backend. It owns no clock, socket or task: `now` is an argument, and
//! the owner asks [`Batcher::poll_batch`], [`Batcher::poll_expired`] and [`Batcher::poll_timeout`]
//! after every event. Positions are given when a batch is formed and never change.
#![doc = "\n# Simulated\n"]
#![doc = include_str!("batch/SIMULATION.md")]

mod arena;
mod class;
mod cost;
mod dispatch;
mod form;
mod landing;
mod lanes;
mod limits;
mod queue;
mod schedule;
mod snapshot;
mod stall;
mod timers;
mod window;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

pub use limits::{Dispatch, EAGER_WINDOW, Limits, Order, Settings, Window};
pub use snapshot::{ClassSnapshot, LaneSnapshot, Snapshot};

use arena::{Arena, Id};
use class::Class;
use lanes::{Lanes, Park};
use schedule::{Rank, Schedule};
use timers::Timers;
use window::{Controller, Turn, count};

/// A call as it is handed to the batcher.
#[derive(Clone, Debug)]
pub struct Queued<T> {
    /// The owner's own part.
    pub call: T,
    /// What the upstream will count.
    pub items: usize,
    /// Bytes the call adds to a merged body.
    pub bytes: usize,
    /// Bytes a merged body has once; equal for equal keys.
    pub shared_bytes: usize,
    /// When an answer is of no use any more.
    pub deadline: Option<Instant>,
    /// Lower is more urgent, as in RFC 9218; matters with [`Order::Priority`] only.
    pub priority: u8,
    /// Who takes turns with whom.
    pub tenant: u64,
    /// What calls of like cost have in common, usually the route; equal for equal keys.
    pub class: u32,
}

/// Names a queued call, to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(Id);

/// Names a batch in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchId(Id);

/// Calls that leave together. Invariant: at least one member, all of one key.
#[derive(Debug)]
pub struct Batch<T> {
    /// To be given back to [`Batcher::complete`], exactly once.
    pub id: BatchId,
    /// The key that all members share.
    pub key: Arc<[u8]>,
    /// In the order of their positions.
    pub members: Vec<Member<T>>,
    /// Why it left now.
    pub reason: FlushReason,
    /// Sum of the members' items.
    pub items: usize,
    /// Size of the merged body.
    pub bytes: usize,
    /// The latest of the members' deadlines; `None` when one of them has none.
    pub deadline: Option<Instant>,
    /// How long one of its size usually takes, if batches of its size are known.
    pub expected: Option<Duration>,
}

/// A call in a batch.
#[derive(Debug)]
pub struct Member<T> {
    /// The owner's own part.
    pub call: T,
    /// What the upstream will count.
    pub items: usize,
    /// How long it was queued.
    pub waited: Duration,
}

/// Why a batch left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlushReason {
    /// A slot was free when its first call came.
    Idle,
    /// A slot became free.
    SlotFree,
    /// It holds as many items as it may.
    Full,
    /// It holds as many bytes as it may.
    Bytes,
    /// The time to wait for companions was up.
    Timeout,
    /// Its first call could not wait any longer.
    Deadline,
    /// The batcher drains.
    Drain,
}

impl FlushReason {
    /// Every reason, for metrics that exist from the start.
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::SlotFree,
        Self::Full,
        Self::Bytes,
        Self::Timeout,
        Self::Deadline,
        Self::Drain,
    ];

    /// The reason as a metric label and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::SlotFree => "slot_free",
            Self::Full => "full",
            Self::Bytes => "bytes",
            Self::Timeout => "timeout",
            Self::Deadline => "deadline",
            Self::Drain => "drain",
        }
    }
}

/// A call that was not queued.
#[derive(Debug)]
pub enum Refused<T> {
    /// A queue bound is reached: shed it.
    QueueFull {
        /// The call.
        call: T,
        /// When there is likely to be room.
        retry_after: Duration,
    },
    /// Too many keys have calls: forward it alone.
    TooManyKeys(T),
    /// It cannot be answered before its deadline.
    TooLate(T),
}

/// Why a call left the queue unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expired {
    /// It cannot be answered before its deadline any more.
    Deadline,
    /// It was queued for longer than `queue_timeout`.
    QueueTimeout,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream did the work: its time counts.
    Ok,
    /// It failed in a way that says nothing of load; its time is not learned from.
    Failed,
    /// 429, 503, no connection, or no answer in time: fewer batches from now on.
    Overloaded {
        /// The upstream's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// 413, or the convention's word for it: smaller batches from now on.
    TooLarge,
    /// Every caller left, or the batch was never sent.
    Abandoned,
}

/// One backend's queues, window and learned costs.
#[derive(Debug)]
pub struct Batcher<T> {
    settings: Settings,
    /// Every bound of the queue is divided by this. At least 1.
    squeeze: usize,
    /// However many slots there are, no more than this are used.
    bound: usize,
    calls: Arena<Entry<T>>,
    lanes: Lanes,
    schedule: Schedule,
    classes: HashMap<u32, Class, RandomState>,
    flights: Arena<Flight>,
    /// Batches in flight, summed up over time, in seconds.
    crowd: f64,
    controller: Controller,
    call_timers: Timers,
    lane_timers: Timers,
    /// `Fixed` lanes that are full or whose time is up.
    due: VecDeque<Id>,
    /// Lanes parked as `Held` or `Slots`.
    parked: Vec<Id>,
    /// Batches in flight that take a slot; the others are of `Fixed` lanes.
    in_slots: usize,
    busy_lanes: usize,
    queued_items: usize,
    queued_bytes: usize,
    next_seq: u64,
    /// Calls older than this waited for a slot.
    blocked_before: u64,
    /// Sent before this, a batch tells nothing new about overload.
    backed_off: Option<Instant>,
    draining: bool,
    /// Zero of the ranks.
    epoch: Option<Instant>,
    /// Latest `now` seen: time never goes back in here.
    latest: Option<Instant>,
}

#[derive(Debug)]
struct Entry<T> {
    call: T,
    items: usize,
    bytes: usize,
    deadline: Option<Instant>,
    arrived: Instant,
    expires: Instant,
    expired: Expired,
    seq: u64,
    rank: Rank,
    lane: Id,
    flow: Id,
    /// False once it expired in the queue and waits to be fetched.
    queued: bool,
}

#[derive(Debug)]
struct Flight {
    lane: Id,
    class: u32,
    items: usize,
    max_size: usize,
    sent: Instant,
    /// Batches in flight when it was sent, itself included.
    level: usize,
    /// The batcher's `crowd` when it was sent.
    crowd: f64,
    /// What was tried when it was sent.
    turn: Turn,
    /// Longest wait of its members, in seconds.
    waited: f64,
    in_slot: bool,
    /// When it has taken so long that it hardly keeps the upstream busy any more.
    stalls_at: Option<Instant>,
    /// True once its slot went to another.
    stalled: bool,
}

impl<T> Batcher<T> {
    /// An empty batcher.
    pub fn new(settings: Settings) -> Self {
        let controller = Controller::new(settings.max_window);
        Self {
            settings,
            squeeze: 1,
            bound: usize::MAX,
            calls: Arena::new(),
            lanes: Lanes::new(),
            schedule: Schedule::new(),
            classes: HashMap::default(),
            flights: Arena::new(),
            crowd: 0.0,
            controller,
            call_timers: Timers::default(),
            lane_timers: Timers::default(),
            due: VecDeque::new(),
            parked: Vec::new(),
            in_slots: 0,
            busy_lanes: 0,
            queued_items: 0,
            queued_bytes: 0,
            next_seq: 0,
            blocked_before: 0,
            backed_off: None,
            draining: false,
            epoch: None,
            latest: None,
        }
    }

    /// A call's head has been read and its body is coming in.
    pub fn announce(&mut self, class: u32, now: Instant) {
        self.advance(now);
        self.class(class).announced += 1;
    }

    /// The body that was announced came, or will not come. Before the [`Batcher::push`] of its call.
    pub fn retract(&mut self, class: u32, now: Instant) {
        self.advance(now);
        let known = self.class(class);
        known.announced = known.announced.saturating_sub(1);
        if known.announced == 0 {
            self.unpark(|lane| lane.park == Park::Held && lane.class == class);
        }
    }

    /// Queues a call.
    ///
    /// # Errors
    /// The call, and why it is not queued.
    pub fn push(
        &mut self,
        key: &[u8],
        limits: &Arc<Limits>,
        call: Queued<T>,
        now: Instant,
    ) -> Result<Ticket, Refused<T>> {
        let now = self.advance(now);
        let Some(cutoff) = self.cutoff(&call, now) else {
            return Err(Refused::TooLate(call.call));
        };
        let Some(lane) = self.lane(key, limits, call.class) else {
            return Err(Refused::TooManyKeys(call.call));
        };
        if let Some(retry_after) = self.full(lane, &call) {
            return Err(Refused::QueueFull {
                call: call.call,
                retry_after,
            });
        }
        Ok(Ticket(self.enqueue(lane, call, cutoff, now)))
    }

    /// Divides the bounds of the queue by this from now on; 0 is as 1. What is queued stays.
    pub fn squeeze(&mut self, by: usize) {
        self.squeeze = by.max(1);
    }

    /// From now on at most so many batches take slots, whatever the window; at least one may. What does not
    /// wait for slots, as with [`Dispatch::Fixed`] and while draining, does not wait for these either.
    pub fn bound(&mut self, most: usize) {
        let most = most.max(1);
        if most > self.bound {
            self.unpark(|lane| matches!(lane.park, Park::Slots | Park::Full));
        }
        self.bound = most;
    }

    /// Takes a call out of the queue. `None`: it has left already, and its reply is to be discarded.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        self.withdraw(ticket.0)
    }

    /// The next call that left the queue unanswered; to be asked until `None`.
    pub fn poll_expired(&mut self, now: Instant) -> Option<(T, Expired)> {
        let now = self.advance(now);
        while let Some((at, id)) = self.call_timers.pop_due(now) {
            if let Some(entry) = self.calls.get(id)
                && entry.expires == at
            {
                let why = entry.expired;
                return self.withdraw(id).map(|call| (call, why));
            }
        }
        None
    }

    /// When to ask again although nothing happened. `None` while nothing is queued.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.call_timers.next(), self.lane_timers.next()) {
            (Some(call), Some(lane)) => Some(call.min(lane)),
            (one, other) => one.or(other),
        }
    }

    /// A batch has ended. Anything but the first report of a batch is ignored.
    pub fn complete(&mut self, batch: BatchId, outcome: Outcome, now: Instant) {
        let now = self.advance(now);
        self.land(batch.0, outcome, now);
    }

    /// From now on nothing waits: the queue empties into batches, whatever the window says.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Calls in the queue.
    pub fn queued(&self) -> usize {
        self.calls.len()
    }

    /// Batches in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    fn advance(&mut self, now: Instant) -> Instant {
        let before = self.latest.unwrap_or(now);
        let latest = before.max(now);
        self.crowd += latest.duration_since(before).as_secs_f64() * count(self.flights.len());
        self.latest = Some(latest);
        self.epoch.get_or_insert(latest);
        latest
    }

    fn class(&mut self, class: u32) -> &mut Class {
        if self.classes.len() >= MAX_CLASSES && !self.classes.contains_key(&class) {
            self.classes
                .retain(|_, class| class.users > 0 || class.announced > 0);
        }
        self.classes.entry(class).or_default()
    }
}

/// Classes kept: beyond, those that nobody uses are forgotten.
const MAX_CLASSES: usize = 256;

#[cfg(test)]
mod tests;
