//! Whose the silence of a try is: its endpoint's, unless it waits for the caller, who has not sent all of the
//! request yet. An endpoint must not be taken out for what a caller withholds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batching::alarm::now;
use crate::body::Passing;
use crate::error::{Error, ErrorKind};

/// The silence of one try. Clones are of the same try.
#[derive(Clone, Debug)]
pub(super) struct Silence {
    began: Instant,
    /// When the call's time is up; `None`: that says nothing of the endpoint.
    until: Option<Instant>,
    /// `None`: the body is at hand.
    body: Option<Arc<Passing>>,
}

impl Silence {
    /// Of a try that begins now.
    pub(super) fn begin(until: Option<Instant>, body: Option<&Arc<Passing>>) -> Self {
        if let Some(body) = body {
            body.begin();
        }
        Self {
            began: now(),
            until,
            body: body.cloned(),
        }
    }

    /// Whether the call's time is up, and the endpoint's own silence took nearly all of what the try had of it. If
    /// the caller's part were larger, whoever sends the last byte late could blame an endpoint for what is left.
    pub(super) fn speaks(&self) -> bool {
        let took = self.since().saturating_duration_since(self.began);
        let is_caller_quick = |had: Duration| took <= had / CALLERS_PART;
        self.until.is_some_and(|until| {
            until <= now() && is_caller_quick(until.saturating_duration_since(self.began))
        })
    }

    /// Whether the request is still under way.
    pub(super) fn is_request_open(&self) -> bool {
        Passing::is_open(self.body.as_ref())
    }

    /// A head has come: from now on silence says nothing.
    pub(super) const fn answered(&mut self) {
        self.until = None;
    }

    /// What comes of a try, unless its endpoint is silent for longer than it may.
    ///
    /// # Cancellation
    /// That of the try.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        sent: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let too_long = async {
            loop {
                let end = self.since() + limit;
                if end <= now() {
                    return;
                }
                // What is not due then is waited for once more: nothing needs to wake this as the body passes.
                tokio::time::sleep_until(end.into()).await;
            }
        };
        tokio::select! {
            biased;
            sent = sent => sent,
            () = too_long => Err(ErrorKind::TryTimeout.into()),
        }
    }

    /// Since when nothing is waited for but the endpoint.
    fn since(&self) -> Instant {
        let passing = self.body.as_ref();
        passing.map_or(self.began, |body| body.unawaited_since(self.began))
    }
}

/// Of the time of a try the caller may take one such part to send its body.
const CALLERS_PART: u32 = 10;
