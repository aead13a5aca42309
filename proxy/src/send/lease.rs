//! What a call holds of an endpoint while its reply is read: a place in its load, and the connection,
//! which goes back to the pool only when the reply was read to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::client::conn::http1::SendRequest;

use super::endpoint::Endpoint;
use crate::body::Body;
use crate::error::Error;

/// One call's hold on an endpoint.
#[derive(Debug)]
pub struct Lease {
    held: Held,
    place: Place,
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
    Http2(#[expect(dead_code, reason = "counts the stream until it is dropped")] Stream),
}

/// A stream counted on its connection until it is dropped.
#[derive(Debug)]
pub(super) struct Stream(Arc<AtomicUsize>);

impl Lease {
    pub(super) const fn new(held: Held, place: Place) -> Self {
        Self { held, place }
    }

    /// The reply was read to its end: its connection may carry the next call.
    pub(crate) fn give_back(&mut self) {
        if let Held::Http1(sender) = std::mem::replace(&mut self.held, Held::Nothing) {
            self.place.0.http1.put(sender);
        }
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
    pub(super) fn open(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
