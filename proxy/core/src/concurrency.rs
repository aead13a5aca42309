//! How many requests may be in flight to a backend, learned from how long they take.
//!
//! Envoy and Netflix compare what requests take with what they take at best, and forget to work while
//! they measure that, or let it drift under a load that lasts. Here nothing is measured at best. What
//! is asked is what the batching window asks, too: is one more in flight worth having? A wider limit
//! and a narrower one take turns. If requests are slower under the wider one in proportion, they only
//! wait for each other at the upstream; if they are not, it works on more of them at once. An upstream
//! that turns slower does so under both, and the limit stays as it is.
//!
//! Only requests that begin while the limit is nearly reached tell anything, so a backend that is not
//! busy is left alone: there a burst may exceed the limit, and moves it. What is refused is refused
//! because most requests of late began at the limit.
//!
//! A request is slower if it is larger. Batches grow when fewer may leave, so they are compared with
//! what was learned of their size, and only with each other; other requests only with others.

use std::time::{Duration, Instant};

use crate::policy::AdaptiveConcurrency;

/// Learns the limit of one backend, and counts what is in flight.
#[derive(Debug)]
pub struct Limiter {
    rules: AdaptiveConcurrency,
    limit: usize,
    /// In flight.
    alone: usize,
    dispatched: usize,
    /// Share of requests of late that began while the limit was nearly reached.
    crowded: f64,
    /// Share of answers of late that were failures.
    failing: f64,
    /// Goes up whenever another limit is in force.
    turn: u64,
    /// The most in flight since the last trial began.
    highest: usize,
    /// The last trial that told anything told that more in flight are worth having.
    has_room: bool,
    trial: Option<Trial>,
    /// The next trial is of a wider limit.
    upward: bool,
    /// By how much of the limit.
    step: f64,
    /// Trials of late that changed nothing.
    idle: u32,
    /// Answers before the next trial.
    patience: u32,
    /// Of the slowness of one side of a trial.
    variance: f64,
}

/// What asks for a place in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// A call that may be refused.
    #[default]
    Alone,
    /// What the dispatcher sends, which has asked for [`Limiter::room`] before. It is never refused.
    Dispatched {
        /// How long one of its size usually takes; `None`: nobody knows, and it tells nothing.
        expected: Option<Duration>,
    },
}

/// A place in flight, to be given back to [`Limiter::leave`].
#[derive(Clone, Copy, Debug)]
pub struct Place {
    who: Who,
    began: Instant,
    /// In flight when it began, itself included.
    level: usize,
    /// The limit was nearly reached.
    crowded: bool,
    turn: u64,
}

/// What an answer tells of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It did the work: its time counts.
    Good,
    /// It has too much to do, or does nothing any more: 429, 5xx, no connection, no answer in time.
    Failed,
}

/// A comparison of two limits.
#[derive(Clone, Debug)]
struct Trial {
    narrow: usize,
    wide: usize,
    upward: bool,
    /// The narrower one's turn; the wider one's comes next.
    first: u64,
    /// Answers to requests of the present turn, and to those that met room.
    back: u32,
    roomy: u32,
    /// Somebody would have needed more.
    refused: bool,
    /// Of each limit, for requests alone and dispatched.
    sides: [[Side; 2]; 2],
}

/// What requests of one kind took under one limit: means of logarithms.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    n: f64,
    slowness: f64,
    level: f64,
}

impl Limiter {
    /// A limit that nothing was learned of yet.
    pub fn new(rules: AdaptiveConcurrency) -> Self {
        Self {
            limit: FIRST.clamp(rules.min.get(), rules.max.get()),
            rules,
            alone: 0,
            dispatched: 0,
            crowded: 0.0,
            failing: 0.0,
            turn: 0,
            highest: 0,
            has_room: false,
            trial: None,
            upward: true,
            step: STEP,
            idle: 0,
            patience: 0,
            variance: 0.1,
        }
    }

    /// The rules that it learns by.
    pub const fn rules(&self) -> AdaptiveConcurrency {
        self.rules
    }

    /// How many may be in flight, as far as that is learned.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// How many the dispatcher may have in flight now: what is left by others, but half at least, and
    /// one in any case.
    pub fn room(&self) -> usize {
        let most = self.in_force();
        most.saturating_sub(self.alone).max(most / 2).max(1)
    }

