//! Model upstreams: first come, first served by so many workers at `fixed + per_item * items`.

use std::time::Duration;

use super::float;
use super::random::Random;

/// A model upstream; times in milliseconds.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Batches served at once; `usize::MAX`: any number.
    pub workers: usize,
    /// Cost of a batch.
    pub fixed: f64,
    /// Cost of an item.
    pub per_item: f64,
    /// Deviation of the service time, as a share of it.
    pub noise: f64,
    /// Share of batches that take ten times as long.
    pub stalls: f64,
    /// There and back.
    pub round_trip: f64,
    /// From and until (seconds) everything takes so many times as long.
    pub slow: Option<(f64, f64, f64)>,
}

impl Upstream {
    /// `U1`: a serial accelerator, 4 + 0.25·b ms.
    pub const fn serial() -> Self {
        Self::new(1, 4.0, 0.25)
    }

    /// `U2`: eight workers, 2 + 0.5·b ms.
    pub const fn eight_workers() -> Self {
        Self::new(8, 2.0, 0.5)
    }

    /// `U3`: elastic, 10 ms.
    pub const fn elastic() -> Self {
        Self::new(usize::MAX, 10.0, 0.0)
    }

    /// The model server of the performance suite: four workers, 2 + 0.02·b ms.
    pub const fn model() -> Self {
        Self::new(4, 2.0, 0.02)
    }

    const fn new(workers: usize, fixed: f64, per_item: f64) -> Self {
        Self {
            workers,
            fixed,
            per_item,
            noise: 0.1,
            stalls: 0.0,
            round_trip: 0.3,
            slow: None,
        }
    }

    pub(super) fn start(&self) -> State {
        let workers = if self.workers == usize::MAX {
            0
        } else {
            self.workers
        };
        State {
            model: self.clone(),
            free: vec![Duration::ZERO; workers],
        }
    }
}

/// An upstream at work.
#[derive(Debug)]
pub(super) struct State {
    model: Upstream,
    /// When each worker is free.
    free: Vec<Duration>,
}

impl State {
    /// When the answer to a batch sent now is back. Batches must be sent in order of time.
    pub(super) fn serve(&mut self, now: Duration, items: usize, random: &mut Random) -> Duration {
        let model = &self.model;
        let half_trip = Duration::from_secs_f64(model.round_trip / 2e3);
        let arrives = now + half_trip;
        let worker = self.free.iter_mut().min();
        let start = worker.as_ref().map_or(arrives, |free| arrives.max(**free));
        let mut time = (model.fixed + model.per_item * float(items)) / 1e3;
        time *= (1.0 + model.noise * random.normal()).max(0.3);
        if random.unit() < model.stalls {
            time *= 10.0;
        }
        if let Some((from, until, factor)) = model.slow
            && (from..until).contains(&start.as_secs_f64())
        {
            time *= factor;
        }
        let end = start + Duration::from_secs_f64(time);
        if let Some(free) = worker {
            *free = end;
        }
        end + half_trip
    }
}
