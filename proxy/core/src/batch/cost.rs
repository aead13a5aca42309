//! What a batch costs when nothing is in its way: `t(b) = c0 + c1·b`, per class of calls.
//!
//! Learned passively from batches that ran alone; the upstream is never drained to measure.

/// The learned cost of one class, in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct CostModel {
    weight: f64,
    mean_size: f64,
    mean_time: f64,
    size_var: f64,
    covariance: f64,
}

impl CostModel {
    /// Learns from a batch that ran alone.
    pub(super) fn learn(&mut self, items: f64, seconds: f64) {
        self.weight = (self.weight * FORGET).min(1.0 / (1.0 - FORGET)) + 1.0;
        let step = 1.0 / self.weight;
        let (dx, dy) = (items - self.mean_size, seconds - self.mean_time);
        self.mean_size += step * dx;
        self.mean_time += step * dy;
        self.size_var += step * (dx * (items - self.mean_size) - self.size_var);
        self.covariance += step * (dx * (seconds - self.mean_time) - self.covariance);
    }

    /// The fixed part and the part per item; `None` before the first lone batch.
    pub(super) fn parts(&self) -> Option<(f64, f64)> {
        if self.weight == 0.0 {
            return None;
        }
        let slope = if self.size_var > 0.01 {
            self.covariance / self.size_var
        } else {
            0.0
        };
        let per_item = slope.clamp(0.0, self.mean_time / self.mean_size.max(1.0));
        Some((self.mean_time - per_item * self.mean_size, per_item))
    }

    /// How long a batch of so many items takes when it runs alone.
    pub(super) fn expected(&self, items: f64) -> Option<f64> {
        self.parts().map(|(fixed, per_item)| fixed + per_item * items)
    }
}

/// Weight that a sample keeps with each later one: about the last 50 count.
const FORGET: f64 = 0.98;