    /// Lets a request in; `None`: it is refused. Calls get half of the limit even while batches would
    /// fill it, so neither kind keeps the other out.
    pub fn enter(&mut self, who: Who, now: Instant) -> Option<Place> {
        let level = self.alone + self.dispatched + 1;
        let is_crowded = |most: usize| 4 * level > 3 * most;
        let crowded = is_crowded(self.in_force());
        self.crowded += CROWD_WEIGHT * (f64::from(u8::from(crowded)) - self.crowded);
        if level > self.in_force() && self.crowded < RARELY {
            // A burst.
            self.stop_trial();
            self.limit = level.clamp(self.limit, self.rules.max.get());
        }
        let most = self.in_force();
        let may_enter = match who {
            Who::Alone => level <= most || self.alone < most.div_ceil(2),
            Who::Dispatched { .. } => true,
        };
        if !may_enter {
            if let Some(trial) = &mut self.trial {
                trial.refused = true;
            }
            return None;
        }
        *self.count(who) += 1;
        self.highest = self.highest.max(level);
        Some(Place {
            who,
            began: now,
            level,
            crowded: is_crowded(most),
            turn: self.turn,
        })
    }

    /// The request is no longer in flight.
    pub fn leave(&mut self, place: Place) {
        let count = self.count(place.who);
        *count = count.saturating_sub(1);
    }

    /// What its answer tells; a caller that leaves, or a fault of the caller's, tells nothing.
    pub fn answered(&mut self, place: &Place, answer: Answer, now: Instant) {
        let failed = f64::from(u8::from(answer == Answer::Failed));
        self.failing += FAILURE_WEIGHT * (failed - self.failing);
        match answer {
            Answer::Failed => self.back_off(place),
            Answer::Good if place.crowded => self.learn(place, now),
            Answer::Good => self.doubt(place),
        }
    }

    /// No turn lasts for ever because its limit is not reached any more.
    fn doubt(&mut self, place: &Place) {
        let enough = self.enough();
        if let Some(trial) = &mut self.trial
            && place.turn == self.turn
        {
            trial.roomy += 1;
            if trial.roomy >= enough {
                self.end_turn();
            }
        }
    }

    /// One step back for all that fails within the time of one request.
    fn back_off(&mut self, place: &Place) {
        if place.crowded && self.failing > MANY_FAILURES && place.turn == self.turn {
            self.stop_trial();
            self.turn += 1;
            self.limit = (self.limit * 9 / 10).max(self.rules.min.get());
        }
    }

    fn learn(&mut self, place: &Place, now: Instant) {
        let Some(slowness) = place.slowness(now) else {
            return;
        };
        let enough = self.enough();
        match &mut self.trial {
            None => {
                self.patience = self.patience.saturating_sub(1);
                if self.patience == 0 && self.crowded > MOSTLY {
                    self.begin_trial();
                }
            }
            Some(trial) if place.turn >= trial.first => {
                let off = trial.add(place, slowness).clamp(-1.0, 1.0);
                self.variance += 0.02 * (off * off - self.variance);
                if place.turn == self.turn {
                    trial.back += 1;
                }
                if trial.back >= enough {
                    self.end_turn();
                }
            }
            Some(_) => {}
        }
    }

    fn begin_trial(&mut self) {
        let reached = std::mem::take(&mut self.highest).min(self.limit);
        let upward = self.upward;
        let apart = (as_float(self.limit) * self.step).ceil();
        let (narrow, wide) = if upward {
            (
                self.limit,
                self.limit
                    .saturating_add(as_count(apart))
                    .min(self.rules.max.get()),
            )
        } else {
            // Narrower than what is reached: than the limit alone might make no difference.
            let narrow = reached.saturating_sub(as_count(apart));
            (narrow.max(self.rules.min.get()), self.limit)
        };
        if narrow >= wide {
            self.conclude(upward, false);
            return;
        }
        self.turn += 1;
        self.trial = Some(Trial {
            narrow,
            wide,
            upward,
            first: self.turn,
            back: 0,
            roomy: 0,
            refused: false,
            sides: Default::default(),
        });
    }

    /// Answers that tell two limits apart through the noise, and at least one of each request in flight.
    /// Those that wait for each other are slow together, so that many of them tell little more than one.
    fn enough(&self) -> u32 {
        let Some(trial) = &self.trial else {
            return 0;
        };
        let apart = (as_float(trial.wide) / as_float(trial.narrow)).ln();
        let noise = self.variance * as_float(trial.narrow).sqrt() / (0.25 * apart).powi(2);
        let whole = noise.clamp(FEWEST, MOST).max(as_float(self.in_force()));
        u32::try_from(as_count(whole)).unwrap_or(u32::MAX)
    }

