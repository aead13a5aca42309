//! The dispatcher under test, and the fixed policies it is compared with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jitney_core::batch::{BatchId, Batcher, Dispatch, Limits, Outcome, Queued, Settings, Window};

use super::float;

/// When batches leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// Every call alone, at once.
    PassThrough,
    /// Full, or so many milliseconds after the first call; one batch in flight (KServe's agent).
    TimerOne(f64),
    /// Full, or so many milliseconds after the first call; any number in flight (erpc, `DataLoader`).
    TimerAny(f64),
    /// What is queued, as soon as fewer than so many batches are in flight.
    Natural(usize),
    /// BentoML's estimate of whether waiting pays; one batch in flight.
    Bento,
    /// Jitney's default.
    Adaptive,
}

impl Policy {
    pub(super) fn sidecar(self, max_size: usize) -> Sidecar {
        let limits = |dispatch, window, timeout_ms: f64, max_size| {
            Sidecar::real(Limits {
                max_size,
                timeout: Duration::from_secs_f64(timeout_ms / 1e3),
                dispatch,
                window,
                max_queue_size: usize::MAX / 2,
                max_queue_bytes: usize::MAX / 2,
                queue_timeout: Duration::from_secs(3600),
                ..Limits::default()
            })
        };
        match self {
            Self::PassThrough => limits(Dispatch::Eager, Window::Fixed(usize::MAX), 0.0, 1),
            Self::TimerAny(ms) => limits(Dispatch::Fixed, Window::Auto, ms, max_size),
            Self::Natural(slots) => limits(Dispatch::Eager, Window::Fixed(slots), 0.0, max_size),
            Self::Adaptive => limits(Dispatch::Adaptive, Window::Auto, 0.0, max_size),
            Self::TimerOne(ms) => {
                Sidecar::One(One::new(max_size, Wait::Timer(Duration::from_secs_f64(ms / 1e3))))
            }
            Self::Bento => Sidecar::One(One::new(max_size, Wait::Bento(Bento::default()))),
        }
    }
}

/// One sidecar under a policy.
pub(super) enum Sidecar {
    Real(Box<Real>),
    One(One),
}

/// The dispatcher under test.
pub(super) struct Real {
    batcher: Batcher<usize>,
    limits: Arc<Limits>,
    flights: Vec<Option<BatchId>>,
    free: Vec<usize>,
}

impl Sidecar {
    fn real(limits: Limits) -> Self {
        let settings = Settings {
            max_queued_items: usize::MAX / 2,
            max_queued_bytes: usize::MAX / 2,
            ..Settings::default()
        };
        Self::Real(Box::new(Real {
            batcher: Batcher::new(settings),
            limits: Arc::new(limits),
            flights: Vec::new(),
            free: Vec::new(),
        }))
    }

    pub(super) fn announce(&mut self, now: Instant) {
        if let Self::Real(real) = self {
            real.batcher.announce(0, now);
        }
    }

