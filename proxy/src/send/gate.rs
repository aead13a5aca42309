//! How many requests are in flight to a backend, and the bound on them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Bound, Error, ErrorKind};

/// Requests in flight to a backend, from before they are sent until their replies were read.
#[derive(Debug)]
pub(super) struct Gate {
    in_flight: AtomicUsize,
    most: AtomicUsize,
}

impl Gate {
    /// Nothing in flight, no bound.
    pub(super) const fn open() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
        }
    }

    /// Lets at most so many in from now on; `None`: any number.
    pub(super) fn limit(&self, most: Option<u32>) {
        let most = most.and_then(|most| usize::try_from(most).ok());
        self.most.store(most.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Lets one in, unless the bound is reached.
    pub(super) fn enter(&self) -> Result<(), Error> {
        let most = self.most.load(Ordering::Relaxed);
        let entered = self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < most).then_some(now + 1)
            });
        match entered {
            Ok(_) => Ok(()),
            Err(_) => Err(ErrorKind::Shed(Bound::Requests, RETRY_AFTER).into()),
        }
    }

    /// One has left.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The least that `Retry-After` can say: when a request will be done is not known.
const RETRY_AFTER: Duration = Duration::from_secs(1);
