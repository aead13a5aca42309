//! The learned window: how many batches may be in flight to a backend at once.
//!
//! Each batch is compared with what its size costs, and filed under how many were in flight when
//! it left. If one more in flight makes batches slower in proportion, the upstream works on them
//! one after another and the slot is worth nothing; if not, it is. No floor is assumed, nothing
//! is drained, and an upstream that turns slower at every level leaves the window as it is.
//!
//! How many were in flight says nothing where all share what there is, as on a busy machine: the
//! first batch of a burst is slowed by those that leave after it. So a wider window is tried in
//! turns with the present one, and has to bear comparison by turns as well.

/// What one batch tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Logarithm of its time over what its size costs.
    pub(super) slowness: f64,
    /// Batches in flight when it left, itself included.
    pub(super) level: usize,
    /// Batches in flight while it was, itself included, on average.
    pub(super) alongside: f64,
    /// What was tried when it left.
    pub(super) turn: Turn,
    /// Calls were queued when it came back.
    pub(super) limited: bool,
    /// How long its first call was queued, over how long it took.
    pub(super) wait_share: f64,
    /// Its items over the most it might have had.
    pub(super) fill: f64,
}

/// Which window was in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// The last trial that had begun.
    trial: u64,
    /// It was the wider window's turn.
    wide: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Controller {
    window: usize,
    max: usize,
    /// What is known of each number in flight, from 1 on.
    levels: Vec<Level>,
    /// Of `slowness` around its level's mean.
    variance: f64,
    slowness: f64,
    wait_share: f64,
    /// Share of recent batches whose first call was queued for long.
    long_waits: f64,
    /// Of recent batches.
    fill: f64,
    trial: Option<Trial>,
    trials: u64,
    /// Upward trials that failed since one succeeded.
    failures: u32,
    /// Limited samples before the next upward trial, and samples before the next doubt.
    patience_up: u32,
    patience_down: u32,
    doubts: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    mean: f64,
    weight: f64,
    trial: u64,
}

/// Batches of one side of a comparison.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    n: f64,
    slowness: f64,
    log_level: f64,
}

/// A comparison of two windows.
#[derive(Clone, Copy, Debug)]
struct Trial {
    number: u64,
    low: usize,
    high: usize,
    upward: bool,
    /// By how many were in flight when they left.
    below: Side,
    above: Side,
    /// By whose turn it was when they left.
    narrow: Side,
    wide: Side,
    /// It is the wider window's turn, and so many batches of this turn are back.
    is_wide: bool,
    back: f64,
    /// Slowness below before a downward trial.
    before: f64,
    /// Sizes came up above of which nothing is known below.
    blind: bool,
}

impl Trial {
    fn new(number: u64, low: usize, high: usize) -> Self {
        Self {
            number,
            low,
            high,
            upward: true,
            below: Side::default(),
            above: Side::default(),
            narrow: Side::default(),
            wide: Side::default(),
            is_wide: false,
            back: 0.0,
            before: 0.0,
            blind: false,
        }
    }

    const fn slots(&self) -> usize {
        if self.is_wide && !self.blind {
            self.high
        } else {
            self.low
        }
    }

    /// Files a batch under the window whose turn it was when it left. The next turn begins when
    /// enough of this one are back, the wider window's not before something is known below it.
    fn take_turns(&mut self, sample: &Sample, slowness: f64, enough: f64) {
        let wide = sample.turn.wide;
        let side = if wide { &mut self.wide } else { &mut self.narrow };
        side.add(slowness, sample.alongside, 1.0);
        if wide == self.is_wide {
            self.back += 1.0;
        }
        if self.back >= enough {
            self.is_wide = !self.is_wide && self.below.n >= FEW;
            self.back = 0.0;
        }
    }

    fn sides(&mut self) -> [&mut Side; 4] {
        [&mut self.below, &mut self.above, &mut self.narrow, &mut self.wide]
    }
}

impl Side {
    fn add(&mut self, slowness: f64, level: f64, weight: f64) {
        self.n += weight;
        let step = weight / self.n;
        self.slowness += step * (slowness - self.slowness);
        self.log_level += step * (level.ln() - self.log_level);
    }
}

/// Share of each further batch in flight that was spent waiting for the others: 0 for workers to
/// spare, 1 for one after another.
fn elasticity(below: &Side, above: &Side) -> f64 {
    (above.slowness - below.slowness) / (above.log_level - below.log_level).max(0.05)
}

