//! What a batch costs by its size: `t(b) = c0 + c1·b`, per class of calls, learned from every batch.

/// The learned cost of one class, in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct CostModel {
    weight: f64,
    mean_size: f64,
    mean_time: f64,
    size_var: f64,
    covariance: f64,
    /// Batches seen of 1, 2..3, 4..7 items and so on.
    seen: [u8; 12],
}

impl CostModel {
    /// Learns from a batch whose time has been divided by what is usual at its level.
    pub(super) fn learn(&mut self, items: f64, seconds: f64) {
        let seen = &mut self.seen[bucket(items)];
        *seen = seen.saturating_add(1);
        self.weight = (self.weight + 1.0).min(MEMORY);
        let step = 1.0 / self.weight;
        // One stalled batch must not bend the line.
        let known = self
            .expected(items)
            .filter(|_| self.weight > 8.0 && items <= 2.0 * self.mean_size);
        let seconds = known.map_or(seconds, |known| seconds.min(3.0 * known));
        let (dx, dy) = (items - self.mean_size, seconds - self.mean_time);
        self.mean_size += step * dx;
        self.mean_time += step * dy;
        self.size_var += step * (dx * (items - self.mean_size) - self.size_var);
        self.covariance += step * (dx * (seconds - self.mean_time) - self.covariance);
    }

    /// False for sizes that the line was never fitted to: it may be far off there.
    pub(super) fn knows(&self, items: f64) -> bool {
        self.seen[bucket(items)] >= ENOUGH
    }

    /// Everything has become so many times as dear.
    pub(super) fn scale(&mut self, factor: f64) {
        self.mean_time *= factor;
        self.covariance *= factor;
    }

    /// The fixed part and the part per item; `None` before the first batch.
    pub(super) fn parts(&self) -> Option<(f64, f64)> {
        if self.weight == 0.0 {
            return None;
        }
        // Sizes that do not vary say nothing new; both sums fade alike, so the slope stays.
        let slope = if self.size_var > 1e-6 {
            self.covariance / self.size_var
        } else {
            0.0
        };
        let per_item = slope.clamp(0.0, self.mean_time / self.mean_size.max(1.0));
        Some((self.mean_time - per_item * self.mean_size, per_item))
    }

    /// How long a batch of so many items takes.
    pub(super) fn expected(&self, items: f64) -> Option<f64> {
        self.parts().map(|(fixed, per_item)| fixed + per_item * items)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the array"
)]
fn bucket(items: f64) -> usize {
    items.max(1.0).log2().min(11.0) as usize
}

/// Batches of about a size that make it known.
const ENOUGH: u8 = 3;
/// Batches that count.
const MEMORY: f64 = 200.0;
