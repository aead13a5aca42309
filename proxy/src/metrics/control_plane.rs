//! How old what the control plane said may be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The stream to the control plane, if the sidecar is to have one.
#[derive(Debug, Default)]
pub struct ControlPlane {
    /// 0: there is to be none; 1: there is one; else when it was there last, in seconds since the epoch.
    last: AtomicU64,
}

impl ControlPlane {
    /// There is to be one.
    pub fn begin(&self) {
        self.last.store(now(), Ordering::Relaxed);
    }

    /// There is one: what is in force is what the control plane says.
    pub fn connected(&self) {
        self.last.store(1, Ordering::Relaxed);
    }

    /// It is gone: what is in force may grow old.
    pub fn disconnected(&self) {
        self.last.store(now(), Ordering::Relaxed);
    }

    /// Whether there is one, and for how many seconds there was none; `None` when there is to be none.
    pub(super) fn read(&self) -> Option<(i64, i64)> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            1 => Some((1, 0)),
            last => Some((0, i64::try_from(now().saturating_sub(last)).unwrap_or(i64::MAX))),
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(2, |since| since.as_secs().max(2))
}