impl Controller {
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        let mut new = Self {
            window: 1,
            max,
            levels: vec![Level::default(); max + 1],
            variance: 0.02,
            slowness: 0.0,
            wait_share: 0.0,
            long_waits: 0.0,
            fill: 0.0,
            trial: None,
            trials: 0,
            failures: 0,
            patience_up: 0,
            patience_down: 0,
            doubts: 0,
        };
        new.try_up(FIRST_TRIAL);
        new
    }

    pub(super) fn slots(&self) -> usize {
        self.trial.as_ref().map_or(self.window, Trial::slots)
    }

    /// What is tried now, to be handed back with the sample.
    pub(super) fn turn(&self) -> Turn {
        Turn {
            trial: self.trials,
            wide: self.trial.is_some_and(|trial| trial.slots() > trial.low),
        }
    }

    /// Batches in flight that are known to be of use.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// Time of recent batches over what their sizes cost.
    pub(super) fn inflation(&self) -> f64 {
        self.slowness.exp()
    }

    /// What batches at this level take more than their sizes cost, as far as it is known.
    pub(super) fn usual(&self, level: usize) -> Option<f64> {
        if self.trial.is_some_and(|trial| trial.upward && level > trial.low) {
            return None;
        }
        let known = self.levels.get(level).filter(|level| level.weight > 2.0);
        Some(known.map_or(self.slowness, |level| level.mean).exp())
    }

    /// Moves a little of what all levels have in common out of here; the costs take it over.
    /// Without, the two could drift apart for ever, and their product stay right.
    pub(super) fn hand_over(&mut self) -> f64 {
        let share = HANDED_OVER * self.slowness;
        self.slowness -= share;
        for level in &mut self.levels {
            level.mean -= share;
        }
        if let Some(trial) = &mut self.trial {
            for side in trial.sides() {
                side.slowness -= share;
            }
            trial.before -= share;
        }
        share.exp()
    }

    /// A batch came back whose size is new. Above the window that cannot be judged: sizes are
    /// learned below first.
    pub(super) fn unknown_size(&mut self, level: usize) {
        if let Some(trial) = &mut self.trial
            && trial.upward
            && level > trial.low
        {
            trial.blind = true;
        }
    }

    pub(super) fn learn(&mut self, sample: Sample) {
        let slowness = self.file(&sample);
        self.slowness += 0.1 * (slowness - self.slowness);
        self.wait_share += 0.05 * (sample.wait_share.min(4.0) - self.wait_share);
        self.fill += 0.05 * (sample.fill.min(1.0) - self.fill);
        let long = if sample.wait_share > LONG_WAIT { 1.0 } else { 0.0 };
        self.long_waits += 0.02 * (long - self.long_waits);
        match self.trial {
            Some(trial) => self.compare(trial, &sample, slowness),
            None => self.consider(&sample),
        }
    }

    /// Files a sample under its level; returns its slowness without what is out of all proportion.
    fn file(&mut self, sample: &Sample) -> f64 {
        let at = sample.level.min(self.max);
        let level = &mut self.levels[at];
        let mut slowness = sample.slowness.clamp(-10.0, 10.0);
        if level.weight > 4.0 {
            let off = slowness - level.mean;
            let bound = 4.0 * self.variance.sqrt();
            self.variance += 0.02 * (off.clamp(-1.0, 1.0).powi(2) - self.variance);
            slowness = level.mean + off.clamp(-bound, bound);
        }
        level.weight = (level.weight + 1.0).min(MEMORY);
        level.mean += (slowness - level.mean) / level.weight;
        level.trial = sample.turn.trial;
        slowness
    }

    fn consider(&mut self, sample: &Sample) {
        self.patience_up = self.patience_up.saturating_sub(u32::from(sample.limited));
        self.patience_down = self.patience_down.saturating_sub(1);
        if self.window > 1 && self.patience_down == 0 {
            self.patience_down = LOOK_EVERY;
            let low = (self.window * 3 / 4).max(1);
            let (below, above) = (self.side(low / 2 + 1, low), self.side(low + 1, self.window));
            let enough = self.enough(low, self.window);
            if above.n >= enough && below.n >= 2.0 && elasticity(&below, &above) > self.bearable() {
                self.try_down(low, below.slowness, above);
                return;
            }
        }
        if self.patience_up == 0 && self.crowded() && self.window < self.max {
            let step = if self.failures == 0 {
                self.window
            } else {
                (self.window / 4).max(1)
            };
            self.try_up((self.window + step).min(self.max));
        }
    }

    /// Calls wait here for long enough that a further slot may be worth an upstream call each.
    fn crowded(&self) -> bool {
        self.wait_share > WORTH_A_SLOT || self.long_waits > RARE
    }

    const fn patience(&self) -> u32 {
        FIRST_PATIENCE << (2 * self.failures)
    }

    /// The elasticity above which a slot is not worth having. Full batches cannot grow, so that
    /// only a further slot gets more work done; others had better gather.
    fn bearable(&self) -> f64 {
        QUEUEING + QUEUEING_WHEN_FULL * self.fill.powi(2)
    }

    fn side(&self, from: usize, to: usize) -> Side {
        let mut side = Side::default();
        for at in from..=to {
            if let Some(level) = self.levels.get(at).filter(|level| level.weight > 0.0) {
                side.add(level.mean, count(at), level.weight);
            }
        }
        side
    }

    fn try_up(&mut self, high: usize) {
        self.trials += 1;
        let low = self.window;
        let mut below = self.side(low / 2 + 1, low);
        below.n = below.n.min(self.enough(low, high));
        self.trial = Some(Trial {
            below,
            ..Trial::new(self.trials, low, high)
        });
    }

    fn try_down(&mut self, low: usize, before: f64, above: Side) {
        self.trials += 1;
        self.trial = Some(Trial {
            upward: false,
            above,
            before,
            ..Trial::new(self.trials, low, self.window)
        });
    }

    fn compare(&mut self, mut trial: Trial, sample: &Sample, slowness: f64) {
        let fresh = sample.turn.trial == trial.number;
        if sample.level > trial.low {
            if fresh && trial.upward {
                trial.above.add(slowness, count(sample.level), 1.0);
            }
        } else if fresh || trial.upward {
            trial.below.add(slowness, count(sample.level), 1.0);
            trial.blind = false;
        }
        let enough = self.enough(trial.low, trial.high);
        let done = if trial.upward {
            if fresh {
                trial.take_turns(sample, slowness, enough);
            }
            // Quick batches come back first: the slow ones of the wider window's turn are waited for.
            trial.below.n >= FEW && trial.wide.n >= enough && trial.narrow.n >= 2.0 * enough
        } else {
            trial.below.n >= enough
        };
        self.trial = Some(trial);
        if done && trial.above.n >= enough {
            self.conclude(&trial);
        }
    }

    fn conclude(&mut self, trial: &Trial) {
        self.trial = None;
        let mut queueing = elasticity(&trial.below, &trial.above);
        if trial.upward {
            queueing = queueing.max(elasticity(&trial.narrow, &trial.wide));
        }
        match (trial.upward, queueing > self.bearable()) {
            (true, false) => {
                self.window = trial.high;
                self.failures = self.failures.saturating_sub(1);
                self.patience_up = 0;
            }
            (true, true) => {
                self.failures = (self.failures + 1).min(MOST_FAILURES);
                self.patience_up = self.patience();
            }
            (false, true) => {
                self.window = trial.low;
                self.failures = self.failures.max(1);
                self.patience_up = self.patience();
                self.doubts = 0;
            }
            (false, false) => self.rescale(trial),
        }
    }

    /// The upstream has changed its pace at every level: what was known of the others moves along.
    fn rescale(&mut self, trial: &Trial) {
        let shift = trial.below.slowness - trial.before;
        for level in self
            .levels
            .iter_mut()
            .take(trial.low + 1)
            .filter(|level| level.trial != trial.number)
        {
            level.mean += shift;
        }
        for level in self
            .levels
            .iter_mut()
            .take(trial.low + 1)
            .filter(|level| level.trial == trial.number)
        {
            level.mean = trial.below.slowness;
        }
        self.doubts = (self.doubts + 1).min(MOST_FAILURES);
        self.patience_down = LOOK_EVERY << self.doubts.min(6);
    }

    /// Samples that tell two windows apart through the noise.
    fn enough(&self, low: usize, high: usize) -> f64 {
        let apart = (count(high) / count(low)).ln();
        (self.variance / (0.15 * apart).powi(2)).clamp(10.0, 128.0)
    }

    /// The upstream said that it has too much.
    pub(super) fn back_off(&mut self) {
        self.trial = None;
        self.window = (self.window * 7 / 10).max(1);
        self.failures = (self.failures + 1).min(MOST_FAILURES);
        self.patience_up = self.patience();
    }
}

/// A small count as a float; exact.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn count(n: usize) -> f64 {
    n as f64
}

/// Share of the common slowness that the costs take over with each batch.
const HANDED_OVER: f64 = 0.02;
/// The window tried first.
const FIRST_TRIAL: usize = 4;
/// What is bearable of small batches, and how much more of full ones. Sidecars that share an
/// upstream see but their share of the elasticity that they cause together: hence so little.
const QUEUEING: f64 = 0.25;
const QUEUEING_WHEN_FULL: f64 = 0.35;
/// Batches that a level remembers.
const MEMORY: f64 = 16.0;
/// Samples between two looks at whether the top slots are of use.
const LOOK_EVERY: u32 = 8;
/// Fewest samples of the side that is known already.
const FEW: f64 = 2.0;
/// Limited samples between trials: so many, fourfold with each failure up to so many failures.
const FIRST_PATIENCE: u32 = 4;
const MOST_FAILURES: u32 = 5;
/// Calls queued for less than this share of a batch's time need no further slot, unless more than
/// a few wait for long: fewer, fuller batches are cheaper for everyone.
const WORTH_A_SLOT: f64 = 0.1;
const LONG_WAIT: f64 = 0.3;
const RARE: f64 = 0.01;