    /// The call's body is complete.
    pub(super) fn push(&mut self, call: usize, now: Instant) {
        match self {
            Self::Real(real) => {
                real.batcher.retract(0, now);
                let call = Queued {
                    call,
                    items: 1,
                    bytes: 1,
                    shared_bytes: 0,
                    deadline: None,
                    priority: 3,
                    tenant: 0,
                    class: 0,
                };
                real.batcher
                    .push(b"key", &real.limits, call, now)
                    .expect("the queue is unbounded here");
            }
            Self::One(one) => one.queue.push_back((call, now)),
        }
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<(u64, Vec<usize>)> {
        match self {
            Self::Real(real) => {
                let batch = real.batcher.poll_batch(now)?;
                let name = real.free.pop().unwrap_or_else(|| {
                    real.flights.push(None);
                    real.flights.len() - 1
                });
                real.flights[name] = Some(batch.id);
                let members = batch.members.into_iter().map(|member| member.call).collect();
                Some((u64::try_from(name).ok()?, members))
            }
            Self::One(one) => one.poll(now).map(|members| (0, members)),
        }
    }

    pub(super) fn complete(&mut self, name: u64, now: Instant) {
        match self {
            Self::Real(real) => {
                let name = usize::try_from(name).expect("made from a usize");
                let id = real.flights[name].take().expect("each flight lands once");
                real.free.push(name);
                real.batcher.complete(id, Outcome::Ok, now);
            }
            Self::One(one) => one.complete(now),
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        match self {
            Self::Real(real) => real.batcher.poll_timeout(),
            Self::One(one) => one.wake,
        }
    }

    pub(super) fn queued(&self) -> usize {
        match self {
            Self::Real(real) => real.batcher.queued(),
            Self::One(one) => one.queue.len(),
        }
    }
}

/// A policy with one batch in flight.
pub(super) struct One {
    queue: VecDeque<(usize, Instant)>,
    max_size: usize,
    wait: Wait,
    /// Size and start of the batch in flight.
    flight: Option<(usize, Instant)>,
    wake: Option<Instant>,
}

enum Wait {
    Timer(Duration),
    Bento(Bento),
}

impl One {
    const fn new(max_size: usize, wait: Wait) -> Self {
        Self {
            queue: VecDeque::new(),
            max_size,
            wait,
            flight: None,
            wake: None,
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Vec<usize>> {
        self.wake = None;
        let first = self.queue.front().filter(|_| self.flight.is_none())?.1;
        if self.queue.len() < self.max_size {
            let until = match &self.wait {
                Wait::Timer(time) => first + *time,
                Wait::Bento(bento) => bento.until(&self.queue, now),
            };
            if until > now {
                self.wake = Some(until);
                return None;
            }
        }
        if let Wait::Bento(bento) = &mut self.wait {
            bento.sent(now - first);
        }
        let size = self.queue.len().min(self.max_size);
        self.flight = Some((size, now));
        Some(self.queue.drain(..size).map(|(call, _)| call).collect())
    }

    fn complete(&mut self, now: Instant) {
        if let Some((size, sent)) = self.flight.take()
            && let Wait::Bento(bento) = &mut self.wait
        {
            bento.learn(float(size), (now - sent).as_secs_f64());
        }
    }
}

/// The rule of `bentoml/_internal/marshal/dispatcher.py`: wait a tick while
/// `n * (age of the last + tick + a) <= 0.95 * average wait`.
struct Bento {
    samples: VecDeque<(f64, f64)>,
    wait: f64,
}

impl Default for Bento {
    fn default() -> Self {
        Self {
            samples: VecDeque::new(),
            wait: 0.01,
        }
    }
}

impl Bento {
    const TICK: f64 = 0.001;

    fn until(&self, queue: &VecDeque<(usize, Instant)>, now: Instant) -> Instant {
        let last = queue.back().map_or(0.0, |(_, at)| (now - *at).as_secs_f64());
        if float(queue.len()) * (last + Self::TICK + self.slope()) <= 0.95 * self.wait {
            now + Duration::from_secs_f64(Self::TICK)
        } else {
            now
        }
    }

    fn slope(&self) -> f64 {
        let n = float(self.samples.len()).max(1.0);
        let (x, y) = self
            .samples
            .iter()
            .fold((0.0, 0.0), |sum, s| (sum.0 + s.0 / n, sum.1 + s.1 / n));
        let (xx, xy) = self.samples.iter().fold((0.0, 0.0), |sum, s| {
            (sum.0 + (s.0 - x) * (s.0 - x), sum.1 + (s.0 - x) * (s.1 - y))
        });
        if xx > 0.0 { (xy / xx).max(0.0) } else { 0.0 }
    }

    fn sent(&mut self, wait: Duration) {
        self.wait = 0.98 * self.wait + 0.02 * wait.as_secs_f64();
    }

    fn learn(&mut self, size: f64, seconds: f64) {
        self.samples.push_back((size, seconds));
        if self.samples.len() > 50 {
            self.samples.pop_front();
        }
    }
}