    fn end_turn(&mut self) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        if self.turn == trial.first {
            self.turn += 1;
            (trial.back, trial.roomy) = (0, 0);
            return;
        }
        let (elasticity, upward) = (trial.elasticity(), trial.upward);
        let (narrow, wide, refused) = (trial.narrow, trial.wide, trial.refused);
        self.stop_trial();
        let changes = match elasticity {
            Some(elasticity) if upward => elasticity < WORTH_HAVING,
            Some(elasticity) => elasticity > WORTH_NOTHING,
            None => upward && (refused || self.has_room),
        };
        if let Some(elasticity) = elasticity {
            self.has_room = elasticity < WORTH_HAVING;
        }
        if changes {
            self.limit = if upward { wide } else { narrow };
        }
        self.conclude(upward, changes);
    }

    /// What worked is tried once more, a larger step of it; what did not, the other way round.
    fn conclude(&mut self, upward: bool, changed: bool) {
        if changed {
            self.step = (self.step * 1.5).min(if upward { 1.0 } else { 0.35 });
            (self.idle, self.patience) = (0, 0);
        } else {
            self.step = STEP;
            self.upward = !upward;
            self.idle = (self.idle + 1).min(LONGEST_IDLE);
            self.patience = PATIENCE << self.idle;
        }
    }

    fn stop_trial(&mut self) {
        if self.trial.take().is_some() {
            self.turn += 1;
        }
    }

    fn in_force(&self) -> usize {
        match &self.trial {
            Some(trial) if self.turn == trial.first => trial.narrow,
            Some(trial) => trial.wide,
            None => self.limit,
        }
    }

    fn count(&mut self, who: Who) -> &mut usize {
        match who {
            Who::Alone => &mut self.alone,
            Who::Dispatched { .. } => &mut self.dispatched,
        }
    }
}

impl Place {
    /// Whose it is.
    pub const fn who(&self) -> Who {
        self.who
    }

    /// The logarithm of how long it took, over what its size takes.
    fn slowness(&self, now: Instant) -> Option<f64> {
        let expected = match self.who {
            Who::Alone => 1.0,
            Who::Dispatched { expected } => expected?.as_secs_f64().max(SHORTEST),
        };
        let took = now.saturating_duration_since(self.began).as_secs_f64();
        Some((took.max(SHORTEST) / expected).ln())
    }
}

impl Trial {
    /// Files an answer; gives how far it is off the others.
    fn add(&mut self, place: &Place, slowness: f64) -> f64 {
        let wide = usize::from(place.turn > self.first);
        let dispatched = usize::from(place.who != Who::Alone);
        let side = &mut self.sides[wide][dispatched];
        side.n += 1.0;
        let off = slowness - side.slowness;
        side.slowness += off / side.n;
        side.level += (as_float(place.level).ln() - side.level) / side.n;
        if side.n > 1.0 { off } else { 0.0 }
    }

    /// Share of each further request in flight that was spent waiting for the others: 0 for workers to
    /// spare, 1 for one after another. `None` if that cannot be told, for nearly as many were in flight
    /// under both.
    fn elasticity(&self) -> Option<f64> {
        let [narrow, wide] = &self.sides;
        let pairs = narrow.iter().zip(wide);
        let (all, slower, more) = pairs.fold((0.0, 0.0, 0.0), |(all, slower, more), (narrow, wide)| {
            let weight = narrow.n.min(wide.n);
            (
                all + weight,
                weight.mul_add(wide.slowness - narrow.slowness, slower),
                weight.mul_add(wide.level - narrow.level, more),
            )
        });
        let apart = (as_float(self.wide) / as_float(self.narrow)).ln();
        (more > LEAST_APART * apart * all).then_some(slower / more)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is rounded is a count"
)]
fn as_count(value: f64) -> usize {
    value as usize
}

/// The limit before anything is known, as in Netflix' limiters.
const FIRST: usize = 20;
/// The weight of one request in the share that is crowded.
const CROWD_WEIGHT: f64 = 1.0 / 64.0;
/// Below this share a full limit is a burst; above the other one, load.
const RARELY: f64 = 0.3;
const MOSTLY: f64 = 0.5;
/// The weight of one answer in the share that fails, and the share that is too much.
const FAILURE_WEIGHT: f64 = 1.0 / 32.0;
const MANY_FAILURES: f64 = 0.1;
/// The first step of a trial.
const STEP: f64 = 0.25;
/// A wider limit is worth having below this elasticity, and the present one worth nothing above the other.
const WORTH_HAVING: f64 = 0.5;
const WORTH_NOTHING: f64 = 0.75;
/// Of the difference between two limits, what the numbers in flight must differ by for a trial to tell anything.
const LEAST_APART: f64 = 0.25;
/// Bounds on the answers of one turn.
const FEWEST: f64 = 12.0;
const MOST: f64 = 128.0;
/// Crowded answers between trials that change nothing, doubled so many times at most.
const PATIENCE: u32 = 16;
const LONGEST_IDLE: u32 = 5;
/// What is shorter cannot be told apart.
const SHORTEST: f64 = 1e-6;

#[cfg(test)]
mod tests;
