//! The push: a stream of changes to each sidecar, over delta ADS.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jitney_api::Workload;
use jitney_api::push::ads::aggregated_discovery_service_server::AggregatedDiscoveryService;
use jitney_api::push::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use jitney_api::push::{Feed, Kind};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::status::Sidecars;
use crate::store::{Snapshot, Store};

/// Tells whose sidecar is at the other end of a connection. Never by what the sidecar says.
pub trait Authenticate: Send + Sync + fmt::Debug + 'static {
    /// The workload that the connection's certificate names.
    ///
    /// # Errors
    /// What the sidecar is told when there is none.
    fn workload(&self, request: &Request<Streaming<DeltaDiscoveryRequest>>) -> Result<Workload, Status>;
}

/// The service.
#[derive(Debug)]
pub struct Push<A> {
    /// What is pushed.
    pub store: Arc<Store>,
    /// Who it is pushed to.
    pub sidecars: Arc<Sidecars>,
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
        let workload = self.authenticate.workload(&request)?;
        let responses = Responses::new(&self.store, &self.sidecars, workload, request.into_inner());
        Ok(Response::new(responses))
    }
}

/// What one sidecar is sent. All its state is in here, and nothing is queued: it is asked for the
/// next response when the connection has room for it.
#[derive(Debug)]
pub struct Responses<R> {
    requests: R,
    store: Arc<Store>,
    sidecars: Arc<Sidecars>,
    changes: WatchStream<u64>,
    snapshot: Arc<Snapshot>,
    workload: Workload,
    stream: u64,
    feed: Feed,
}

impl<R: Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin> Responses<R> {
    /// A stream that has just been opened by a sidecar of this workload.
    pub fn new(store: &Arc<Store>, sidecars: &Arc<Sidecars>, workload: Workload, requests: R) -> Self {
        // Before the snapshot is taken, so that no change falls between the two.
        let changes = WatchStream::from_changes(store.subscribe());
        Self {
            requests,
            changes,
            snapshot: store.snapshot(),
            stream: sidecars.open(workload.clone()),
            store: Arc::clone(store),
            sidecars: Arc::clone(sidecars),
            workload,
            feed: Feed::new(),
        }
    }

    fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node {
            self.sidecars.named(self.stream, &node.id);
        }
        if let Some(kind) = Kind::of(&request.type_url) {
            let held = request.initial_resource_versions.iter();
            self.sidecars.holds(self.stream, kind, held);
        }
        let answer = self
            .feed
            .request(request, &self.snapshot.to(&self.workload))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.sidecars.answered(self.stream, answer);
        Ok(())
    }

    /// There is another snapshot: what changed is looked at.
    fn catch_up(&mut self) {
        let before = self.snapshot.generation();
        self.snapshot = self.store.snapshot();
        match self.snapshot.since(before) {
            Some(changes) => changes.for_each(|(kind, name)| self.feed.changed(*kind, name)),
            None => self.feed.look_again(&self.snapshot.to(&self.workload)),
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
        while let Poll::Ready(Some(_)) = Pin::new(&mut this.changes).poll_next(cx) {
            this.catch_up();
        }
        match this.feed.poll(&this.snapshot.to(&this.workload)) {
            Some(response) => Poll::Ready(Some(Ok(response))),
            None => Poll::Pending,
        }
    }
}

impl<R> Drop for Responses<R> {
    fn drop(&mut self) {
        self.sidecars.close(self.stream);
    }
}

#[cfg(test)]
mod tests;
