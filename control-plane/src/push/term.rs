//! When a stream ends from this side: its connection has lived long enough, or the control plane goes
//! away. Its sidecar comes back, to this replica or another one, and is sent nothing that it has.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio_stream::Stream as _;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

/// Why a connection's streams end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is so old that sidecars are to spread over the replicas anew.
    Age,
    /// The control plane goes away.
    Drain,
    /// Other replicas hear nothing of the control plane.
    Apart,
    /// Its certificate has expired, or the root that signed it is trusted no more.
    Certificate,
}

/// Held by a connection; ends its streams.
#[derive(Debug)]
pub struct TermEnd(watch::Sender<Option<Ending>>);

/// Held by whoever is to end with the connection; by default that is never.
#[derive(Clone, Debug, Default)]
pub struct Term(Option<watch::Receiver<Option<Ending>>>);

/// A term as a stream waits for it.
#[derive(Debug)]
pub(super) struct Waiting(Option<WatchStream<Option<Ending>>>);

impl TermEnd {
    /// A term that lasts until [`TermEnd::end`].
    pub fn new() -> (Self, Term) {
        let (end, term) = watch::channel(None);
        (Self(end), Term(Some(term)))
    }

    /// Ends it.
    pub fn end(&self, ending: Ending) {
        self.0.send_replace(Some(ending));
    }
}

impl Term {
    pub(super) fn wait(self) -> Waiting {
        Waiting(self.0.map(WatchStream::new))
    }
}

impl Waiting {
    /// What the sidecar is told when the term has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(term) = &mut self.0 else {
            return Poll::Pending;
        };
        loop {
            match Pin::new(&mut *term).poll_next(cx) {
                Poll::Ready(Some(Some(ending))) => return Poll::Ready(ending.status()),
                Poll::Ready(Some(None)) => {}
                // The connection itself is gone, and the stream with it.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Ending {
    fn status(self) -> Status {
        match self {
            Self::Age => Status::unavailable("the stream has reached its age: connect again"),
            Self::Drain => Status::unavailable("the control plane is going away: connect again"),
            Self::Apart => {
                Status::unavailable("other replicas hear nothing of this one: connect to one of them")
            }
            Self::Certificate => Status::unauthenticated("the certificate is good no more: get another one"),
        }
    }
}
