//! What a call holds of an endpoint while its reply is read: a place in its load, and the connection,
//! which goes back to the pool only when the reply was read to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::runtime::Handle;

use super::breaker::Watch;
use super::ending::{Due, Ending, Limit, Listeners, Told};
use super::endpoint::Endpoint;
use crate::body::{Body, Passing};
use crate::error::Error;
use crate::wire::Budget;

/// One call's hold on an endpoint.
#[derive(Debug)]
pub struct Lease {
    held: Held,
    place: Place,
    listeners: Listeners,
}

/// A call counted into the load of an endpoint and of its backend until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Endpoint>);

#[derive(Debug)]
pub(super) enum Held {
    /// Nothing to give back: the connection ends with the reply.
    Nothing,
    /// The connection, which is closed unless it is given back.
    Http1(SendRequest<Body>),
    /// A stream of a shared connection.
    Http2(Stream),
}

/// A stream counted on its connection until it is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    budget: Budget,
    is_answered: bool,
}

/// How long after its last byte the end of a stream may come.
const END_DUE: Duration = Duration::from_secs(5);

impl Lease {
    pub(super) fn new(held: Held, place: Place) -> Self {
        Self {
            held,
            place,
            listeners: Listeners::default(),
        }
    }

    /// The reply was read to its end: its connection may carry the next call.
    pub(crate) fn give_back(&mut self, trailers: Option<&HeaderMap>) {
        if let Held::Http1(sender) = std::mem::replace(&mut self.held, Held::Nothing) {
            self.place.0.http1.put(sender);
        }
        self.listeners.tell(Ending::Whole(trailers));
    }

    /// All of the reply was read but the end of its stream, which nobody waits for but the connection.
    pub(crate) fn only_ends(&mut self, mut stream: Incoming) {
        self.listeners.tell(Ending::Whole(None));
        let held = std::mem::replace(&mut self.held, Held::Nothing);
        if let Held::Http2(open) = held
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let end = async { while let Some(Ok(_)) = stream.frame().await {} };
                // One that does not come after all is no loss.
                drop(tokio::time::timeout(END_DUE, end).await);
                drop(open);
            });
        }
    }

    /// A piece of so many bytes, not the last, was read of the reply.
    pub(crate) fn was_read(&self, length: usize) {
        if let Held::Http2(stream) = &self.held {
            stream.budget.was_read(length);
        }
    }

    /// The reply broke off.
    pub(crate) fn broke(&mut self) {
        self.place.0.load.failed();
        self.listeners.tell(Ending::Broken);
    }

    /// Ready once the reply has to have come, and has not.
    pub(crate) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = &mut self.listeners.limit else {
            return Poll::Pending;
        };
        let is_request_open = limit.is_request_open();
        limit.poll(cx).map(|()| {
            if !is_request_open {
                self.place.0.load.failed();
            }
            self.listeners.tell(Ending::Late);
        })
    }

    /// Has the reply end then, if it has not.
    pub(super) fn limit(&mut self, until: Instant, request: Option<Arc<Passing>>) {
        self.listeners.limit = Some(Limit::new(until, request));
    }

    pub(super) fn due(&self) -> Option<Due> {
        self.listeners.limit.as_ref().map(|limit| limit.due())
    }

    /// Has the breaker learn how the reply ends.
    pub(super) fn watch(&mut self, watch: Watch) {
        self.listeners.watch = Some(Box::new(watch));
    }

    /// Has the account of the call learn how its reply ends.
    pub(crate) fn account(&mut self, account: Box<dyn Told>) {
        self.listeners.account = Some(account);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let limit = self.listeners.limit.as_ref();
        let is_late = limit.is_some_and(|limit| limit.is_over());
        self.listeners
            .tell(if is_late { Ending::Unread } else { Ending::Left });
    }
}

impl Place {
    /// Takes a place, unless as many requests are in flight to the backend as may be.
    pub(super) fn take(endpoint: &Arc<Endpoint>) -> Result<Self, Error> {
        endpoint.gate.enter()?;
        endpoint.load.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Self(Arc::clone(endpoint)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.gate.leave();
    }
}

impl Stream {
    pub(super) fn open(budget: &Budget) -> Self {
        budget.places().take();
        Self {
            budget: budget.clone(),
            is_answered: false,
        }
    }

    /// The head of a reply came: all of the call's was written.
    pub(super) const fn answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.budget.places().leave(self.is_answered);
    }
}
