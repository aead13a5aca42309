//! How the body of a reply ended, and who is told: the breaker of its endpoint, and the account of its call.
//! That a head came well says little of an endpoint that breaks off behind it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use http::HeaderMap;
use tokio::time::Sleep;

use super::breaker::Watch;
use crate::batching::alarm::now;
use crate::body::{Body, Passing};

/// How a body ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending<'a> {
    /// It was read to its end, with these trailers if it had some.
    Whole(Option<&'a HeaderMap>),
    /// The stream that it came over broke.
    Broken,
    /// The call's time was up.
    Late,
    /// The call's time was up while what had come waited to be read.
    Unread,
    /// Whoever read it wants no more.
    Left,
}

/// Who is told how a body ended, once.
pub(crate) trait Told: fmt::Debug + Send + Sync {
    /// It ended so.
    fn ended(&mut self, ending: Ending<'_>);
}

/// Who has to be told of one body. What most calls do without is boxed, for bodies are moved about.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) watch: Option<Box<Watch>>,
    pub(super) account: Option<Box<dyn Told>>,
    pub(super) limit: Option<Box<Limit>>,
}

/// When a body has to have come.
#[derive(Debug)]
pub(super) struct Limit {
    until: Instant,
    /// How far the request's body has passed; `None`: it was at hand.
    request: Option<Arc<Passing>>,
    /// For as long as the body has not ended.
    pending: Arc<()>,
    /// Made once the body is waited for.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// When a reply has to have been read, told to whoever passes it on: nobody asks a body that waits for its reader.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) at: Instant,
    pending: Weak<()>,
}

impl Due {
    /// Whether it has not ended yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.strong_count() > 0
    }
}

impl Listeners {
    pub(super) fn tell(&mut self, ending: Ending<'_>) {
        if let Some(mut watch) = self.watch.take() {
            watch.ended(ending);
        }
        if let Some(mut account) = self.account.take() {
            account.ended(ending);
        }
        self.limit = None;
    }
}

impl Limit {
    pub(super) fn new(until: Instant, request: Option<Arc<Passing>>) -> Box<Self> {
        Box::new(Self {
            until,
            request,
            pending: Arc::default(),
            sleep: None,
        })
    }

    /// Both sides of a stream may be what lasts too long.
    pub(super) fn is_request_open(&self) -> bool {
        Passing::is_open(self.request.as_ref())
    }

    pub(super) fn is_over(&self) -> bool {
        self.until <= now()
    }

    pub(super) fn due(&self) -> Due {
        Due {
            at: self.until,
            pending: Arc::downgrade(&self.pending),
        }
    }

    /// Ready once it is reached.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until.into();
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        sleep.as_mut().poll(cx)
    }
}

impl Body {
    /// Has a reply that is still to come end then, if it has not.
    pub(super) fn limit(&mut self, until: Instant, request: Option<Arc<Passing>>) {
        if let Some(lease) = self.lease() {
            lease.limit(until, request);
        }
    }

    /// When a reply that is still to come has to have been read.
    pub(crate) fn due(&mut self) -> Option<Due> {
        self.lease()?.due()
    }

    /// Has the breaker learn how a reply ends: now, if it is at hand.
    pub(super) fn watch(&mut self, mut watch: Watch) {
        match self.lease() {
            Some(lease) => lease.watch(watch),
            None => watch.ended(Ending::Whole(None)),
        }
    }

    /// Has the account of a call learn how its reply ends: now, if it is at hand.
    pub(crate) fn account(&mut self, mut account: impl Told + 'static) {
        let has_ended = http_body::Body::is_end_stream(self);
        match self.lease().filter(|_| !has_ended) {
            Some(lease) => lease.account(Box::new(account)),
            None => account.ended(Ending::Whole(None)),
        }
    }
}
