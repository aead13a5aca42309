//! Whether a route's batches fail, one after the other, although its calls are answered alone. Callers
//! notice little of that, so that somebody has to be told.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// The batches of a route that failed since one was answered last.
#[derive(Debug, Default)]
pub struct Trouble {
    in_a_row: AtomicU64,
    /// Why the last of them did.
    why: Mutex<String>,
}

impl Trouble {
    /// A batch was answered: the upstream takes batches.
    pub fn answered(&self) {
        // Read first, for a cache line that nobody writes is everybody's.
        if self.in_a_row.load(Relaxed) != 0 {
            self.in_a_row.store(0, Relaxed);
        }
    }

    /// The upstream did not take a batch, and nobody in it is known to be to blame.
    pub fn failed(&self, why: String) {
        *self.why.lock() = why;
        self.in_a_row.fetch_add(1, Relaxed);
    }

    /// Why batches fail; `None` while they do not, or did so a few times only.
    pub fn reason(&self) -> Option<String> {
        (self.in_a_row.load(Relaxed) >= HABIT).then(|| self.why.lock().clone())
    }
}

/// Failures in a row that are no accident. As many make a batch key be held.
const HABIT: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_when_nothing_else_happens_and_is_over_with_a_batch_that_is_answered() {
        let trouble = Trouble::default();
        for number in 0..6 {
            let expected = (number >= HABIT).then(|| format!("status {}", number - 1));
            assert_eq!(trouble.reason(), expected);
            trouble.failed(format!("status {number}"));
        }
        trouble.answered();
        assert_eq!(trouble.reason(), None);
        trouble.failed("once".to_owned());
        assert_eq!(trouble.reason(), None);
    }
}
