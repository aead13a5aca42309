//! Model upstreams, at `fixed + per_item * items`: first come, first served by so many workers, or
//! all at once by cores that they share.

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
    /// Sigma of the lognormal by which a service time is multiplied.
    pub skew: f64,
    /// Share of batches that take ten times as long.
    pub stalls: f64,
    /// Cores that all batches share from when they come, however many; 0 for workers instead.
    pub cores: f64,
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

    /// A database with four connections, as unsteady as they are: 3 + 0.1·b ms.
    pub const fn database() -> Self {
        Self {
            skew: 0.7,
            stalls: 0.01,
            ..Self::new(4, 3.0, 0.1)
        }
    }

    /// Two cores that all batches share from when they come: 1 + 0.05·b ms, as unsteady.
    pub const fn busy_machine() -> Self {
        Self {
            skew: 0.7,
            stalls: 0.01,
            cores: 2.0,
            ..Self::new(usize::MAX, 1.0, 0.05)
        }
    }

    const fn new(workers: usize, fixed: f64, per_item: f64) -> Self {
        Self {
            workers,
            fixed,
            per_item,
            noise: 0.1,
            skew: 0.0,
            stalls: 0.0,
            cores: 0.0,
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
            got: 0.0,
            until: Duration::ZERO,
            sharing: Vec::new(),
        }
    }
}

/// An upstream at work.
#[derive(Debug)]
pub(super) struct State {
    model: Upstream,
    /// When each worker is free.
    free: Vec<Duration>,
    /// Work that each of those that share has got since the start, in seconds, and until when.
    got: f64,
    until: Duration,
    sharing: Vec<Job>,
}

/// A batch that shares the cores with others.
#[derive(Debug)]
struct Job {
    /// It is done when each has got so much.
    enough: f64,
    name: (usize, u64),
}

impl State {
    pub(super) fn is_shared(&self) -> bool {
        self.model.cores > 0.0
    }

    /// A batch comes to share the cores.
    pub(super) fn share(&mut self, now: Duration, items: usize, name: (usize, u64), random: &mut Random) {
        self.work(now);
        let enough = self.got + self.time(now, items, random);
        self.sharing.push(Job { enough, name });
    }

    /// When the next of those that share is done, if no other comes.
    pub(super) fn next_done(&self) -> Option<Duration> {
        let least = self.sharing.iter().map(|job| job.enough).min_by(f64::total_cmp)?;
        let left = (least - self.got).max(0.0) / self.pace();
        Some(self.until + Duration::from_secs_f64(left) + Duration::from_nanos(1))
    }

    /// Those that share and are done by now.
    pub(super) fn done(&mut self, now: Duration) -> Vec<(usize, u64)> {
        self.work(now);
        let got = self.got;
        let done = self.sharing.extract_if(.., |job| job.enough <= got);
        done.map(|job| job.name).collect()
    }

    fn work(&mut self, now: Duration) {
        self.got += now.saturating_sub(self.until).as_secs_f64() * self.pace();
        self.until = now;
    }

    /// Cores that each of those that share has to itself.
    fn pace(&self) -> f64 {
        (self.model.cores / float(self.sharing.len()).max(1.0)).min(1.0)
    }

    /// What a batch takes of a worker or a core, in seconds.
    fn time(&self, start: Duration, items: usize, random: &mut Random) -> f64 {
        let model = &self.model;
        let mut time = (model.fixed + model.per_item * float(items)) / 1e3;
        time *= (1.0 + model.noise * random.normal()).max(0.3);
        if model.skew > 0.0 {
            time *= (model.skew * random.normal() - model.skew.powi(2) / 2.0).exp();
        }
        if random.unit() < model.stalls {
            time *= 10.0;
        }
        if let Some((from, until, factor)) = model.slow
            && (from..until).contains(&start.as_secs_f64())
        {
            time *= factor;
        }
        time
    }

    /// When the answer to a batch sent now is back. Batches must be sent in order of time.
    pub(super) fn serve(&mut self, now: Duration, items: usize, random: &mut Random) -> Duration {
        let model = &self.model;
        let half_trip = Duration::from_secs_f64(model.round_trip / 2e3);
        let arrives = now + half_trip;
        let start = self.free.iter().min().map_or(arrives, |free| arrives.max(*free));
        let time = self.time(start, items, random);
        let end = start + Duration::from_secs_f64(time);
        if let Some(free) = self.free.iter_mut().min() {
            *free = end;
        }
        end + half_trip
    }
}
