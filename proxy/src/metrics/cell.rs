//! The atomic cells that metrics are made of: written by calls without a lock, read by a scrape.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A value that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// A measure that is replaced by a newer one.
#[derive(Debug, Default)]
pub struct Measure(AtomicU64);

impl Measure {
    /// Replaces the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// The value now; 0 at first.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// One counter per value of a closed set of labels: indexing an array, not a map.
#[derive(Debug)]
pub struct Labelled<L: Label> {
    cells: Box<[Counter]>,
    label: std::marker::PhantomData<fn(L)>,
}

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// Every value; `ALL[n].index() == n`.
    const ALL: &'static [Self];
    /// The value's place in [`Label::ALL`].
    fn index(self) -> usize;
    /// The value as it stands in a label.
    fn text(self) -> &'static str;
}

impl<L: Label> Default for Labelled<L> {
    fn default() -> Self {
        Self {
            cells: L::ALL.iter().map(|_| Counter::default()).collect(),
            label: std::marker::PhantomData,
        }
    }
}

impl<L: Label> Labelled<L> {
    /// Adds one to the counter of `label`.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// Adds `n` to the counter of `label`.
    pub fn add(&self, label: L, n: u64) {
        if let Some(cell) = self.cells.get(label.index()) {
            cell.add(n);
        }
    }

    /// The counter of `label` now.
    pub fn value(&self, label: L) -> u64 {
        self.cells.get(label.index()).map_or(0, Counter::value)
    }

    /// Every label with its count.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        L::ALL
            .iter()
            .map(|label| label.text())
            .zip(self.cells.iter().map(Counter::value))
    }

    /// The labels that were counted, with their counts.
    pub fn seen(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.values().filter(|(_, count)| *count > 0)
    }

    /// The sum over all labels.
    pub fn total(&self) -> u64 {
        self.cells.iter().map(Counter::value).sum()
    }
}

/// The upper bounds of a histogram, and how its whole numbers become the exported unit.
#[derive(Debug)]
pub(super) struct Buckets {
    /// Inclusive upper bounds, rising.
    pub(super) bounds: &'static [u64],
    /// What one is in the exported unit: 1e-9 where nanoseconds become seconds.
    pub(super) unit: f64,
}

/// A histogram over whole numbers. Two atomic additions an observation.
#[derive(Debug)]
pub struct Histogram {
    buckets: &'static Buckets,
    /// One per bound, and one for what lies above the last.
    cells: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(buckets: &'static Buckets) -> Self {
        let cells = (0..=buckets.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            buckets,
            cells,
            sum: AtomicU64::new(0),
        }
    }

    /// Records a number.
    pub fn observe(&self, value: u64) {
        let place = self.buckets.bounds.partition_point(|bound| *bound < value);
        if let Some(cell) = self.cells.get(place) {
            cell.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    /// Records a time, in a histogram of nanoseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many observations there are.
    pub fn count(&self) -> u64 {
        self.cells.iter().map(|cell| cell.load(Relaxed)).sum()
    }

    /// The sum of the observations in the exported unit.
    pub fn sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 * self.buckets.unit
    }

    /// The bound (in the exported unit) and the count of each bucket, not cumulated.
    pub(super) fn filled(&self) -> Vec<(f64, u64)> {
        let bounds = self
            .buckets
            .bounds
            .iter()
            .map(|bound| *bound as f64 * self.buckets.unit);
        bounds
            .chain(std::iter::once(f64::INFINITY))
            .zip(self.cells.iter().map(|cell| cell.load(Relaxed)))
            .collect()
    }
}
