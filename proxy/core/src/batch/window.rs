//! The learned window: how many batches may be in flight to a backend at once.

/// Vegas on size-normalised latency: keep between [`ALPHA`] and [`BETA`] batches queued upstream.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    window: f64,
    max: f64,
    inflation: f64,
}

impl Controller {
    pub(super) fn new(max: usize) -> Self {
        Self {
            window: 2.0,
            max: count(max.max(1)),
            inflation: 1.0,
        }
    }

    pub(super) fn slots(&self) -> usize {
        whole(self.window)
    }

    pub(super) fn window(&self) -> f64 {
        self.window
    }

    pub(super) fn inflation(&self) -> f64 {
        self.inflation
    }

    /// A batch came back after `ratio` times its cost when alone, sent as the `level`-th in flight.
    pub(super) fn learn(&mut self, ratio: f64, level: usize, limiting: bool) {
        self.inflation = 0.9 * self.inflation + 0.1 * ratio;
        let queued = if self.inflation > 1.0 {
            count(level) * (1.0 - 1.0 / self.inflation)
        } else {
            0.0
        };
        if !limiting {
            return;
        }
        if queued < ALPHA {
            self.window = (self.window + 1.0 / self.window).min(self.max);
        } else if queued > BETA {
            self.window = (self.window - 1.0 / self.window).max(1.0);
        }
    }

    /// The upstream said that it has too much.
    pub(super) fn back_off(&mut self) {
        self.window = (self.window * 0.7).max(1.0);
    }
}

/// A small count as a float; exact.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn count(n: usize) -> f64 {
    n as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 1..=max first"
)]
fn whole(window: f64) -> usize {
    window.max(1.0) as usize
}

const ALPHA: f64 = 0.25;
const BETA: f64 = 0.6;
