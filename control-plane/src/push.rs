//! The push: a stream of changes to each sidecar, over delta ADS.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jitney_api::Workload;
use jitney_api::push::ads::aggregated_discovery_service_server::AggregatedDiscoveryService;
use jitney_api::push::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use jitney_api::push::{Answer, Feed, Kind};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

mod admission;
mod arrivals;
mod places;
mod term;

pub use admission::Admission;
pub use arrivals::Arrivals;
use arrivals::Arrived;
pub use places::{NoPlace, Place, Places};
use term::Waiting;
pub use term::{Ending, Term, TermEnd};

use crate::identity::{KeyHash, RootId};
use crate::rollout::Rollouts;
use crate::status::{Connected, Refusals, Sidecars};
use crate::store::{Recipient, Snapshot, Store};

/// Tells whose sidecar is at the other end of a connection. Never by what the sidecar says.
pub trait Authenticate: Send + Sync + fmt::Debug + 'static {
    /// The workload that the connection's certificate names.
    ///
    /// # Errors
    /// What the sidecar is told when there is none.
    fn workload(&self, request: &Request<Streaming<DeltaDiscoveryRequest>>) -> Result<Workload, Status>;

    /// Lets a stream begin; by default whenever there is a workload, and for ever.
    ///
    /// # Errors
    /// What the sidecar is told when it may not.
    fn admit(&self, request: &Request<Streaming<DeltaDiscoveryRequest>>) -> Result<Admitted, Status> {
        self.workload(request).map(Admitted::from)
    }
}

/// A stream that may begin.
#[derive(Debug)]
pub struct Admitted {
    /// Whose sidecar it is.
    pub workload: Workload,
    /// The root that signed its certificate, where there is one.
    pub root: Option<RootId>,
    /// The key that it is for.
    pub key: Option<KeyHash>,
    /// The number of its connection, where that has one.
    pub connection: Option<u64>,
    /// How long it lasts.
    pub term: Term,
    /// What it takes up, and gives back at its end.
    pub room: Option<Room>,
}

/// What a stream takes up.
#[derive(Debug)]
pub struct Room {
    /// Among all streams.
    pub place: Place,
    /// On its connection.
    pub only: OwnedSemaphorePermit,
}

impl From<Workload> for Admitted {
    fn from(workload: Workload) -> Self {
        Self {
            workload,
            root: None,
            key: None,
            connection: None,
            term: Term::default(),
            room: None,
        }
    }
}

/// The service.
#[derive(Debug)]
pub struct Push<A> {
    /// What is pushed.
    pub store: Arc<Store>,
    /// Who it is pushed to.
    pub sidecars: Arc<Sidecars>,
    /// What a rejection may stop.
    pub rollouts: Arc<Rollouts>,
    /// Who comes and goes.
    pub arrivals: Arc<Arrivals>,
    /// Who got no certificate, and has one after all.
    pub refusals: Arc<Refusals>,
    /// How they are told apart.
    pub authenticate: A,
}

#[async_trait]
impl<A: Authenticate> AggregatedDiscoveryService for Push<A> {
    type DeltaAggregatedResourcesStream = Responses<Streaming<DeltaDiscoveryRequest>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let admitted = self.authenticate.admit(&request)?;
        let responses = Responses::new(self, admitted, request.into_inner());
        Ok(Response::new(responses))
    }
}

/// What one sidecar is sent. All its state is in here, and nothing is queued: it is asked for the
/// next response when the connection has room for it.
#[derive(Debug)]
pub struct Responses<R> {
    requests: R,
    store: Arc<Store>,
    rollouts: Arc<Rollouts>,
    changes: WatchStream<u64>,
    term: Waiting,
    snapshot: Arc<Snapshot>,
    /// Without a node before the first request, which comes before anything is sent.
    recipient: Recipient,
    /// Given back before the sidecar is counted no more: fields are dropped in their order.
    _room: Option<Room>,
    sidecar: Connected,
    arrivals: Arc<Arrivals>,
    refusals: Arc<Refusals>,
    /// Since the first request, which says what the node is called. Dropped after the sidecar, so that it is
    /// counted no more when it is said that it has left.
    arrived: Option<Arrived>,
    feed: Feed,
}

impl<R: Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin> Responses<R> {
    /// A stream that has just been opened.
    pub fn new<A>(push: &Push<A>, admitted: Admitted, requests: R) -> Self {
        // Before the snapshot is taken, so that no change falls between the two.
        let changes = WatchStream::from_changes(push.store.subscribe());
        let snapshot = push.store.snapshot();
        let recipient = Recipient {
            workload: admitted.workload.clone(),
            node: String::new(),
        };
        Self {
            requests,
            changes,
            sidecar: push.sidecars.open(&admitted, snapshot.generation()),
            snapshot,
            store: Arc::clone(&push.store),
            rollouts: Arc::clone(&push.rollouts),
            term: admitted.term.wait(),
            recipient,
            arrivals: Arc::clone(&push.arrivals),
            refusals: Arc::clone(&push.refusals),
            arrived: None,
            feed: Feed::new(),
            _room: admitted.room,
        }
    }

    fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        // First, for what it is to be sent may depend on it; and once, as long as the stream lasts.
        if self.arrived.is_none() {
            if let Some(node) = &request.node {
                self.recipient.node = self.sidecar.named(&node.id);
            }
            let Recipient { workload, node } = &self.recipient;
            self.refusals.has_certificate(workload, node);
            self.arrived = Some(self.arrivals.came(&self.recipient));
        }
        let sight = self.snapshot.to(&self.recipient);
        let answer = self
            .feed
            .request(request, &sight)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(kind) = Kind::of(&request.type_url) {
            // What another name stands for as well stays, and is not sent again.
            let is_kept = |name: &str| self.feed.covers(kind, name);
            self.sidecar
                .dropped(kind, &request.resource_names_unsubscribe, is_kept);
            self.sidecar.holds(kind, request.initial_resource_versions.iter());
        }
        if let Answer::Applied { kind, rejected, .. } = &answer {
            self.rollouts.rejected(&sight, *kind, rejected);
        }
        self.sidecar.answered(answer, &sight);
        Ok(())
    }

    /// There is another snapshot: what changed is looked at.
    fn catch_up(&mut self) {
        let before = self.snapshot.generation();
        self.snapshot = self.store.snapshot();
        match self.snapshot.since(before) {
            Some(changes) => changes.for_each(|(kind, name)| self.feed.changed(*kind, name)),
            None => self.feed.look_again(&self.snapshot.to(&self.recipient)),
        }
    }
}

impl<R: Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin> Stream for Responses<R> {
    type Item = Result<DeltaDiscoveryResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match Pin::new(&mut this.requests).poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => {
                    if let Err(status) = this.request(&request) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                // The sidecar has left, or its connection broke.
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(status) = this.term.poll(cx) {
            return Poll::Ready(Some(Err(status)));
        }
        while let Poll::Ready(Some(_)) = Pin::new(&mut this.changes).poll_next(cx) {
            this.catch_up();
        }
        match this.feed.poll(&this.snapshot.to(&this.recipient)) {
            Some(response) => {
                this.sidecar.sent(&response);
                Poll::Ready(Some(Ok(response)))
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
