//! Waiting for a fact with a deadline, never for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a fact may take on a loaded machine before its absence is a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until `fact` is true.
///
/// # Panics
/// If it is not within [`PATIENCE`]; `what` names it.
#[track_caller]
pub fn until<F: FnMut() -> bool>(what: &str, mut fact: F) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let end = Instant::now() + PATIENCE;
        while !fact() {
            assert!(
                Instant::now() < end,
                "{place}: waited {PATIENCE:?} in vain until {what}"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}
